//! The step stream of the built program, beside its journeys.

use std::collections::BTreeSet;
use std::time::Duration;

use wayfare_testkit::{OtlpSink, SpanView, wait_until};

use crate::client::{completion, post};
use crate::server::{ServerProcess, failed_start, simulated};

const PATIENCE: Duration = Duration::from_secs(20);

fn complete(server: &ServerProcess, max_tokens: u32) {
    let response = post(&server.address, "/v1/completions", &[], &completion("Hi", max_tokens, false));
    assert_eq!(response.status, 200, "{}", response.body);
}

fn steps_of(span: &SpanView) -> (i64, i64) {
    let step = |end: &str| span.int(&format!("scheduler.step_range_{end}")).unwrap();
    (step("start"), step("end"))
}

#[test]
fn steps_and_journeys_can_be_joined() {
    let sink = OtlpSink::start();
    let server = ServerProcess::simulated(
        &[
            "--enable-journey-tracing",
            "--otlp-traces-endpoint",
            &sink.grpc_endpoint(),
            "--step-tracing-enabled",
            "--step-tracing-sample-rate",
            "1",
            "--step-tracing-rich-subsample-rate",
            "1",
            "--step-tracing-closure-interval",
            "10",
        ],
        &[],
    );
    complete(&server, 25);
    // Two are full; the third is closed when the engine has been idle for a second.
    let mut spans = Vec::new();
    wait_until(PATIENCE, || {
        spans = sink.spans().into_iter().filter(|span| span.scope == "vllm.scheduler.step").collect();
        spans.len() == 3
    });
    spans.sort_by_key(steps_of);
    assert_eq!(spans.iter().map(steps_of).collect::<Vec<_>>(), [(1, 10), (11, 20), (21, 25)]);
    let events = |name: &'static str| {
        let all = spans.iter().flat_map(|span| &span.events);
        all.filter(move |event| event.name == name)
    };
    let summarised: BTreeSet<i64> =
        events("step.BATCH_SUMMARY").map(|event| event.int("step.id").unwrap()).collect();
    assert_eq!(summarised, (1..=25).collect());

    let core = sink
        .wait_for_spans("llm_core", 1, PATIENCE)
        .into_iter()
        .find(|span| span.name == "llm_core")
        .unwrap();
    assert_eq!(core.int("wayfare.engine_id"), spans[0].int("wayfare.engine_id"));
    for event in core.events.iter().filter(|event| event.name != "journey.QUEUED") {
        let step = event.int("scheduler.step").unwrap();
        let snapshot = events("step.REQUEST_SNAPSHOT").find(|snapshot| snapshot.int("step.id") == Some(step));
        assert_eq!(snapshot.unwrap().text("request.id"), core.text("gen_ai.request.id"), "{}", event.name);
    }
}

#[test]
fn steps_need_no_journeys_and_end_with_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("steps.jsonl");
    let server = ServerProcess::simulated(
        &[
            "--step-tracing-enabled",
            "--step-tracing-sample-rate",
            "1",
            "--journey-file",
            file.to_str().unwrap(),
        ],
        &[],
    );
    complete(&server, 5);
    let ended = server.stop();
    assert!(ended.status.success(), "{}", ended.log);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("scheduler_steps_1") && !text.contains("llm_request"), "{text}");
    // Whoever looks for journeys in the file passes over them.
    assert_eq!(wayfare_insight::read_journeys(text.as_bytes()).unwrap(), []);
}

#[test]
fn steps_that_nobody_would_see_are_said_so() {
    let server = ServerProcess::simulated(&["--step-tracing-enabled"], &[]);
    complete(&server, 1);
    assert!(server.log().contains("nothing would see the steps"), "{}", server.log());
}

#[test]
fn bad_options_stop_the_start() {
    for (option, value) in [
        ("--step-tracing-sample-rate", "1.5"),
        ("--step-tracing-rich-subsample-rate", "-1"),
        ("--step-tracing-closure-interval", "9"),
        ("--step-tracing-closure-interval", "10001"),
    ] {
        let argument = format!("{option}={value}");
        let ended = failed_start(&mut simulated(&[&argument], &[]));
        assert_eq!(ended.status.code(), Some(2), "{}", ended.log);
        assert!(ended.log.contains(option), "{option}: {}", ended.log);
    }
}
