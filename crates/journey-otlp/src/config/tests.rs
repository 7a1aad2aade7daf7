use std::path::Path;
use std::time::Duration;

use super::*;
use crate::EngineDescription;

type Variables<'a> = &'a [(&'a str, &'a str)];

fn resolve(flag: Option<&str>, variables: Variables<'_>) -> Result<ExporterConfig, ConfigError> {
    let options = ExporterOptions { traces_endpoint: flag, ..Default::default() };
    resolve_options(&options, variables)
}

fn resolve_options(
    options: &ExporterOptions<'_>,
    variables: Variables<'_>,
) -> Result<ExporterConfig, ConfigError> {
    let resource = Resource::of_this_process("1.0", EngineDescription::default());
    let lookup =
        |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_string());
    ExporterConfig::resolve(options, resource, lookup)
}

/// The URL that is connected to.
fn target(flag: Option<&str>, variables: Variables<'_>) -> String {
    match resolve(flag, variables).unwrap().destinations.as_slice() {
        [Destination::Collector(collector)] => collector.endpoint.uri().to_string(),
        other => panic!("one collector, not {other:?}"),
    }
}

fn refusal(flag: Option<&str>, variables: Variables<'_>) -> String {
    resolve(flag, variables).unwrap_err().to_string()
}

const HTTP: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");

#[test]
fn an_endpoint_without_a_scheme_is_plain_text() {
    assert_eq!(target(Some("localhost:4317"), &[]), "http://localhost:4317/");
    assert_eq!(target(Some(" http://localhost:4317/ "), &[]), "http://localhost:4317/");
    assert_eq!(target(Some("[::1]:4317"), &[]), "http://[::1]:4317/");
    assert_eq!(target(Some("http://[::1]"), &[]), "http://[::1]/");
}

#[test]
fn the_path_of_traces_is_appended_where_opentelemetry_says_so() {
    let base = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let traces = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    assert_eq!(target(None, &[HTTP, (base, "http://c:4318")]), "http://c:4318/v1/traces");
    assert_eq!(target(None, &[HTTP, (base, "http://c:4318/otlp/")]), "http://c:4318/otlp/v1/traces");
    assert_eq!(target(None, &[HTTP, (base, "http://c:4318/x?key=1")]), "http://c:4318/x/v1/traces?key=1");
    assert_eq!(target(None, &[HTTP, (traces, "http://c:4318")]), "http://c:4318/");
    assert_eq!(target(None, &[HTTP, (traces, "http://c:4318/mine")]), "http://c:4318/mine");
    assert_eq!(target(Some("http://c:4318"), &[HTTP]), "http://c:4318/v1/traces");
    assert_eq!(target(Some("c:4318/"), &[HTTP]), "http://c:4318/v1/traces");
    assert_eq!(target(Some("http://c:4318/mine"), &[HTTP]), "http://c:4318/mine");
    assert_eq!(target(Some("http://c:4318/v1/traces"), &[HTTP]), "http://c:4318/v1/traces");
}

#[test]
fn the_flag_wins_over_the_variables_and_an_empty_variable_is_none() {
    let variables = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:1"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:1"),
    ];
    assert_eq!(target(Some("flag:1"), &variables), "http://flag:1/");
    assert_eq!(target(None, &variables), "http://traces:1/");
    let variables = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", " "), ("OTEL_EXPORTER_OTLP_ENDPOINT", "all:1")];
    assert_eq!(target(None, &variables), "http://all:1/");
}

