//! W3C trace context, in and out.

use std::time::Duration;

use wayfare_testkit::OtlpSink;

use crate::client::{chat, post};
use crate::server::ServerProcess;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_callers_trace_goes_on_and_a_broken_header_starts_a_new_one() {
    let sink = OtlpSink::start();
    let endpoint = sink.grpc_endpoint();
    let server =
        ServerProcess::start(&["sim", "--enable-journey-tracing", "--otlp-traces-endpoint", &endpoint]);
    let ask = |headers: &[(&str, &str)]| {
        let response = post(&server.address, "/v1/chat/completions", headers, &chat("hello", 2, false));
        assert_eq!(response.status, 200, "{}", response.body);
        response.header("traceresponse").to_owned()
    };
    let sampled = format!("00-{TRACE}-{SPAN}-01");
    let unsampled = format!("00-{TRACE}-{SPAN}-00");
    let continued = ask(&[("TraceParent", &sampled), ("tracestate", "vendor=1"), ("X-Request-Id", "mine")]);
    let restarted = ask(&[("traceparent", "00-broken"), ("x-request-id", "other")]);
    let unrecorded = ask(&[("traceparent", &unsampled), ("x-vllm-journey-sampled", "1")]);

    assert!(continued.starts_with(&format!("00-{TRACE}-")) && continued.ends_with("-01"), "{continued}");
    assert!(!restarted.contains(TRACE) && restarted.ends_with("-03"), "{restarted}");
    assert!(unrecorded.contains(TRACE) && unrecorded.ends_with("-00"), "{unrecorded}");

    sink.wait_for_spans("llm_core", 2, PATIENCE);
    let spans = sink.wait_for_spans("llm_request", 2, PATIENCE);
    assert_eq!(spans.len(), 4, "the unsampled request left a span");
    let request = |id: &str| {
        let of_id = |span: &&wayfare_testkit::SpanView| span.text("gen_ai.request.id") == Some(id);
        spans.iter().filter(|span| span.name == "llm_request").find(of_id).unwrap()
    };
    let mine = request("chatcmpl-mine");
    assert_eq!(mine.trace_id, TRACE);
    assert_eq!(mine.parent_span_id.as_deref(), Some(SPAN));
    assert_eq!(mine.trace_state, "vendor=1");
    assert!(continued.contains(&mine.span_id), "the response names our span");
    assert_eq!(request("chatcmpl-other").parent_span_id, None);
    for core in spans.iter().filter(|span| span.name == "llm_core") {
        assert!(core.is_child_of(request(core.text("gen_ai.request.id").unwrap())));
    }
}
