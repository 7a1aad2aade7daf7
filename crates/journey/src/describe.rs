//! A finished journey in the words of the schema, for whoever writes it down: which attributes its spans and
//! events have, and with which values. Never called before the journey is behind its sink.

use crate::MonoNs;
use crate::api_span::ApiEnding;
use crate::cell::{FinishedJourney, JourneyCell};
use crate::core_record::CoreRecord;
use crate::event::{CoreEvent, CoreEventKind};
use crate::ledger::CoreLedger;
use crate::schema::{
    Attribute, Event, api_event, api_event_attribute as api_key, core_event,
    core_event_attribute as core_key, span_attribute as key,
};

const PROVIDER_NAME: &str = "wayfare";

/// Takes attributes one by one. The method that is called fits the type that the schema says; an attribute
/// without a value is not reported at all.
pub trait AttributeVisitor {
    /// A text.
    fn text(&mut self, attribute: Attribute, value: &str);
    /// An integer.
    fn int(&mut self, attribute: Attribute, value: i64);
    /// A floating point number.
    fn double(&mut self, attribute: Attribute, value: f64);
    /// True or false.
    fn bool(&mut self, attribute: Attribute, value: bool);
    /// A list of texts.
    fn text_list(&mut self, attribute: Attribute, values: &[&str]);
}

type Visitor<'a> = &'a mut dyn AttributeVisitor;

/// Reports the attributes of the `llm_request` span.
pub fn describe_request(journey: &FinishedJourney, to: Visitor<'_>) {
    let (cell, api) = (journey.cell(), journey.api());
    if let Some(label) = cell.label() {
        to.text(key::REQUEST_ID, label.as_str());
    }
    to.text(key::HTTP_ROUTE, cell.route());
    if let Some(status) = api.status {
        to.int(key::STATUS_CODE, status.into());
    }
    if let ApiEnding::Aborted { error_type, .. } = &api.ending {
        text_if_any(to, key::ERROR_TYPE, error_type);
    }
    to.text(key::PROVIDER_NAME, PROVIDER_NAME);
    describe_asked(cell, to);
    describe_usage(cell, to);
    describe_latencies(journey, to);
    describe_ledger(journey, to);
}

fn describe_asked(cell: &JourneyCell, to: Visitor<'_>) {
    let Some(request) = cell.attributes() else { return };
    text_if_any(to, key::OPERATION_NAME, request.operation);
    text_if_any(to, key::REQUEST_MODEL, &request.request_model);
    text_if_any(to, key::RESPONSE_MODEL, &request.response_model);
    to.double(key::REQUEST_TEMPERATURE, shortest(request.temperature));
    to.double(key::REQUEST_TOP_P, shortest(request.top_p));
    if let Some(top_k) = request.top_k {
        to.int(key::REQUEST_TOP_K, top_k.into());
    }
    to.int(key::REQUEST_MAX_TOKENS, request.max_tokens.into());
    to.int(key::REQUEST_N, request.n.into());
    if let Some(seed) = request.seed {
        // Clients think of seeds as signed 64-bit integers; the bits are the same.
        to.int(key::REQUEST_SEED, seed.cast_signed());
    }
    to.bool(key::REQUEST_STREAM, request.stream);
}

fn describe_usage(cell: &JourneyCell, to: Visitor<'_>) {
    let Some(usage) = cell.usage() else { return };
    if !usage.finish_reasons.is_empty() {
        to.text_list(key::FINISH_REASONS, &usage.finish_reasons);
    }
    to.int(key::INPUT_TOKENS, usage.prompt_tokens.into());
    to.int(key::OUTPUT_TOKENS, usage.completion_tokens.into());
    to.int(key::PROMPT_TOKENS, usage.prompt_tokens.into());
    to.int(key::COMPLETION_TOKENS, usage.completion_tokens.into());
    to.int(key::CACHE_READ_INPUT_TOKENS, usage.cached_tokens.into());
}