#[test]
fn the_variable_for_traces_decides_about_the_protocol() {
    let protocol = |variables| match resolve(Some("c:1"), variables).unwrap().destinations.as_slice() {
        [Destination::Collector(collector)] => collector.protocol,
        other => panic!("one collector, not {other:?}"),
    };
    assert_eq!(protocol(&[]), Protocol::Grpc);
    assert_eq!(protocol(&[HTTP]), Protocol::HttpProtobuf);
    assert_eq!(protocol(&[HTTP, ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")]), Protocol::Grpc);
    assert_eq!(protocol(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]), Protocol::HttpJson);
    let message = refusal(Some("c:1"), &[("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/xml")]);
    assert_eq!(
        message,
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: protocol \"http/xml\" is not supported; use grpc, http/protobuf or \
         http/json"
    );
}

#[test]
fn what_cannot_be_reached_is_refused_with_the_option_and_the_reason() {
    for (endpoint, reason) in [
        ("ftp://c:4317", "scheme \"ftp\" is unknown"),
        ("", "is not a usable endpoint"),
        ("http://", "is not a usable endpoint"),
        ("http://:4317", "it names no host"),
        ("c:99999", "the port is not a number"),
        ("c:", "the port is not a number"),
        ("c:port", "is not a usable endpoint"),
        ("c:0", "port 0"),
        ("c:4317/v1/traces", "a gRPC endpoint has no path"),
        ("two words", "is not a usable endpoint"),
        ("user:secret@c:4317", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("[::1", "is not a usable endpoint"),
    ] {
        let message = refusal(Some(endpoint), &[]);
        assert!(message.starts_with("--otlp-traces-endpoint: "), "{message}");
        assert!(message.contains(reason), "{endpoint:?}: {message}");
        assert!(!message.contains("secret"), "{message}");
    }
    let message = refusal(None, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://u:secret@c?key=secret")]);
    assert!(message.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: "), "{message}");
    assert!(!message.contains("secret"), "{message}");
}

#[test]
fn no_destination_is_said_and_a_file_is_one() {
    assert_eq!(resolve(None, &[]).unwrap_err(), ConfigError::NoDestination);
    let path = Path::new("journeys.jsonl");
    let file_only = ExporterOptions { journey_file: Some(path), ..Default::default() };
    let names = |config: ExporterConfig| -> Vec<String> {
        config.destinations.iter().map(ToString::to_string).collect()
    };
    assert_eq!(names(resolve_options(&file_only, &[]).unwrap()), ["journeys.jsonl"]);
    let both = ExporterOptions { traces_endpoint: Some("c:4318/x?key=secret"), ..file_only };
    assert_eq!(
        names(resolve_options(&both, &[HTTP]).unwrap()),
        ["http://c:4318/x (http/protobuf)", "journeys.jsonl"]
    );
}

#[test]
fn headers_and_time_limit_come_from_the_environment() {
    let variables = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, X-Team = c=d ,"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1500"),
    ];
    let config = resolve(Some("c:1"), &variables).unwrap();
    let [Destination::Collector(Collector { headers, timeout, .. })] = config.destinations.as_slice() else {
        panic!("one collector");
    };
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(headers, [("api-key", "a b"), ("x-team", "c=d")]);
    assert_eq!(*timeout, Duration::from_millis(1500));
    assert!(!format!("{config:?}").contains("a b"), "a header's value is not shown");

    for (name, value, reason) in [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "\"soon\" is not a number of milliseconds"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "from 1 to 86400000"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "member 1 of the list is not key=value"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,=secret", "member 2 of the list is not key=value"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret%zz", "write % as %25"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a b=secret", "is not the name of a header"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret%0a", "cannot be sent in a header"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a", "member 1 of the list"),
    ] {
        let message = refusal(Some("c:1"), &[(name, value)]);
        assert!(message.starts_with(name) && message.contains(reason), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
}

#[test]
fn the_service_name_of_its_own_variable_wins() {
    let attribute = |variables: Variables<'_>, key: &str| {
        let message = resolve(Some("c:1"), variables).unwrap().resource.to_message();
        let found = message.attributes.into_iter().find(|attribute| attribute.key == key)?;
        Some(format!("{:?}", found.value?.value?))
    };
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=listed,deployment=blue%2Cgreen");
    assert_eq!(attribute(&[], "service.name").unwrap(), "StringValue(\"wayfare\")");
    assert_eq!(attribute(&[attributes], "service.name").unwrap(), "StringValue(\"listed\")");
    assert_eq!(attribute(&[attributes], "deployment").unwrap(), "StringValue(\"blue,green\")");
    let named = [attributes, ("OTEL_SERVICE_NAME", "named")];
    assert_eq!(attribute(&named, "service.name").unwrap(), "StringValue(\"named\")");
}

proptest::proptest! {
    #[test]
    fn no_value_panics(flag in ".{0,60}", headers in ".{0,60}") {
        let _ = resolve(Some(&flag), &[HTTP, ("OTEL_EXPORTER_OTLP_HEADERS", &headers)]);
        let _ = resolve(Some(&flag), &[("OTEL_RESOURCE_ATTRIBUTES", &headers)]);
    }
}

/// Everything that a variable can change, each set to what is documented as its default.
#[test]
fn the_documented_defaults_are_those_of_the_code() {
    for variable in Variable::ALL {
        let Some(default) = variable.default else { continue };
        for name in variable.names {
            let mut with = resolve(Some("c:1"), &[(name, default)]).unwrap();
            let mut without = resolve(Some("c:1"), &[]).unwrap();
            let attributes =
                [&with, &without].map(|config| config.resource.to_message().attributes[0].clone());
            assert_eq!(attributes[0], attributes[1], "{name}");
            // An instance has an id of its own, and a name may be set to what it is.
            with.resource.extra.clear();
            with.resource.service_instance_id.clear();
            without.resource.service_instance_id.clear();
            assert_eq!(with, without, "{name}={default}");
        }
    }
}

#[test]
fn the_variables_that_are_looked_up_are_those_of_the_list() {
    let looked_up = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let note = |set: &'static [(&str, &str)]| {
        let looked_up = &looked_up;
        move |name: &str| {
            looked_up.borrow_mut().insert(name.to_owned());
            set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        }
    };
    let resource = || Resource::of_this_process("1.0", EngineDescription::default());
    let options = ExporterOptions::default();
    is_disabled(note(&[])).unwrap();
    ExporterConfig::resolve(&options, resource(), note(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "c:1")])).unwrap();
    // Only an encrypted connection needs certificates; the path does not exist.
    let encrypted = &[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c"), ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/-")];
    assert!(ExporterConfig::resolve(&options, resource(), note(encrypted)).is_err());
    let listed: std::collections::BTreeSet<_> =
        Variable::ALL.iter().flat_map(|variable| variable.names).map(|name| (*name).to_owned()).collect();
    assert_eq!(looked_up.into_inner(), listed);
}

