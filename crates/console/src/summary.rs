//! What lists and statistics need of a journey: a tenth of its JSON. The shape is described in
//! `docs/journeys.md`.

use serde_json::{Map, Value, json};
use wayfare_journey::schema::{
    Attribute, core_event, core_event_attribute as event_key, span_attribute as key,
};

const LEDGER_PREFIX: &str = "journey.ledger.";
const LEDGER_SUFFIX: &str = "_ns";

/// The summary of a journey as [`crate::json::journey`] describes it.
pub(crate) fn summary(journey: &Value) -> Value {
    let mut summary = Map::new();
    for field in [
        "request_id",
        "trace_id",
        "span_id",
        "route",
        "status",
        "http_status",
        "start_unix_ns",
        "duration_ns",
    ] {
        put(&mut summary, field, &journey[field]);
    }
    put(&mut summary, "abort_reason", &journey["abort"]["reason"]);
    let attributes = &journey["attributes"];
    for (field, attribute) in [
        ("model", key::REQUEST_MODEL),
        ("prompt_tokens", key::INPUT_TOKENS),
        ("output_tokens", key::OUTPUT_TOKENS),
        ("cached_tokens", key::TOKENS_CACHED),
        ("recomputed_tokens", key::TOKENS_RECOMPUTED),
        ("wasted_tokens", key::TOKENS_WASTED),
        ("ttft_seconds", key::TIME_TO_FIRST_TOKEN),
    ] {
        put(&mut summary, field, &attributes[attribute.key]);
    }
    let sequences = journey["sequences"].as_array().map_or(&[][..], Vec::as_slice);
    let preemptions: u64 = sequences.iter().filter_map(|one| one["num_preemptions"].as_u64()).sum();
    summary.insert("num_preemptions".to_owned(), preemptions.into());
    summary.insert("ledger".to_owned(), ledger(attributes));
    summary.insert("sequences".to_owned(), sequences.iter().map(sequence).collect());
    Value::Object(summary)
}

/// What is null or missing is left out.
fn put(summary: &mut Map<String, Value>, field: &str, value: &Value) {
    if !value.is_null() {
        summary.insert(field.to_owned(), value.clone());
    }
}

/// The buckets in which there is any time, by their short names.
fn ledger(attributes: &Value) -> Value {
    let buckets = attributes.as_object().into_iter().flatten().filter_map(|(name, ns)| {
        let bucket = name.strip_prefix(LEDGER_PREFIX)?.strip_suffix(LEDGER_SUFFIX)?;
        (ns.as_u64() != Some(0)).then(|| (bucket.to_owned(), ns.clone()))
    });
    Value::Object(buckets.collect())
}

/// Which steps it was in, and who was in its way.
fn sequence(sequence: &Value) -> Value {
    let events = sequence["events"].as_array().map_or(&[][..], Vec::as_slice);
    let first = |wanted: &str| events.iter().find(|event| event["name"] == wanted);
    let of = |event: Option<&Value>, attribute: Attribute| {
        event.map_or(Value::Null, |event| event["attributes"][attribute.key].clone())
    };
    let scheduled = first(core_event::SCHEDULED.name);
    let mut short = Map::new();
    for (field, value) in [
        ("engine_id", sequence["attributes"][key::ENGINE_ID.key].clone()),
        ("scheduled_step", of(scheduled, event_key::SCHEDULER_STEP)),
        ("first_token_step", of(first(core_event::FIRST_TOKEN.name), event_key::SCHEDULER_STEP)),
        ("finished_step", of(first(core_event::FINISHED.name), event_key::SCHEDULER_STEP)),
        ("wait_reason", of(scheduled, event_key::WAIT_REASON)),
        ("wait_blocker", of(scheduled, event_key::WAIT_BLOCKER)),
    ] {
        put(&mut short, field, &value);
    }
    let preempted_by: Vec<_> =
        events.iter().filter_map(|event| event["attributes"].get(event_key::PREEMPTED_BY.key)).collect();
    if !preempted_by.is_empty() {
        short.insert("preempted_by".to_owned(), json!(preempted_by));
    }
    Value::Object(short)
}