fn describe_latencies(journey: &FinishedJourney, to: Visitor<'_>) {
    let arrived = journey.cell().arrived();
    let mut between = |attribute, from: Option<MonoNs>, until: Option<MonoNs>| {
        if let (Some(from), Some(until)) = (from, until) {
            to.double(attribute, until.seconds_since(from));
        }
    };
    between(key::TIME_TO_FIRST_TOKEN, Some(arrived), journey.first_token());
    between(key::E2E, Some(arrived), Some(journey.api().ended));

    let Some((_, core)) = journey.cores().max_by_key(|(_, core)| core.ended()) else { return };
    let queued = core.first_time(|kind| matches!(kind, CoreEventKind::Queued));
    let scheduled = core.first_time(|kind| matches!(kind, CoreEventKind::Scheduled { .. }));
    let finished = core.first_time(|kind| matches!(kind, CoreEventKind::Finished { .. }));
    between(key::TIME_IN_QUEUE, queued, scheduled);
    between(key::TIME_IN_MODEL_PREFILL, scheduled, core.first_token());
    between(key::TIME_IN_MODEL_DECODE, core.first_token(), finished);
    between(key::TIME_IN_MODEL_INFERENCE, scheduled, finished);
}

fn describe_ledger(journey: &FinishedJourney, to: Visitor<'_>) {
    let ledger = journey.ledger();
    to.int(key::LEDGER_RECEIVE, saturated(ledger.receive_ns));
    to.int(key::LEDGER_PREPARE, saturated(ledger.prepare_ns));
    if journey.cores().next().is_none() {
        // The engine never had it: the rest is nothing.
        return;
    }
    to.int(key::LEDGER_ADMIT, saturated(ledger.admit_ns));
    describe_core_ledger(&ledger.core, to);
    to.int(key::LEDGER_DELIVER, saturated(ledger.deliver_ns));
    to.int(key::DELIVER_BLOCKED, saturated(journey.cell().blocked_ns()));
    let tokens = journey.token_account();
    to.int(key::TOKENS_CACHED, saturated(tokens.cached));
    to.int(key::TOKENS_RECOMPUTED, saturated(tokens.recomputed));
    to.int(key::TOKENS_WASTED, saturated(tokens.wasted));
}

fn describe_core_ledger(ledger: &CoreLedger, to: Visitor<'_>) {
    to.int(key::LEDGER_QUEUE, saturated(ledger.queue.total()));
    for (reason, ns) in ledger.queue.iter() {
        to.int(key::ledger_queue(reason), saturated(ns));
    }
    to.int(key::LEDGER_PREFILL, saturated(ledger.prefill_ns));
    to.int(key::LEDGER_PREFILL_WAIT, saturated(ledger.prefill_wait_ns));
    to.int(key::LEDGER_DECODE, saturated(ledger.decode_ns));
    to.int(key::LEDGER_INTERFERENCE, saturated(ledger.interference_ns));
    to.int(key::LEDGER_PREEMPTED, saturated(ledger.preempted_ns));
    to.int(key::LEDGER_RECOMPUTE, saturated(ledger.recompute_ns));
}

/// Reports the attributes of the `llm_core` span of the sequence `index`.
pub fn describe_core(cell: &JourneyCell, index: u32, core: &CoreRecord, to: Visitor<'_>) {
    if let Some(label) = cell.label() {
        to.text(key::REQUEST_ID, label.as_str());
    }
    to.int(key::SEQUENCE_INDEX, index.into());
    to.int(key::ENGINE_ID, core.engine_id.into());
    if let Some(source) = core.clock_source {
        to.text(key::CLOCK_SOURCE, source.as_str());
    }
    let ledger = core.ledger();
    describe_core_ledger(&ledger, to);
    to.int(key::TOKENS_CACHED, ledger.cached_tokens.into());
    to.int(key::TOKENS_RECOMPUTED, ledger.recomputed_tokens.into());
}

