//! The `llm_core` span.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use wayfare_journey::schema::{SPAN_CORE, core_event_attribute as event_key};
use wayfare_journey::{CoreRecord, JourneyCell, WallAnchor, describe_core, describe_core_events};

use super::attributes::Attributes;
use super::{event, flags};

/// Identity, the ledger with one reason for the wait, and the tokens.
const CORE_ATTRIBUTES: usize = 12;

pub(super) fn span(cell: &JourneyCell, index: u32, record: &CoreRecord, anchor: WallAnchor) -> Span {
    let context = cell.context();
    let mut attributes = Attributes::with_capacity(CORE_ATTRIBUTES);
    describe_core(cell, index, record, &mut attributes);
    let mut events = Vec::with_capacity(record.events.len());
    describe_core_events(record, |kind, at, describe| {
        let mut attributes = Attributes::with_capacity(event_key::ALL.len());
        describe(&mut attributes);
        events.push(event(kind.name, at, attributes, anchor));
    });
    Span {
        trace_id: context.trace_id.to_bytes().to_vec(),
        span_id: record.span_id.to_bytes().to_vec(),
        trace_state: context.state.as_deref().unwrap_or_default().into(),
        parent_span_id: cell.span_id().to_bytes().to_vec(),
        flags: flags(cell, false),
        name: SPAN_CORE.into(),
        kind: SpanKind::Internal as i32,
        start_time_unix_nano: anchor.unix_ns(record.started()),
        end_time_unix_nano: anchor.unix_ns(record.ended()),
        attributes: attributes.into_list(),
        events,
        dropped_events_count: record.dropped_events,
        status: Some(Status::default()),
        ..Span::default()
    }
}