#[test]
fn the_page_lists_the_variables() {
    let rows = Variable::ALL.iter().map(|variable| {
        let names = variable.names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let default = variable.default.map_or_else(|| "–".to_owned(), |default| format!("`{default}`"));
        format!("| {names} | {default} | {} |\n", variable.meaning)
    });
    let page = "# Environment variables of OpenTelemetry\n\n\
         Made from `crates/journey-otlp/src/config/variables.rs` by a test; `UPDATE_EXPECT=1 cargo test -p \
         wayfare-journey-otlp` rewrites it.\n\n\
         These are honoured when journeys are recorded (`--enable-journey-tracing`). Where two are named, the \
         first that is set counts; an empty one counts as not set. A value that cannot be used stops the start: \
         the log names the variable and says why, and the exit code is 2. Values of headers are never shown.\n\n\
         | variable | default | meaning |\n|---|---|---|\n"
        .to_owned()
        + &rows.collect::<String>();
    expect_test::expect_file!["../../../../docs/otel-environment.md"].assert_eq(&page);
}

#[test]
fn sizes_times_and_limits_come_from_the_environment() {
    let config = resolve(
        Some("c:1"),
        &[
            ("OTEL_BSP_SCHEDULE_DELAY", "5000"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "30000"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "2048"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", " 100 "),
            ("OTEL_ATTRIBUTE_COUNT_LIMIT", "7"),
            ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "8"),
            ("OTEL_SPAN_EVENT_COUNT_LIMIT", "9"),
            ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "10"),
        ],
    )
    .unwrap();
    assert_eq!(config.schedule_delay, Duration::from_secs(5));
    assert_eq!(config.retry.give_up_after, Duration::from_secs(30));
    assert_eq!((config.queue_capacity, config.max_pending_spans, config.max_batch_spans), (2048, 2048, 100));
    let limits =
        SpanLimits { span_attributes: 7, span_events: 9, event_attributes: 8, value_characters: Some(10) };
    assert_eq!(config.limits, limits);
    let small = resolve(Some("c:1"), &[("OTEL_BSP_MAX_QUEUE_SIZE", "50")]).unwrap();
    assert_eq!(small.max_batch_spans, 50, "the usual batch is no larger than the queue");
}

#[test]
fn what_a_variable_cannot_be_is_refused_by_name() {
    for (name, value, reason) in [
        ("OTEL_BSP_SCHEDULE_DELAY", "0", "\"0\" is not a number of milliseconds from 1 to 86400000"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "-1", "is not a number of milliseconds"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999999999999", "is not a number of spans from 1 to 1048576"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "20000", "is more than the queue holds (16384"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "many", "is not a number of events"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "1.5", "is not a number of attributes"),
        ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "x", "is not a number of characters"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "use gzip or none"),
        ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "yes", "is neither true nor false"),
    ] {
        let message = refusal(Some("c:1"), &[(name, value)]);
        assert!(message.starts_with(&format!("{name}: ")) && message.contains(reason), "{message}");
    }
    let disabled = |value: &'static str| is_disabled(move |_| Some(value.to_owned()));
    assert_eq!(disabled("TRUE"), Ok(true));
    assert_eq!(disabled("false"), Ok(false));
    assert_eq!(disabled(""), Ok(false));
    assert_eq!(disabled("1").unwrap_err().to_string(), "OTEL_SDK_DISABLED: \"1\" is neither true nor false");
}
