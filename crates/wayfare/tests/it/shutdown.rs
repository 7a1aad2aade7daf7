//! Signals.

use rustix::process::Signal;
use wayfare_insight::{ApiEventKind, read_journeys};

use crate::client::{get, stream};
use crate::server::ServerProcess;

/// A simulated answer of 150 tokens, about a second long.
const BODY: &str = r#"{"messages":[{"role":"user","content":"hello"}],"max_tokens":150,"stream":true}"#;
const ROUTE: &str = "/v1/chat/completions";

#[test]
fn sigterm_and_ctrl_c_let_requests_end_and_write_every_journey_down() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journeys.jsonl");
        let mut server = ServerProcess::start(&[
            "sim",
            // Debug builds look at every block after every step.
            "--num-kv-blocks",
            "256",
            "--enable-journey-tracing",
            "--journey-file",
            &path.to_string_lossy(),
        ]);
        let data = stream(&server.address, ROUTE, BODY, || server.signal(signal));
        assert_eq!(data.last().map(String::as_str), Some("[DONE]"));
        assert!(data[data.len() - 2].contains(r#""finish_reason":"length""#));
        let ended = server.wait();
        assert!(ended.status.success(), "{}", ended.log);
        let journeys = read_journeys(&*std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(journeys.len(), 1);
        let request = journeys[0].request.as_ref().unwrap();
        assert!(matches!(request.ending().unwrap().kind, ApiEventKind::Departed { .. }));
        assert_eq!(journeys[0].cores.len(), 1);
    }
}

#[test]
fn a_request_that_outlasts_the_drain_time_is_ended_with_an_error_frame() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journeys.jsonl");
    let mut server = ServerProcess::start(&[
        "sim",
        "--num-kv-blocks",
        "256",
        "--shutdown-timeout",
        "0.2",
        "--enable-journey-tracing",
        "--journey-file",
        &path.to_string_lossy(),
    ]);
    let data = stream(&server.address, ROUTE, BODY, || server.signal(Signal::TERM));
    assert_eq!(data.last().map(String::as_str), Some("[DONE]"));
    assert!(data[data.len() - 2].contains("error"), "{data:?}");
    assert!(server.wait().status.success());
    let journeys = read_journeys(&*std::fs::read(&path).unwrap()).unwrap();
    let request = journeys[0].request.as_ref().unwrap();
    let ApiEventKind::Aborted { reason, .. } = &request.ending().unwrap().kind else { panic!("departed") };
    assert_eq!(&**reason, "shutdown");
    assert_eq!(journeys[0].cores.len(), 1);
}

#[test]
fn health_is_good_while_serving() {
    let server = ServerProcess::start(&["sim"]);
    assert_eq!(get(&server.address, "/health").status, 200);
    let models = get(&server.address, "/v1/models").json();
    assert_eq!(models["data"][0]["id"], "sim");
}
