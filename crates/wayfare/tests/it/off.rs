//! Without the flag nothing is traced.

use std::time::Duration;

use wayfare_testkit::OtlpSink;

use crate::client::{chat, get, post};
use crate::server::ServerProcess;

/// Longer than the exporter waits before it sends.
const EXPORT_INTERVAL: Duration = Duration::from_secs(1);

#[test]
fn the_same_traffic_leaves_no_span_and_no_file_and_says_that_the_flag_is_missing() {
    let sink = OtlpSink::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journeys.jsonl");
    let server = ServerProcess::start(&[
        "sim",
        "--otlp-traces-endpoint",
        &sink.grpc_endpoint(),
        "--journey-file",
        &path.to_string_lossy(),
    ]);
    for stream in [false, true] {
        let response = post(&server.address, "/v1/chat/completions", &[], &chat("hello", 5, stream));
        assert_eq!(response.status, 200);
        assert!(response.headers.get("traceresponse").is_none());
        assert!(!response.header("x-request-id").is_empty());
    }
    let metrics = get(&server.address, "/metrics").body;
    assert!(
        metrics.contains("vllm:generation_tokens_total{model_name=\"sim\",engine=\"0\"} 10"),
        "{metrics}"
    );
    std::thread::sleep(EXPORT_INTERVAL);
    assert!(sink.requests().is_empty());
    assert!(!path.exists());
    let ended = server.stop();
    assert!(ended.status.success());
    for option in ["--otlp-traces-endpoint", "--journey-file"] {
        let warned = ended.log.lines().any(|line| {
            line.contains("WARN") && line.contains(option) && line.contains("--enable-journey-tracing")
        });
        assert!(warned, "{}", ended.log);
    }
}
