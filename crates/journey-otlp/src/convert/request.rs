//! The `llm_request` span.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status, span};
use wayfare_journey::schema::{Event, SPAN_REQUEST, api_event, api_event_attribute, span_attribute as key};
use wayfare_journey::{
    ApiEnding, CoreEventKind, CoreRecord, FinishedJourney, JourneyCell, MonoNs, WallAnchor,
};

use super::attributes::Attributes;
use super::{event, flags};

const PROVIDER_NAME: &str = "wayfare";

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
    let (cell, api) = (journey.cell(), journey.api());
    let mut attributes = Attributes::with_capacity(key::ALL.len());
    if let Some(label) = cell.label() {
        attributes.text(key::REQUEST_ID, label.as_str());
    }
    attributes.text(key::HTTP_ROUTE, cell.route());
    if let Some(status) = api.status {
        attributes.int(key::STATUS_CODE, status);
    }
    if let ApiEnding::Aborted { error_type, .. } = &api.ending {
        attributes.text_if_any(key::ERROR_TYPE, error_type);
    }
    attributes.text(key::PROVIDER_NAME, PROVIDER_NAME);
    add_request(&mut attributes, cell);
    add_usage(&mut attributes, cell);
    add_latencies(&mut attributes, journey);
    attributes
}

fn add_request(attributes: &mut Attributes, cell: &JourneyCell) {
    let Some(request) = cell.attributes() else { return };
    attributes
        .text_if_any(key::OPERATION_NAME, request.operation)
        .text_if_any(key::REQUEST_MODEL, &request.request_model)
        .text_if_any(key::RESPONSE_MODEL, &request.response_model)
        .double(key::REQUEST_TEMPERATURE, shortest(request.temperature))
        .double(key::REQUEST_TOP_P, shortest(request.top_p));
    if let Some(top_k) = request.top_k {
        attributes.int(key::REQUEST_TOP_K, top_k);
    }
    attributes.int(key::REQUEST_MAX_TOKENS, request.max_tokens).int(key::REQUEST_N, request.n);
    if let Some(seed) = request.seed {
        // Clients think of seeds as signed 64-bit integers; the bits are the same.
        attributes.int(key::REQUEST_SEED, seed.cast_signed());
    }
    attributes.bool(key::REQUEST_STREAM, request.stream);
}

fn add_usage(attributes: &mut Attributes, cell: &JourneyCell) {
    let Some(usage) = cell.usage() else { return };
    attributes
        .text_list(key::FINISH_REASONS, &usage.finish_reasons)
        .int(key::INPUT_TOKENS, usage.prompt_tokens)
        .int(key::OUTPUT_TOKENS, usage.completion_tokens)
        .int(key::PROMPT_TOKENS, usage.prompt_tokens)
        .int(key::COMPLETION_TOKENS, usage.completion_tokens)
        .int(key::CACHE_READ_INPUT_TOKENS, usage.cached_tokens);
}

fn add_latencies(attributes: &mut Attributes, journey: &FinishedJourney) {
    let (cell, arrived) = (journey.cell(), journey.cell().arrived());
    let first_token = journey.cores().filter_map(|(_, core)| first_token_of(core)).min();
    let first_token = first_token.or_else(|| cell.first_response());
    attributes
        .double_if_any(key::TIME_TO_FIRST_TOKEN, first_token.map(|at| at.seconds_since(arrived)))
        .double(key::E2E, journey.api().ended.seconds_since(arrived));

    let Some((_, core)) = journey.cores().max_by_key(|(_, core)| core.ended()) else { return };
    let queued = core.first_time(|kind| matches!(kind, CoreEventKind::Queued));
    let scheduled = core.first_time(|kind| matches!(kind, CoreEventKind::Scheduled { .. }));
    let finished = core.first_time(|kind| matches!(kind, CoreEventKind::Finished { .. }));
    let between = |from: Option<MonoNs>, to: Option<MonoNs>| Some(to?.seconds_since(from?));
    attributes
        .double_if_any(key::TIME_IN_QUEUE, between(queued, scheduled))
        .double_if_any(key::TIME_IN_MODEL_PREFILL, between(scheduled, first_token_of(core)))
        .double_if_any(key::TIME_IN_MODEL_DECODE, between(first_token_of(core), finished))
        .double_if_any(key::TIME_IN_MODEL_INFERENCE, between(scheduled, finished));
}

fn first_token_of(core: &CoreRecord) -> Option<MonoNs> {
    core.first_time(|kind| matches!(kind, CoreEventKind::FirstToken))
}

fn events(journey: &FinishedJourney, anchor: WallAnchor) -> Vec<span::Event> {
    let (cell, api) = (journey.cell(), journey.api());
    let mut events = Vec::with_capacity(api_event::ALL.len());
    let mut add = |kind: Event, at: MonoNs, more: &dyn Fn(&mut Attributes)| {
        let mut attributes = Attributes::with_capacity(4);
        attributes
            .double(api_event_attribute::TS_MONOTONIC, at.as_seconds())
            .count(api_event_attribute::TS_MONOTONIC_NS, at.0);
        more(&mut attributes);
        events.push(event(kind.name, at, attributes, anchor));
    };

    add(api_event::ARRIVED, cell.arrived(), &|_| {});
    if let Some((at, prefill_total)) = cell.handoff() {
        add(api_event::HANDOFF_TO_CORE, at, &|attributes| {
            attributes.count(api_event_attribute::PREFILL_TOTAL_TOKENS, prefill_total);
        });
    }
    if let Some(at) = cell.first_response() {
        add(api_event::FIRST_RESPONSE_FROM_CORE, at, &|_| {});
    }
    match &api.ending {
        ApiEnding::Departed { at } => add(api_event::DEPARTED, *at, &|attributes| {
            if let Some(status) = api.status {
                attributes.int(api_event_attribute::STATUS_CODE, status);
            }
        }),
        ApiEnding::Aborted { at, reason, message, .. } => add(api_event::ABORTED, *at, &|attributes| {
            attributes
                .text(api_event_attribute::REASON, reason.as_str())
                .text(api_event_attribute::ERROR, message);
        }),
    }
    events
}

/// The double that prints like the float: a client that asked for 0.7 shall not read 0.699999988079071.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
