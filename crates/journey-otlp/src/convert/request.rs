//! The `llm_request` span.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span};
use wayfare_journey::schema::{SPAN_REQUEST, api_event, span_attribute as key};
use wayfare_journey::{ApiEnding, FinishedJourney, WallAnchor, describe_request, describe_request_events};

use super::attributes::Attributes;
use super::{event, flags};

pub(super) fn span(journey: &FinishedJourney, anchor: WallAnchor) -> Span {
    let (cell, api) = (journey.cell(), journey.api());
    let context = cell.context();
    let status = match &api.ending {
        ApiEnding::Departed { .. } => Status::default(),
        ApiEnding::Aborted { message, .. } => {
            Status { message: message.to_string(), code: StatusCode::Error as i32 }
        }
    };
    Span {
        trace_id: context.trace_id.to_bytes().to_vec(),
        span_id: cell.span_id().to_bytes().to_vec(),
        trace_state: context.state.as_deref().unwrap_or_default().into(),
        parent_span_id: context.parent.map(|parent| parent.to_bytes().to_vec()).unwrap_or_default(),
        flags: flags(cell, context.parent.is_some()),
        name: SPAN_REQUEST.into(),
        kind: SpanKind::Server as i32,
        start_time_unix_nano: anchor.unix_ns(cell.arrived()),
        end_time_unix_nano: anchor.unix_ns(api.ended),
        attributes: attributes(journey).into_list(),
        events: events(journey, anchor),
        status: Some(status),
        ..Span::default()
    }
}

fn attributes(journey: &FinishedJourney) -> Attributes {
    let mut attributes = Attributes::with_capacity(key::ALL.len());
    describe_request(journey, &mut attributes);
    attributes
}

fn events(journey: &FinishedJourney, anchor: WallAnchor) -> Vec<span::Event> {
    let mut events = Vec::with_capacity(api_event::ALL.len());
    describe_request_events(journey, |kind, at, describe| {
        let mut attributes = Attributes::with_capacity(4);
        describe(&mut attributes);
        events.push(event(kind.name, at, attributes, anchor));
    });
    events
}
