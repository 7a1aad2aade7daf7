//! `GET /journeys/{id}`, and what a journey looks like.

use serde_json::{Value, json};
use wayfare_journey::AbortReason;

use crate::rig::{Made, Rig, TRACE_ID};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn a_journey_is_found_by_response_id_request_id_and_trace_id() {
    let rig = Rig::new();
    rig.make(Made { label: "chatcmpl-one", traceparent: Some(TRACEPARENT), ..Made::default() });
    rig.make(Made { label: "cmpl-two", traceparent: Some(TRACEPARENT), ..Made::default() });
    rig.make(Made { label: "cmpl-a/b c", ..Made::default() });
    assert_eq!(rig.ids("/journeys/chatcmpl-one").await, ["chatcmpl-one"]);
    assert_eq!(rig.ids("/journeys/two").await, ["cmpl-two"]);
    assert_eq!(rig.ids("/journeys/a%2Fb%20c").await, ["cmpl-a/b c"]);
    assert_eq!(rig.ids(&format!("/journeys/{TRACE_ID}")).await, ["cmpl-two", "chatcmpl-one"]);
    for unknown in ["three", "chatcmpl", "%ff", "00000000000000000000000000000000", "%F0%9F%A6%80"] {
        let (status, body) = rig.get(&format!("/journeys/{unknown}")).await;
        let status = status.as_u16();
        assert!(status == 404 || (unknown == "%ff" && status == 400), "{unknown}: {status} {body}");
    }
}

#[tokio::test]
async fn requests_with_one_id_are_all_shown() {
    let rig = Rig::new();
    for arrived_ms in [10, 20] {
        rig.make(Made { label: "chatcmpl-same", arrived_ms, ..Made::default() });
    }
    let (_, body) = rig.get("/journeys/same").await;
    let starts: Vec<_> =
        body["journeys"].as_array().unwrap().iter().map(|one| &one["start_unix_ns"]).collect();
    assert_eq!(starts, ["1700000000020000000", "1700000000010000000"]);
    let (status, body) = rig.get("/journeys/same?limit=1").await;
    assert_eq!(status, 400, "{body}");
}

#[tokio::test]
async fn a_journey_shows_all_that_was_recorded() {
    let rig = Rig::new();
    let made = Made { traceparent: Some(TRACEPARENT), preemptions: 1, ..Made::default() };
    rig.make(Made { failure: Some(AbortReason::Timeout), ..made });
    let (_, body) = rig.get(&format!("/journeys/{TRACE_ID}")).await;
    let mut journey = body["journeys"][0].clone();
    let names = |events: &Value| -> Vec<String> {
        let events = events.as_array().unwrap();
        events.iter().map(|event| event["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        names(&journey["events"]),
        ["api.ARRIVED", "api.HANDOFF_TO_CORE", "api.FIRST_RESPONSE_FROM_CORE", "api.ABORTED"]
    );
    let sequence = journey["sequences"][0].clone();
    assert_eq!(
        names(&sequence["events"]),
        [
            "journey.QUEUED",
            "journey.SCHEDULED",
            "journey.PREEMPTED",
            "journey.SCHEDULED",
            "journey.FIRST_TOKEN",
            "journey.FINISHED"
        ]
    );
    assert_eq!(
        sequence["events"][2],
        json!({
            "name": "journey.PREEMPTED",
            "offset_ns": 4_000_000,
            "unix_ns": "1700000000104000000",
            "attributes": {
                "event.type": "PREEMPTED",
                "ts.monotonic": 0.104,
                "ts.monotonic_ns": 104_000_000,
                "scheduler.step": 4,
                "phase": "PREFILL",
                "prefill.done_tokens": 10,
                "prefill.total_tokens": 10,
                "decode.done_tokens": 0,
                "decode.max_tokens": 5,
                "num_preemptions": 1,
                "tokens_lost": 10,
                "kv.blocks_freed": 1,
            },
        })
    );
    let attributes = &sequence["attributes"];
    assert_eq!(
        (&attributes["gen_ai.request.id"], &attributes["wayfare.sequence_index"]),
        (&json!("chatcmpl-1"), &json!(0))
    );
    // Queued for a millisecond, preempted for another; nobody said why.
    assert_eq!(
        ["queue_ns", "queue.unknown_ns", "prefill_ns", "preempted_ns", "decode_ns"]
            .map(|bucket| &attributes[format!("journey.ledger.{bucket}")]),
        [1, 1, 2, 1, 1].map(|ms| ms * 1_000_000).map(|ns| json!(ns)).each_ref()
    );
    assert_eq!(
        (&sequence["start_offset_ns"], &sequence["duration_ns"]),
        (&json!(2_000_000), &json!(5_000_000))
    );
    assert_eq!((&sequence["finish_status"], &sequence["num_preemptions"]), (&json!("stopped"), &json!(1)));

    assert_eq!(journey["attributes"]["gen_ai.request.temperature"], 0.7);
    assert_eq!(journey["attributes"]["gen_ai.latency.time_in_queue"], 0.001);
    assert!(journey["span_id"].as_str().is_some_and(|id| id.len() == 16));
    for field in ["span_id", "attributes", "events", "sequences"] {
        journey[field] = Value::Null;
    }
    assert_eq!(
        journey,
        json!({
            "request_id": "chatcmpl-1",
            "trace_id": TRACE_ID,
            "span_id": null,
            "parent_span_id": "00f067aa0ba902b7",
            "route": "/v1/chat/completions",
            "status": "aborted",
            "http_status": 200,
            "abort": {"reason": "timeout", "error_type": "a_type", "message": "what happened"},
            "head_sampled": true,
            "start_unix_ns": "1700000000100000000",
            "end_unix_ns": "1700000000150000000",
            "duration_ns": 50_000_000,
            "attributes": null,
            "events": null,
            "sequences": null,
        })
    );
}