/// Calls `event` for each event of the `llm_request` span, in order, with its time and a function that reports
/// its attributes.
pub fn describe_request_events(
    journey: &FinishedJourney,
    mut event: impl FnMut(Event, MonoNs, &dyn Fn(Visitor<'_>)),
) {
    let (cell, api) = (journey.cell(), journey.api());
    let mut add = |kind: Event, at: MonoNs, more: &dyn Fn(Visitor<'_>)| {
        event(kind, at, &|to| {
            to.double(api_key::TS_MONOTONIC, at.as_seconds());
            to.int(api_key::TS_MONOTONIC_NS, saturated(at.0));
            more(to);
        });
    };
    add(api_event::ARRIVED, cell.arrived(), &|_| {});
    if let Some((at, prefill_total)) = cell.handoff() {
        add(api_event::HANDOFF_TO_CORE, at, &|to| {
            to.int(api_key::PREFILL_TOTAL_TOKENS, saturated(prefill_total));
        });
    }
    if let Some(at) = cell.first_response() {
        add(api_event::FIRST_RESPONSE_FROM_CORE, at, &|_| {});
    }
    match &api.ending {
        ApiEnding::Departed { at } => add(api_event::DEPARTED, *at, &|to| {
            if let Some(status) = api.status {
                to.int(api_key::STATUS_CODE, status.into());
            }
        }),
        ApiEnding::Aborted { at, reason, message, .. } => add(api_event::ABORTED, *at, &|to| {
            to.text(api_key::REASON, reason.as_str());
            to.text(api_key::ERROR, message);
        }),
    }
}

/// Calls `event` for each event of an `llm_core` span, in order, with its time and a function that reports its
/// attributes.
pub fn describe_core_events(record: &CoreRecord, mut event: impl FnMut(Event, MonoNs, &dyn Fn(Visitor<'_>))) {
    for (index, recorded) in record.events.iter().enumerate() {
        let kind = schema_event(&recorded.kind);
        event(kind, recorded.at, &|to| describe_core_event(record, index, recorded, kind, to));
    }
}

fn describe_core_event(
    record: &CoreRecord,
    index: usize,
    recorded: &CoreEvent,
    kind: Event,
    to: Visitor<'_>,
) {
    to.text(core_key::EVENT_TYPE, event_type(kind));
    to.double(core_key::TS_MONOTONIC, recorded.at.as_seconds());
    to.int(core_key::TS_MONOTONIC_NS, saturated(recorded.at.0));
    to.int(core_key::SCHEDULER_STEP, saturated(recorded.step));
    to.text(core_key::PHASE, recorded.phase.as_str());
    to.int(core_key::PREFILL_DONE_TOKENS, recorded.progress.prefill_done.into());
    to.int(core_key::PREFILL_TOTAL_TOKENS, record.prefill_total.into());
    to.int(core_key::DECODE_DONE_TOKENS, recorded.progress.decode_done.into());
    to.int(core_key::DECODE_MAX_TOKENS, record.decode_max.into());
    to.int(core_key::NUM_PREEMPTIONS, recorded.num_preemptions.into());
    match &recorded.kind {
        CoreEventKind::Queued if record.inferred.queued => to.bool(core_key::INFERRED, true),
        CoreEventKind::Queued | CoreEventKind::FirstToken => {}
        CoreEventKind::Scheduled { kind, cached_tokens, scheduled_tokens, wait } => {
            to.text(core_key::SCHEDULE_KIND, kind.as_str());
            to.int(core_key::CACHED_TOKENS, (*cached_tokens).into());
            int_if_any(to, core_key::SCHEDULED_TOKENS, *scheduled_tokens);
            if let Some(wait) = wait {
                to.text(core_key::WAIT_REASON, wait.reason.as_str());
                if let Some(blocker) = &wait.blocker {
                    to.text(core_key::WAIT_BLOCKER, blocker.as_str());
                }
            }
        }
        CoreEventKind::Preempted { by, tokens_lost, blocks_freed } => {
            if let Some(by) = by {
                to.text(core_key::PREEMPTED_BY, by.as_str());
            }
            int_if_any(to, core_key::TOKENS_LOST, *tokens_lost);
            int_if_any(to, core_key::KV_BLOCKS_FREED, *blocks_freed);
            if let Some(folded) = record.folded(index) {
                to.int(core_key::FOLDED, folded.pairs.into());
                to.int(core_key::FOLDED_PREEMPTED_NS, saturated(folded.preempted_ns));
            }
        }
        CoreEventKind::Finished { status } => {
            to.text(core_key::FINISH_STATUS, status.as_str());
            if record.inferred.finished {
                to.bool(core_key::INFERRED, true);
            }
        }
    }
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

fn int_if_any(to: Visitor<'_>, attribute: Attribute, count: u32) {
    if count > 0 {
        to.int(attribute, count.into());
    }
}

fn text_if_any(to: Visitor<'_>, attribute: Attribute, text: &str) {
    if !text.is_empty() {
        to.text(attribute, text);
    }
}

/// A count too large for a signed integer is reported as the largest.
pub(crate) fn saturated(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The double that prints like the float: a client that asked for 0.7 shall not read 0.699999988079071.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
