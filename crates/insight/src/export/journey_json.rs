//! A journey in the JSON that the page at `/journeys` draws: `docs/journeys.md`.

use serde_json::{Map, Value, json};
use wayfare_journey::WaitReason;
use wayfare_journey::schema::{
    SPAN_REQUEST, api_event, api_event_attribute as api_key, core_event, core_event_attribute as core_key,
    span_attribute as key,
};

use crate::bucket::Bucket;
use crate::span::{AttributeValue, Attributes, SpanEvent, TraceSpan};
use crate::survey::{Ending, Record, Survey};

/// One journey, with its spans where they are at hand; without them what the record has. Where the spans have no ledger,
/// the account that is made of the events stands in its place, and latencies likewise.
#[must_use]
pub fn journey_json(record: &Record, spans: &[TraceSpan], survey: &Survey) -> Value {
    let text = |name| survey.names().text(name);
    let request = spans.iter().find(|span| *span.name == *SPAN_REQUEST);
    let start = record.start_ns;
    let mut attributes = request.map(|span| attributes_json(&span.attributes)).unwrap_or_default();
    add_figures(record, survey, &mut attributes);
    let reason = text(record.abort_reason);
    let message = request.and_then(|span| {
        let aborted = span.events.iter().find(|event| *event.name == *api_event::ABORTED.name)?;
        aborted.attributes.text(api_key::ERROR)
    });
    let mut cores: Vec<&TraceSpan> = spans.iter().filter(|span| *span.name != *SPAN_REQUEST).collect();
    cores.sort_by_key(|span| (span.attributes.count(key::SEQUENCE_INDEX), span.start_unix_ns, span.span_id));
    let sequences = (0_u64..).zip(cores).map(|(place, core)| sequence_json(place, core, start));
    let sequences: Vec<_> =
        if spans.is_empty() { vec![sequence_of_record(record, survey)] } else { sequences.collect() };
    json!({
        "request_id": Some(text(record.request_id)).filter(|id| !id.is_empty()),
        "trace_id": record.trace_id.to_string(),
        "span_id": record.span_id.to_string(),
        "parent_span_id": request.and_then(|span| span.parent).map(|id| id.to_string()),
        "route": request.and_then(|span| span.attributes.text(key::HTTP_ROUTE)).unwrap_or_default(),
        "status": if record.ending == Ending::Aborted { "aborted" } else { "departed" },
        "http_status": (record.status_code > 0).then_some(record.status_code),
        "abort": (record.ending == Ending::Aborted)
            .then(|| json!({"reason": reason, "error_type": reason, "message": message.unwrap_or_default()})),
        "start_unix_ns": start.to_string(),
        "end_unix_ns": record.end_ns.to_string(),
        "duration_ns": record.end_ns.saturating_sub(start),
        "attributes": attributes,
        "events": request.map(|span| events_json(&span.events, start)).unwrap_or_default(),
        "sequences": sequences,
    })
}

fn add_figures(record: &Record, survey: &Survey, attributes: &mut Map<String, Value>) {
    let mut add = |key: &str, value: Value| {
        if !value.is_null() {
            attributes.entry(key.to_owned()).or_insert(value);
        }
    };
    let model = survey.names().text(record.model);
    add(key::REQUEST_MODEL.key, json!(Some(model).filter(|model| !model.is_empty())));
    add(key::INPUT_TOKENS.key, json!(record.prompt_tokens));
    add(key::OUTPUT_TOKENS.key, json!(record.output_tokens));
    add(key::TIME_TO_FIRST_TOKEN.key, json!(record.ttft_ns().map(|ns| ns as f64 / 1e9)));
    add(key::TOKENS_CACHED.key, json!(record.cached_tokens));
    add(key::TOKENS_RECOMPUTED.key, json!(record.recomputed_tokens));
    let Some(account) = record.account() else { return };
    for (bucket, ns) in account.iter().filter(|(_, ns)| *ns > 0) {
        add(&format!("journey.ledger.{}_ns", bucket.name()), json!(ns));
    }
    let queue: u64 = WaitReason::ALL.iter().map(|reason| account.get(Bucket::Queue(*reason))).sum();
    add(key::LEDGER_QUEUE.key, json!(queue));
}

fn sequence_json(place: u64, span: &TraceSpan, start: u64) -> Value {
    let finish = span.events.iter().find(|event| *event.name == *core_event::FINISHED.name);
    let preemptions =
        span.events.iter().filter_map(|event| event.attributes.count(core_key::NUM_PREEMPTIONS)).max();
    json!({
        "index": span.attributes.count(key::SEQUENCE_INDEX).unwrap_or(place),
        "span_id": span.span_id.to_string(),
        "start_offset_ns": span.start_unix_ns.saturating_sub(start),
        "duration_ns": span.end_unix_ns.saturating_sub(span.start_unix_ns),
        "finish_status": finish.and_then(|event| event.attributes.text(core_key::FINISH_STATUS)),
        "num_preemptions": preemptions.unwrap_or(0),
        "dropped_events": span.dropped_events,
        "attributes": attributes_json(&span.attributes),
        "events": events_json(&span.events, start),
    })
}

/// As much of a sequence as statistics look at.
fn sequence_of_record(record: &Record, survey: &Survey) -> Value {
    let text = |name| Some(survey.names().text(name)).filter(|text| !text.is_empty());
    let last = &record.last;
    let mut scheduled = Map::new();
    if let Some(reason) = last.wait_reason {
        scheduled.insert(core_key::WAIT_REASON.key.to_owned(), json!(reason.as_str()));
    }
    if let Some(blocker) = text(last.wait_blocker) {
        scheduled.insert(core_key::WAIT_BLOCKER.key.to_owned(), json!(blocker));
    }
    let mut events =
        vec![json!({"name": core_event::SCHEDULED.name, "offset_ns": 0, "attributes": scheduled})];
    if let Some(by) = text(last.preempted_by) {
        let attributes = json!({core_key::PREEMPTED_BY.key: by});
        events.push(json!({"name": core_event::PREEMPTED.name, "offset_ns": 0, "attributes": attributes}));
    }
    json!({"index": 0, "num_preemptions": record.preemptions, "attributes": {}, "events": events})
}

fn events_json(events: &[SpanEvent], start: u64) -> Vec<Value> {
    let one = |event: &SpanEvent| {
        json!({
            "name": event.name,
            "offset_ns": event.unix_ns.saturating_sub(start),
            "unix_ns": event.unix_ns.to_string(),
            "attributes": attributes_json(&event.attributes),
        })
    };
    events.iter().map(one).collect()
}

fn attributes_json(attributes: &Attributes) -> Map<String, Value> {
    attributes.iter().map(|(key, value)| (key.to_owned(), value_json(value))).collect()
}

fn value_json(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::Text(text) => json!(text),
        AttributeValue::Int(value) => json!(value),
        AttributeValue::Double(value) => json!(value),
        AttributeValue::Bool(value) => json!(value),
        AttributeValue::List(values) => values.iter().map(value_json).collect(),
        AttributeValue::Other => Value::Null,
    }
}
