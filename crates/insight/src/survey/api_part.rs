//! What a record takes from `llm_request`, and from the one span that vLLM itself writes.

use wayfare_journey::WaitReason;
use wayfare_journey::schema::{api_event, api_event_attribute as event_key, span_attribute as key};

use super::Survey;
use super::core_part::{events_are_in_order, small};
use super::names::Name;
use super::record::{Ending, Moment, Writer};
use crate::bucket::{Bucket, Buckets};
use crate::span::{AttributeValue, Attributes, TraceSpan};

const LEDGER_PREFIX: &str = "journey.ledger.";
const LEDGER_SUFFIX: &str = "_ns";
/// What vLLM calls a time in the queue; the sum of its parts in our files.
const QUEUE: &str = "queue";

/// Whether it is vLLM's own span. It has latencies and no events; its scope is `vllm.llm_engine`. Source:
/// `vllm/v1/engine/output_processor.py`, `do_tracing`, of vLLM 0.8 and later.
pub(super) fn is_of_stock_vllm(span: &TraceSpan) -> bool {
    span.attributes.get(key::E2E).is_some() || span.attributes.get(key::TIME_IN_QUEUE).is_some()
}

impl Survey {
    /// Fills in what `llm_request` says. Its bounds are those of the journey.
    pub(super) fn request(&mut self, at: usize, span: &TraceSpan) {
        let instance = self.servers.note(&span.resource, &mut self.names);
        let Self { store, names, .. } = self;
        let Some(record) = store.get_mut(at) else { return };
        let attributes = &span.attributes;
        record.has_request = true;
        record.instance = instance;
        record.start_ns = span.start_unix_ns;
        record.end_ns = span.end_unix_ns.max(span.start_unix_ns);
        record.clock_is_off |= span.end_unix_ns < span.start_unix_ns || !events_are_in_order(span);
        record.request_id = names.intern(attributes.text(key::REQUEST_ID).unwrap_or_default());
        let model = attributes.text(key::RESPONSE_MODEL).or(attributes.text(key::REQUEST_MODEL));
        record.model = names.intern(model.unwrap_or_default());
        record.status_code =
            attributes.count(key::STATUS_CODE).and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
        record.is_streamed = match attributes.get(key::REQUEST_STREAM) {
            Some(AttributeValue::Bool(is_streamed)) => Some(*is_streamed),
            _ => None,
        };
        record.max_tokens = small(attributes.count(key::REQUEST_MAX_TOKENS));
        record.cached_tokens = record.cached_tokens.max(small(attributes.count(key::TOKENS_CACHED)));
        record.recomputed_tokens =
            record.recomputed_tokens.max(small(attributes.count(key::TOKENS_RECOMPUTED)));
        record.wasted_tokens = small(attributes.count(key::TOKENS_WASTED));
        record.blocked_ns = attributes.count(key::DELIVER_BLOCKED).unwrap_or(0);
        record.written_ttft_ns = seconds(attributes.number(key::TIME_TO_FIRST_TOKEN));
        take_usage(record, attributes);
        let choices = match attributes.get(key::FINISH_REASONS) {
            Some(AttributeValue::List(list)) => list.len() as u64,
            _ => 0,
        };
        let expected = choices.max(attributes.count(key::REQUEST_N).unwrap_or(0));
        record.expected_sequences = u16::try_from(expected).unwrap_or(u16::MAX);
        match ledger_of(attributes) {
            Some(buckets) => {
                record.buckets = buckets;
                record.has_ledger = true;
                record.writer = Writer::Own;
            }
            None if is_of_the_reference(span) => {
                record.writer = Writer::Reference;
                record.has_ledger = false;
            }
            None => {}
        }
        for event in &span.events {
            match &*event.name {
                name if name == api_event::HANDOFF_TO_CORE.name => {
                    record.was_handed_off = true;
                    record.handed_off = Moment::at(event.unix_ns);
                    let tokens = small(event.attributes.count(event_key::PREFILL_TOTAL_TOKENS));
                    record.prompt_tokens = record.prompt_tokens.max(tokens);
                }
                name if name == api_event::FIRST_RESPONSE_FROM_CORE.name => {
                    record.first_response = Moment::at(event.unix_ns);
                }
                name if name == api_event::DEPARTED.name => record.ending = Ending::Departed,
                name if name == api_event::ABORTED.name => {
                    record.ending = Ending::Aborted;
                    let reason = event.attributes.text(event_key::REASON).unwrap_or_default();
                    record.abort_reason = names.intern(reason);
                }
                _ => {}
            }
        }
        self.spans.dropped_events += span.dropped_events;
    }

