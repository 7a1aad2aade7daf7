//! Encrypted connections to collectors.

use std::path::Path;

use wayfare_journey_otlp::{
    ConfigError, Destination, EngineDescription, ExporterConfig, ExporterOptions, Resource,
};
use wayfare_testkit::{OtlpSink, TestAuthority, TlsFront, wait_until};

use crate::rig::{LONG, Rig, collector_with, config};

const PROTOCOLS: [&str; 3] = ["grpc", "http/protobuf", "http/json"];

/// A sink that is reached by TLS, and the files that a client needs.
struct SecureSink {
    sink: OtlpSink,
    authority: TestAuthority,
    directory: tempfile::TempDir,
}

impl SecureSink {
    fn start() -> Self {
        let authority = TestAuthority::generate();
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("ca.pem", authority.certificate_pem()),
            ("client.pem", authority.client_certificate_pem()),
            ("client.key", authority.client_key_pem()),
            ("other-ca.pem", TestAuthority::generate().certificate_pem()),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        Self { sink: OtlpSink::start(), authority, directory }
    }

    fn front(&self, protocol: &str, wants_client_certificate: bool) -> TlsFront {
        let target = if protocol == "grpc" { self.sink.grpc_address() } else { self.sink.http_address() };
        TlsFront::start(target, &self.authority, wants_client_certificate)
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn collector(&self, endpoint: &str, protocol: &str, files: &[(&str, &str)]) -> Destination {
        let files: Vec<_> = files.iter().map(|(variable, name)| (*variable, self.file(name))).collect();
        let files: Vec<_> = files.iter().map(|(variable, path)| (*variable, path.as_str())).collect();
        collector_with(endpoint, protocol, &files)
    }
}

const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
const CLIENT_CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
const CLIENT_KEY: &str = "OTEL_EXPORTER_OTLP_CLIENT_KEY";

#[test]
fn both_spans_arrive_by_tls() {
    for protocol in PROTOCOLS {
        let secure = SecureSink::start();
        let front = secure.front(protocol, false);
        let destination = secure.collector(&front.endpoint(), protocol, &[(CERTIFICATE, "ca.pem")]);
        assert_eq!(
            destination.to_string().split(' ').next(),
            Some(&*front.endpoint())
                .map(|url| { if protocol == "grpc" { url.to_owned() } else { format!("{url}/v1/traces") } })
                .as_deref()
        );
        let rig = Rig::start(config(vec![destination]));
        rig.request("cmpl-1");
        let spans = secure.sink.wait_for(|spans| spans.len() == 2, LONG);
        assert!(spans[1].is_child_of(&spans[0]));
        let report = rig.exporter.shutdown(LONG);
        assert!(report.is_complete(), "{report}");
    }
}

#[test]
fn a_grpc_endpoint_without_a_scheme_is_tls_where_the_user_says_so() {
    let secure = SecureSink::start();
    let front = secure.front("grpc", false);
    let ca = secure.file("ca.pem");
    let variables = [(CERTIFICATE, ca.as_str()), ("OTEL_EXPORTER_OTLP_INSECURE", "false")];
    let rig = Rig::start(config(vec![collector_with(&front.address().to_string(), "grpc", &variables)]));
    rig.request("cmpl-1");
    wait_until(LONG, || rig.exported(0) == 2);
}

#[test]
fn a_client_presents_its_certificate() {
    for protocol in PROTOCOLS {
        let secure = SecureSink::start();
        let front = secure.front(protocol, true);
        let identity =
            [(CERTIFICATE, "ca.pem"), (CLIENT_CERTIFICATE, "client.pem"), (CLIENT_KEY, "client.key")];
        let rig = Rig::start(config(vec![secure.collector(&front.endpoint(), protocol, &identity)]));
        rig.request("cmpl-1");
        wait_until(LONG, || rig.exported(0) == 2);

        let without = secure.collector(&front.endpoint(), protocol, &identity[..1]);
        let rig = Rig::start(config(vec![without]));
        rig.request("cmpl-2");
        let counters = rig.exporter.counters();
        let account = &counters.destinations()[0];
        // The alert comes after the handshake, and gRPC does not always wait for it.
        wait_until(LONG, || {
            account.retries() > 1
                && (protocol == "grpc" || account.failures().get("tls").copied().unwrap_or(0) > 0)
        });
        assert_eq!((account.exported(), secure.sink.spans().len()), (0, 2), "{protocol}");
    }
}

/// Not trusted: nothing is sent, the failure is counted and may pass, and the loss is said at the end.
#[test]
fn a_handshake_that_fails_is_counted_and_sends_nothing() {
    for protocol in PROTOCOLS {
        let secure = SecureSink::start();
        let front = secure.front(protocol, false);
        let not_trusted = secure.collector(&front.endpoint(), protocol, &[(CERTIFICATE, "other-ca.pem")]);
        // The certificate is for 127.0.0.1.
        let other_name = front.endpoint().replace("127.0.0.1", "localhost");
        let other_name = secure.collector(&other_name, protocol, &[(CERTIFICATE, "ca.pem")]);
        let rig = Rig::start(config(vec![not_trusted, other_name]));
        rig.request("cmpl-1");
        let counters = rig.exporter.counters();
        wait_until(LONG, || {
            counters
                .destinations()
                .iter()
                .all(|account| account.failures().get("tls").copied().unwrap_or(0) > 1)
        });
        let report = rig.exporter.shutdown(LONG);
        assert!(report.destinations.iter().all(|one| one.unsent_spans == 2), "{protocol}: {report}");
        assert_eq!(secure.sink.attempts().len(), 0);
    }
}

#[test]
fn a_plain_connection_to_a_tls_port_and_the_reverse_fail() {
    for protocol in PROTOCOLS {
        let secure = SecureSink::start();
        let front = secure.front(protocol, false);
        let plain = front.endpoint().replace("https", "http");
        let endpoint =
            if protocol == "grpc" { secure.sink.grpc_endpoint() } else { secure.sink.http_endpoint() };
        let encrypted = endpoint.replace("http", "https");
        let files = [(CERTIFICATE, "ca.pem")];
        let destinations = [plain, encrypted].map(|url| secure.collector(&url, protocol, &files));
        let rig = Rig::start(config(destinations.to_vec()));
        rig.request("cmpl-1");
        let counters = rig.exporter.counters();
        wait_until(LONG, || counters.destinations().iter().all(|account| account.retries() > 0));
        assert_eq!(secure.sink.attempts().len(), 0);
    }
}

#[test]
fn files_that_cannot_be_used_stop_the_start() {
    let secure = SecureSink::start();
    std::fs::write(secure.directory.path().join("empty.pem"), "").unwrap();
    let missing = secure.file("missing.pem");
    let (ca, client, key, other_ca, empty) = (
        secure.file("ca.pem"),
        secure.file("client.pem"),
        secure.file("client.key"),
        secure.file("other-ca.pem"),
        secure.file("empty.pem"),
    );
    let refusal = |variables: &[(&str, &str)]| -> ConfigError {
        let options = ExporterOptions { traces_endpoint: Some("https://c:4317"), ..Default::default() };
        let resource = Resource::of_this_process("0.0", EngineDescription::default());
        let lookup = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        ExporterConfig::resolve(&options, resource, lookup).unwrap_err()
    };
    for (variables, option, reason) in [
        ([(CERTIFICATE, &*missing), ("", ""), ("", "")], CERTIFICATE, "missing.pem\": No such file"),
        ([(CERTIFICATE, &*empty), ("", ""), ("", "")], CERTIFICATE, "it holds no certificate in PEM form"),
        ([(CERTIFICATE, &*key), ("", ""), ("", "")], CERTIFICATE, "it holds no certificate in PEM form"),
        (
            [(CERTIFICATE, &*ca), (CLIENT_KEY, &*key), ("", "")],
            CLIENT_KEY,
            "set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE too",
        ),
        (
            [(CERTIFICATE, &*ca), (CLIENT_CERTIFICATE, &*client), ("", "")],
            CLIENT_CERTIFICATE,
            "set OTEL_EXPORTER_OTLP_CLIENT_KEY too",
        ),
        (
            [(CERTIFICATE, &*ca), (CLIENT_CERTIFICATE, &*client), (CLIENT_KEY, &*client)],
            CLIENT_KEY,
            "it holds no private key in PEM form",
        ),
        (
            [(CERTIFICATE, &*ca), (CLIENT_CERTIFICATE, &*other_ca), (CLIENT_KEY, &*key)],
            CLIENT_KEY,
            "keys may not be consistent",
        ),
    ] {
        let text = refusal(&variables).to_string();
        assert!(text.starts_with(&format!("{option}: ")) && text.contains(reason), "{text}");
    }
    assert!(Path::new(&ca).exists());
}
