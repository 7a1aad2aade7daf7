//! A real request's journey arrives, over each of the ways out.

use std::time::Duration;

use wayfare_insight::{ApiEventKind, CoreEventKind, read_journeys};
use wayfare_testkit::{AttributeValue, OtlpSink, SpanView};

use crate::arrived::ledger_ns;
use crate::client::{chat, completion, post};
use crate::server::{ServerProcess, command};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const PATIENCE: Duration = Duration::from_secs(20);

/// Requests of each kind: (path, body, status).
fn requests() -> Vec<(&'static str, String, u16)> {
    vec![
        (CHAT, chat("What is the capital of France?", 24, false), 200),
        (CHAT, chat("What is the capital of France?", 24, true), 200),
        (COMPLETIONS, completion("The sea is", 6, false), 200),
        (COMPLETIONS, completion("The sea is", 6, true), 200),
        (COMPLETIONS, r#"{"model": "no-such-model", "prompt": "x"}"#.into(), 404),
        (CHAT, "{".into(), 400),
    ]
}

fn send_all(address: &str) {
    for (path, body, status) in requests() {
        let response = post(address, path, &[], &body);
        assert_eq!(response.status, status, "{}", response.body);
    }
}

fn assert_journeys(spans: &[SpanView]) {
    let named = |name: &str| -> Vec<&SpanView> { spans.iter().filter(|span| span.name == name).collect() };
    let (requests, cores) = (named("llm_request"), named("llm_core"));
    assert_eq!((requests.len(), cores.len()), (6, 4));
    for request in &requests {
        let failed = request.int("http.response.status_code") != Some(200);
        assert_eq!(request.scope, "vllm.api");
        assert_eq!(request.parent_span_id, None);
        assert!(request.duplicate_keys.is_empty());
        let mine: Vec<_> = cores.iter().filter(|core| core.is_child_of(request)).collect();
        assert_eq!(mine.len(), usize::from(!failed));
        if failed {
            assert_eq!(request.event_names(), ["api.ARRIVED", "api.ABORTED"]);
            assert_eq!(request.event("api.ABORTED").unwrap().text("reason"), Some("validation_error"));
            continue;
        }
        let core = mine[0];
        assert_eq!(
            request.event_names(),
            ["api.ARRIVED", "api.HANDOFF_TO_CORE", "api.FIRST_RESPONSE_FROM_CORE", "api.DEPARTED"]
        );
        assert_eq!(
            core.event_names(),
            ["journey.QUEUED", "journey.SCHEDULED", "journey.FIRST_TOKEN", "journey.FINISHED"]
        );
        assert_eq!(core.scope, "vllm.scheduler");
        assert_eq!(core.text("gen_ai.request.id"), request.text("gen_ai.request.id"));
        assert_one_clock(request, core);
        assert_core_attributes(request, core);
    }
}

/// All events of both spans, in the order in which they must have happened, by their monotonic times.
fn assert_one_clock(request: &SpanView, core: &SpanView) {
    let api = |name: &str| request.event(name).unwrap().int("ts.monotonic_ns").unwrap();
    let inner = |name: &str| core.event(name).unwrap().int("ts.monotonic_ns").unwrap();
    let chain = [
        api("api.ARRIVED"),
        inner("journey.QUEUED"),
        inner("journey.SCHEDULED"),
        inner("journey.FIRST_TOKEN"),
        api("api.FIRST_RESPONSE_FROM_CORE"),
        api("api.DEPARTED"),
    ];
    assert!(chain.is_sorted(), "{chain:?}");
    assert!(request.start_unix_ns <= core.start_unix_ns);
    for span in [request, core] {
        assert!(span.events.iter().all(|e| (span.start_unix_ns..=span.end_unix_ns).contains(&e.unix_ns)));
    }
}

fn assert_core_attributes(request: &SpanView, core: &SpanView) {
    let prompt_tokens = request.int("gen_ai.usage.prompt_tokens").unwrap();
    let completion_tokens = request.int("gen_ai.usage.completion_tokens").unwrap();
    let finished = core.event("journey.FINISHED").unwrap();
    assert_eq!(finished.int("prefill.done_tokens"), Some(prompt_tokens));
    assert_eq!(finished.int("prefill.total_tokens"), Some(prompt_tokens));
    assert_eq!(finished.int("decode.done_tokens"), Some(completion_tokens));
    assert_eq!(finished.int("num_preemptions"), Some(0));
    assert_eq!(finished.text("event.type"), Some("FINISHED"));
    let scheduled = core.event("journey.SCHEDULED").unwrap();
    assert_eq!(scheduled.text("schedule.kind"), Some("FIRST"));
    let cached_tokens = scheduled.int("cached_tokens").unwrap();
    assert_eq!(scheduled.int("scheduled_tokens"), Some(prompt_tokens - cached_tokens));
    assert_eq!(request.int("gen_ai.usage.cache_read.input_tokens"), Some(cached_tokens));
    assert_eq!(request.int("journey.tokens.cached"), Some(cached_tokens));
    for span in [request, core] {
        assert_eq!(ledger_ns(span), span.end_unix_ns - span.start_unix_ns);
    }
    for event in &core.events {
        for (key, is_right) in [
            ("event.type", matches!(event.attributes.get("event.type"), Some(AttributeValue::Text(_)))),
            ("ts.monotonic", matches!(event.attributes.get("ts.monotonic"), Some(AttributeValue::Double(_)))),
            ("ts.monotonic_ns", event.int("ts.monotonic_ns").is_some()),
            ("scheduler.step", event.int("scheduler.step").is_some()),
            ("phase", event.text("phase").is_some()),
            ("decode.max_tokens", event.int("decode.max_tokens").is_some()),
        ] {
            assert!(is_right, "{key} of {} is missing or has the wrong type", event.name);
        }
    }
    assert_eq!(request.text("http.route").map(|route| route.starts_with("/v1/")), Some(true));
    assert_eq!(request.text("gen_ai.response.model"), Some("SmolLM2-135M-Instruct"));
    assert_eq!(request.attributes.get("gen_ai.request.temperature"), Some(&AttributeValue::Double(0.0)));
    assert_eq!(request.resource.get("service.name"), Some(&"wayfare".into()));
    assert_eq!(request.resource.get("wayfare.block_size"), Some(&AttributeValue::Int(16)));
}

#[test]
fn over_grpc() {
    let sink = OtlpSink::start();
    let server = ServerProcess::start(&[
        "--enable-journey-tracing",
        "--otlp-traces-endpoint",
        &sink.grpc_endpoint(),
        "--max-model-len",
        "512",
    ]);
    send_all(&server.address);
    sink.wait_for_spans("llm_request", 6, PATIENCE);
    sink.wait_for_spans("llm_core", 4, PATIENCE);
    assert_journeys(&sink.spans());
}

#[test]
fn over_http() {
    let sink = OtlpSink::start();
    let server = ServerProcess::spawn(
        command(&["--enable-journey-tracing", "--max-model-len", "512"])
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", sink.http_endpoint()),
    );
    send_all(&server.address);
    sink.wait_for_spans("llm_request", 6, PATIENCE);
    sink.wait_for_spans("llm_core", 4, PATIENCE);
    assert_journeys(&sink.spans());
}

#[test]
fn into_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journeys.jsonl");
    let server = ServerProcess::start(&[
        "--enable-journey-tracing",
        "--journey-file",
        &path.to_string_lossy(),
        "--max-model-len",
        "512",
    ]);
    send_all(&server.address);
    assert!(server.stop().status.success());
    let journeys = read_journeys(&*std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(journeys.len(), 6);
    for journey in &journeys {
        let request = journey.request.as_ref().unwrap();
        let departed = matches!(request.ending().unwrap().kind, ApiEventKind::Departed { .. });
        assert_eq!(journey.cores.len(), usize::from(departed));
        for core in &journey.cores {
            assert_eq!(core.parent, Some(request.span_id));
            assert!(matches!(core.events.first().unwrap().kind, CoreEventKind::Queued));
            assert!(matches!(core.events.last().unwrap().kind, CoreEventKind::Finished { .. }));
        }
    }
}
