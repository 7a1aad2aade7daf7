//! The file of OTLP/JSON lines.

use std::path::Path;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use wayfare_journey::{MonoNs, WallAnchor};
use wayfare_journey_otlp::{Destination, Exporter, FileRotation, StartError};
use wayfare_testkit::{OtlpSink, wait_until};

use crate::rig::{LONG, Rig, collector, config};

fn file(path: &Path) -> Destination {
    let rotation = FileRotation::default();
    Destination::File { path: path.to_path_buf(), rotation, option: "--journey-file" }
}

#[test]
fn a_line_holds_exactly_what_a_collector_gets() {
    let sink = OtlpSink::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journeys.jsonl");
    let rig = Rig::start(config(vec![file(&path), collector(&sink.grpc_endpoint(), "grpc")]));
    for number in 1..=3 {
        rig.request("cmpl-\u{1f}\"ü");
        wait_until(LONG, || rig.exported(0) == 2 * number && rig.exported(1) == 2 * number);
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.ends_with('\n'));
    let lines: Vec<ExportTraceServiceRequest> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, sink.requests());
}

#[test]
fn a_line_has_the_shape_that_collectors_write() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journeys.jsonl");
    let rig = Rig::start(config(vec![file(&path)]));
    rig.request("cmpl-1");
    wait_until(LONG, || rig.exported(0) == 2);
    let line: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();

    let scopes = &line["resourceSpans"][0]["scopeSpans"];
    assert_eq!(scopes[0]["scope"], serde_json::json!({"name": "vllm.api"}));
    let (request, core) = (&scopes[0]["spans"][0], &scopes[1]["spans"][0]);
    assert_eq!(request["kind"], 2);
    assert_eq!(request["startTimeUnixNano"], "1700000000000000010");
    assert_eq!(request["status"], serde_json::json!({}));
    assert_eq!(request.get("parentSpanId"), None);
    assert_eq!(core["parentSpanId"], request["spanId"]);
    let id = request["traceId"].as_str().unwrap();
    assert!(id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{id}");
    let queued = &core["events"][0];
    assert_eq!(queued["name"], "journey.QUEUED");
    assert_eq!(
        queued["attributes"][0],
        serde_json::json!({"key": "event.type", "value": {"stringValue": "QUEUED"}})
    );
    assert_eq!(
        queued["attributes"][2],
        serde_json::json!({"key": "ts.monotonic_ns", "value": {"intValue": "12"}})
    );
}

#[test]
fn a_file_is_appended_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journeys.jsonl");
    for _ in 0..2 {
        let rig = Rig::start(config(vec![file(&path)]));
        rig.request("cmpl-1");
        assert!(rig.exporter.shutdown(LONG).is_complete());
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
}

#[test]
fn a_file_that_cannot_be_written_stops_the_start() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().to_path_buf(), directory.path().join("missing/journeys.jsonl")] {
        let error = Exporter::start(config(vec![file(&path)]), WallAnchor::new(MonoNs(0), 0)).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("--journey-file: cannot write"), "{text}");
        assert!(matches!(error, StartError::OpenFile { .. }));
    }
}

/// A runtime must not be dropped in a runtime.
#[tokio::test]
async fn a_start_that_fails_in_a_runtime_is_an_error_too() {
    let nowhere = Path::new("/nonexistent/journeys.jsonl");
    assert!(Exporter::start(config(vec![file(nowhere)]), WallAnchor::new(MonoNs(0), 0)).is_err());
}

/// A device that is always full takes nothing; the exporter counts that and goes on.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_counted() {
    use wayfare_journey_otlp::DropCause;

    let rig = Rig::start(config(vec![file(Path::new("/dev/full"))]));
    rig.request("cmpl-1");
    wait_until(LONG, || rig.dropped(0, DropCause::GaveUp) == 2);
    rig.request("cmpl-2");
    wait_until(LONG, || rig.dropped(0, DropCause::GaveUp) == 4);
}
