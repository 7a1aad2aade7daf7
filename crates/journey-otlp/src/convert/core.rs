//! The `llm_core` span.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span};
use wayfare_journey::schema::{
    Event, SPAN_CORE, core_event, core_event_attribute as event_key, span_attribute as key,
};
use wayfare_journey::{CoreEvent, CoreEventKind, CoreRecord, JourneyCell, WallAnchor};

use super::attributes::Attributes;
use super::{event, flags};

pub(super) fn span(cell: &JourneyCell, index: u32, record: &CoreRecord, anchor: WallAnchor) -> Span {
    let context = cell.context();
    let mut attributes = Attributes::with_capacity(2);
    if let Some(label) = cell.label() {
        attributes.text(key::REQUEST_ID, label.as_str());
    }
    attributes.int(key::SEQUENCE_INDEX, index);
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
        events: record.events.iter().map(|event| core_event(record, event, anchor)).collect(),
        status: Some(Status::default()),
        ..Span::default()
    }
}

fn core_event(record: &CoreRecord, recorded: &CoreEvent, anchor: WallAnchor) -> span::Event {
    let kind = schema_event(&recorded.kind);
    let mut attributes = Attributes::with_capacity(event_key::ALL.len());
    attributes
        .text(event_key::EVENT_TYPE, event_type(kind))
        .double(event_key::TS_MONOTONIC, recorded.at.as_seconds())
        .count(event_key::TS_MONOTONIC_NS, recorded.at.0)
        .count(event_key::SCHEDULER_STEP, recorded.step)
        .text(event_key::PHASE, recorded.phase.as_str())
        .int(event_key::PREFILL_DONE_TOKENS, recorded.progress.prefill_done)
        .int(event_key::PREFILL_TOTAL_TOKENS, record.prefill_total)
        .int(event_key::DECODE_DONE_TOKENS, recorded.progress.decode_done)
        .int(event_key::DECODE_MAX_TOKENS, record.decode_max)
        .int(event_key::NUM_PREEMPTIONS, recorded.num_preemptions);
    match &recorded.kind {
        CoreEventKind::Queued | CoreEventKind::FirstToken => {}
        CoreEventKind::Scheduled { kind, cached_tokens, scheduled_tokens } => {
            attributes
                .text(event_key::SCHEDULE_KIND, kind.as_str())
                .int(event_key::CACHED_TOKENS, *cached_tokens)
                .int(event_key::SCHEDULED_TOKENS, *scheduled_tokens);
        }
        CoreEventKind::Preempted { by, tokens_lost, blocks_freed } => {
            if let Some(by) = by {
                attributes.text(event_key::PREEMPTED_BY, by.as_str());
            }
            attributes
                .int(event_key::TOKENS_LOST, *tokens_lost)
                .int(event_key::KV_BLOCKS_FREED, *blocks_freed);
        }
        CoreEventKind::Finished { status } => {
            attributes.text(event_key::FINISH_STATUS, status.as_str());
        }
    }
    event(kind.name, recorded.at, attributes, anchor)
}

fn schema_event(kind: &CoreEventKind) -> Event {
    match kind {
        CoreEventKind::Queued => core_event::QUEUED,
        CoreEventKind::Scheduled { .. } => core_event::SCHEDULED,
        CoreEventKind::FirstToken => core_event::FIRST_TOKEN,
        CoreEventKind::Preempted { .. } => core_event::PREEMPTED,
        CoreEventKind::Finished { .. } => core_event::FINISHED,
    }
}

/// The event's name without its prefix.
fn event_type(event: Event) -> &'static str {
    event.name.rsplit_once('.').map_or(event.name, |(_, event_type)| event_type)
}