    /// Fills in what vLLM's own span says. It is written when the answer is whole, so that is how it ended.
    pub(super) fn stock_request(&mut self, at: usize, span: &TraceSpan) {
        let instance = self.servers.note(&span.resource, &mut self.names);
        let Self { store, names, .. } = self;
        let Some(record) = store.get_mut(at) else { return };
        let attributes = &span.attributes;
        let time = |attribute| seconds(attributes.number(attribute)).unwrap_or(0);
        record.has_request = true;
        record.writer = Writer::Stock;
        record.instance = instance;
        record.ending = Ending::Departed;
        record.request_id = names.intern(attributes.text(key::REQUEST_ID).unwrap_or_default());
        let model = attributes.text(key::RESPONSE_MODEL).or(attributes.text(key::REQUEST_MODEL));
        record.model = names.intern(model.unwrap_or_default());
        record.start_ns = span.start_unix_ns;
        let e2e = seconds(attributes.number(key::E2E));
        let by_span = span.end_unix_ns.saturating_sub(span.start_unix_ns);
        record.end_ns = span.start_unix_ns.saturating_add(e2e.unwrap_or(by_span));
        record.clock_is_off = span.end_unix_ns < span.start_unix_ns;
        record.max_tokens = small(attributes.count(key::REQUEST_MAX_TOKENS));
        record.written_ttft_ns = seconds(attributes.number(key::TIME_TO_FIRST_TOKEN));
        take_usage(record, attributes);
        let mut buckets = Buckets::default();
        buckets.set(Bucket::Queue(WaitReason::Unknown), time(key::TIME_IN_QUEUE));
        buckets.set(Bucket::Prefill, time(key::TIME_IN_MODEL_PREFILL));
        buckets.set(Bucket::Decode, time(key::TIME_IN_MODEL_DECODE));
        record.buckets = buckets;
        self.spans.dropped_events += span.dropped_events;
    }
}

fn take_usage(record: &mut super::Record, attributes: &Attributes) {
    let prompt = attributes.count(key::INPUT_TOKENS).or(attributes.count(key::PROMPT_TOKENS));
    let output = attributes.count(key::OUTPUT_TOKENS).or(attributes.count(key::COMPLETION_TOKENS));
    record.prompt_tokens = record.prompt_tokens.max(small(prompt));
    record.output_tokens = record.output_tokens.max(small(output));
}

/// The server's account of the time, when there is one.
pub(super) fn ledger_of(attributes: &Attributes) -> Option<Buckets> {
    let (mut buckets, mut queue_total, mut is_there) = (Buckets::default(), 0, false);
    for (name, value) in attributes.iter() {
        let Some(name) = name.strip_prefix(LEDGER_PREFIX).and_then(|rest| rest.strip_suffix(LEDGER_SUFFIX))
        else {
            continue;
        };
        let AttributeValue::Int(ns) = value else { continue };
        let Ok(ns) = u64::try_from(*ns) else { continue };
        is_there = true;
        if name == QUEUE {
            queue_total = ns;
        } else if let Some(bucket) = Bucket::of_name(name) {
            buckets.set(bucket, ns);
        }
    }
    let without_reason = queue_total.saturating_sub(buckets.queue());
    buckets.add(Bucket::Queue(WaitReason::Unknown), without_reason);
    is_there.then_some(buckets)
}

/// The reference has no `ts.monotonic_ns` on the events of its API.
fn is_of_the_reference(span: &TraceSpan) -> bool {
    span.attributes.text(key::PROVIDER_NAME).is_none()
        && !span.events.iter().any(|event| event.attributes.get(event_key::TS_MONOTONIC_NS).is_some())
}

/// A number of seconds in nanoseconds; none when it is negative or none at all.
fn seconds(seconds: Option<f64>) -> Option<u64> {
    // A cast takes what is too large as the largest there is.
    seconds.filter(|seconds| *seconds >= 0.0).map(|seconds| (seconds * 1e9).round() as u64)
}

/// Names that stand for no request.
pub(super) fn name_or_none(names: &mut super::Names, text: Option<&str>) -> Name {
    text.map_or(Name::NONE, |text| names.intern(text))
}
