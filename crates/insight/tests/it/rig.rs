//! Journeys from text.

use serde_json::{Value, json};
use wayfare_insight::{TracedJourney, read_journeys};

pub(crate) const EXCERPT: &str = include_str!("../data/reference-excerpt.jsonl");

/// The journey of the excerpt whose request id starts so.
pub(crate) fn reference_journey(id: &str) -> TracedJourney {
    let journeys = read_journeys(EXCERPT.as_bytes()).unwrap();
    let mut found =
        journeys.into_iter().filter(|journey| journey.request_id().is_some_and(|one| one.starts_with(id)));
    let journey = found.next().unwrap();
    assert_eq!(found.next(), None);
    journey
}

/// One line with these spans, each given as (scope, span).
pub(crate) fn line(spans: &[(&str, Value)]) -> String {
    let scopes: Vec<_> =
        spans.iter().map(|(scope, span)| json!({"scope": {"name": scope}, "spans": [span]})).collect();
    json!({"resourceSpans": [{"scopeSpans": scopes}]}).to_string() + "\n"
}

/// An `llm_request` span from 1000 ns to 1000 ns + `length`, with these events as (name, offset, attributes).
pub(crate) fn request(length: u64, events: &[(&str, u64, Value)]) -> (&'static str, Value) {
    ("vllm.api", span("llm_request", "aaaaaaaaaaaaaaaa", &Value::Null, length, events))
}

/// An `llm_core` span of that request.
pub(crate) fn core(id: u64, length: u64, events: &[(&str, u64, Value)]) -> (&'static str, Value) {
    let id = format!("{:016x}", id + 1);
    ("vllm.scheduler", span("llm_core", &id, &json!("aaaaaaaaaaaaaaaa"), length, events))
}

fn span(name: &str, id: &str, parent: &Value, length: u64, events: &[(&str, u64, Value)]) -> Value {
    let events: Vec<_> = events
        .iter()
        .map(|(name, offset, attributes)| {
            json!({"name": name, "timeUnixNano": (1000 + offset).to_string(), "attributes": attributes})
        })
        .collect();
    json!({
        "traceId": "11111111111111111111111111111111",
        "spanId": id,
        "parentSpanId": parent,
        "name": name,
        "startTimeUnixNano": "1000",
        "endTimeUnixNano": (1000 + length).to_string(),
        "events": events,
    })
}

pub(crate) fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// The only journey of these spans.
pub(crate) fn journey(spans: &[(&str, Value)]) -> TracedJourney {
    let mut journeys = read_journeys(line(spans).as_bytes()).unwrap();
    assert_eq!(journeys.len(), 1);
    journeys.remove(0)
}
