//! The `scheduler_steps_N` span.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use wayfare_journey::schema::{step_event, step_event_attribute as event_key, step_span_attribute as key};
use wayfare_journey::{StepSpan, WallAnchor, describe_step_events, describe_steps, step_span_name};

use super::attributes::Attributes;
use super::{FLAG_RANDOM, FLAG_SAMPLED, event};

pub(super) fn span(steps: &StepSpan, anchor: WallAnchor) -> Span {
    let mut attributes = Attributes::with_capacity(key::ALL.len());
    describe_steps(steps, &mut attributes);
    let mut events = Vec::with_capacity(steps.num_events());
    describe_step_events(steps, |kind, at, describe| {
        let is_summary = kind == step_event::BATCH_SUMMARY;
        // A summary has all attributes but those of a snapshot, which are the smaller part.
        let capacity = event_key::ALL.len().div_ceil(if is_summary { 1 } else { 2 });
        let mut attributes = Attributes::with_capacity(capacity);
        describe(&mut attributes);
        events.push(event(kind.name, at, attributes, anchor));
    });
    Span {
        trace_id: steps.trace_id.to_bytes().to_vec(),
        span_id: steps.span_id.to_bytes().to_vec(),
        flags: FLAG_SAMPLED | FLAG_RANDOM,
        name: step_span_name(steps),
        kind: SpanKind::Internal as i32,
        start_time_unix_nano: anchor.unix_ns(steps.started),
        end_time_unix_nano: anchor.unix_ns(steps.ended),
        attributes: attributes.into_list(),
        events,
        dropped_events_count: steps.dropped_events,
        status: Some(Status::default()),
        ..Span::default()
    }
}
