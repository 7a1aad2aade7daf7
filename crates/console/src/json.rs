//! A journey as JSON. The shape is described in `docs/journeys.md`.

use serde_json::{Map, Value, json};
use wayfare_journey::schema::{Attribute, Event};
use wayfare_journey::{
    ApiEnding, AttributeVisitor, CoreRecord, FinishedJourney, MonoNs, RequestLabel, WallAnchor,
    describe_core, describe_core_events, describe_request, describe_request_events,
};

/// The journey with everything that was recorded.
pub(crate) fn journey(journey: &FinishedJourney, anchor: WallAnchor) -> Value {
    let (cell, api) = (journey.cell(), journey.api());
    let start = cell.arrived();
    let (status, abort) = match &api.ending {
        ApiEnding::Departed { .. } => ("departed", Value::Null),
        ApiEnding::Aborted { reason, error_type, message, .. } => {
            ("aborted", json!({"reason": reason.as_str(), "error_type": error_type, "message": message}))
        }
    };
    let mut events = Events { start, anchor, list: Vec::new() };
    describe_request_events(journey, |kind, at, describe| events.add(kind, at, describe));
    let sequences: Vec<_> =
        journey.cores().map(|(index, core)| sequence(journey, index, core, anchor)).collect();
    json!({
        "request_id": cell.label().map(RequestLabel::as_str),
        "trace_id": cell.context().trace_id.to_string(),
        "span_id": cell.span_id().to_string(),
        "parent_span_id": cell.context().parent.map(|parent| parent.to_string()),
        "route": cell.route(),
        "status": status,
        "http_status": api.status,
        "abort": abort,
        "head_sampled": cell.head_sampled(),
        "start_unix_ns": anchor.unix_ns(start).to_string(),
        "end_unix_ns": anchor.unix_ns(api.ended).to_string(),
        "duration_ns": journey.duration_ns(),
        "attributes": attributes(|to| describe_request(journey, to)),
        "events": events.list,
        "sequences": sequences,
    })
}

fn sequence(journey: &FinishedJourney, index: u32, core: &CoreRecord, anchor: WallAnchor) -> Value {
    let start = journey.cell().arrived();
    let mut events = Events { start, anchor, list: Vec::new() };
    describe_core_events(core, |kind, at, describe| events.add(kind, at, describe));
    json!({
        "index": index,
        "span_id": core.span_id.to_string(),
        "start_offset_ns": core.started().since(start),
        "duration_ns": core.ended().since(core.started()),
        "finish_status": core.finish_status().map(|status| status.as_str()),
        "num_preemptions": core.num_preemptions(),
        "dropped_events": core.dropped_events,
        "attributes": attributes(|to| describe_core(journey.cell(), index, core, to)),
        "events": events.list,
    })
}

/// Events in the making, with their distance from the start of the journey.
struct Events {
    start: MonoNs,
    anchor: WallAnchor,
    list: Vec<Value>,
}

impl Events {
    fn add(&mut self, kind: Event, at: MonoNs, describe: &dyn Fn(&mut dyn AttributeVisitor)) {
        self.list.push(json!({
            "name": kind.name,
            "offset_ns": at.since(self.start),
            "unix_ns": self.anchor.unix_ns(at).to_string(),
            "attributes": attributes(describe),
        }));
    }
}

fn attributes(describe: impl FnOnce(&mut dyn AttributeVisitor)) -> Map<String, Value> {
    let mut attributes = Attributes::default();
    describe(&mut attributes);
    attributes.0
}

#[derive(Default)]
struct Attributes(Map<String, Value>);

impl Attributes {
    fn insert(&mut self, attribute: Attribute, value: impl Into<Value>) {
        self.0.insert(attribute.key.to_owned(), value.into());
    }
}

impl AttributeVisitor for Attributes {
    fn text(&mut self, attribute: Attribute, value: &str) {
        self.insert(attribute, value);
    }

    fn int(&mut self, attribute: Attribute, value: i64) {
        self.insert(attribute, value);
    }

    fn double(&mut self, attribute: Attribute, value: f64) {
        self.insert(attribute, value);
    }

    fn bool(&mut self, attribute: Attribute, value: bool) {
        self.insert(attribute, value);
    }

    fn text_list(&mut self, attribute: Attribute, values: &[&str]) {
        self.insert(attribute, values);
    }
}
