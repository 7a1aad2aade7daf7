//! What a record takes from `llm_core`.

use wayfare_journey::WaitReason;
use wayfare_journey::schema::{core_event, core_event_attribute as event_key, span_attribute as key};

use super::Survey;
use super::api_part::{ledger_of, name_or_none};
use super::record::{Moment, SequencePart, Writer};
use crate::span::{SpanEvent, TraceSpan};

/// How far a span may reach beyond its bounds, and events lie before one another: two clocks were read.
const CLOCK_TOLERANCE_NS: u64 = 1_000_000;

impl Survey {
    /// Adds what a sequence says to its journey.
    pub(super) fn sequence(&mut self, at: usize, span: &TraceSpan) {
        let instance = self.servers.note(&span.resource, &mut self.names);
        let Self { store, names, .. } = self;
        let Some(record) = store.get_mut(at) else { return };
        let attributes = &span.attributes;
        let mut part = SequencePart {
            span_start_ns: span.start_unix_ns,
            span_end_ns: span.end_unix_ns.max(span.start_unix_ns),
            engine: small(attributes.count(key::ENGINE_ID)),
            ..SequencePart::default()
        };
        let (mut preempted_at, mut preemptions, mut prompt_tokens, mut is_finished) =
            (None::<(u64, Option<u64>)>, 0_u64, 0, false);
        let mut cached_tokens = 0;
        for event in &span.events {
            let event_attributes = &event.attributes;
            prompt_tokens = prompt_tokens.max(small(event_attributes.count(event_key::PREFILL_TOTAL_TOKENS)));
            part.output_tokens =
                part.output_tokens.max(small(event_attributes.count(event_key::DECODE_DONE_TOKENS)));
            let counted = event_attributes.count(event_key::NUM_PREEMPTIONS).unwrap_or(0);
            let now = Moment::at(event.unix_ns);
            match &*event.name {
                name if name == core_event::QUEUED.name => part.queued = part.queued.earliest(now),
                name if name == core_event::SCHEDULED.name => {
                    if let Some((since, folded_ns)) = preempted_at.take() {
                        let waited = folded_ns.unwrap_or(event.unix_ns.saturating_sub(since));
                        part.add_preempted(waited);
                    }
                    if part.scheduled.get().is_none() {
                        part.scheduled = now;
                        part.wait_reason =
                            event_attributes.text(event_key::WAIT_REASON).and_then(wait_reason_of);
                        part.wait_blocker =
                            name_or_none(names, event_attributes.text(event_key::WAIT_BLOCKER));
                        cached_tokens = small(event_attributes.count(event_key::CACHED_TOKENS));
                    }
                }
                name if name == core_event::FIRST_TOKEN.name => {
                    part.first_token = part.first_token.earliest(now);
                }
                name if name == core_event::PREEMPTED.name => {
                    let pairs = event_attributes.count(event_key::FOLDED).unwrap_or(1).max(1);
                    preemptions = preemptions.saturating_add(pairs);
                    let folded_ns = event_attributes.count(event_key::FOLDED_PREEMPTED_NS);
                    preempted_at = Some((event.unix_ns, folded_ns));
                    part.preempted_by = name_or_none(names, event_attributes.text(event_key::PREEMPTED_BY));
                    let lost = small(event_attributes.count(event_key::TOKENS_LOST));
                    record.tokens_lost = record.tokens_lost.saturating_add(lost);
                }
                name if name == core_event::FINISHED.name => {
                    if let Some((since, folded_ns)) = preempted_at.take() {
                        part.add_preempted(folded_ns.unwrap_or(event.unix_ns.saturating_sub(since)));
                    }
                    part.finished = now;
                    is_finished = true;
                }
                _ => {}
            }
            preemptions = preemptions.max(counted);
        }
        record.clock_is_off |= span.end_unix_ns < span.start_unix_ns || !events_are_in_order(span);
        record.sequences = record.sequences.saturating_add(1);
        record.finished_sequences = record.finished_sequences.saturating_add(u16::from(is_finished));
        let was_scheduled = part.scheduled.get().is_some();
        record.scheduled_sequences = record.scheduled_sequences.saturating_add(u16::from(was_scheduled));
        record.preemptions = record.preemptions.saturating_add(small(Some(preemptions)));
        record.first_token = record.first_token.earliest(part.first_token);
        record.prompt_tokens = record.prompt_tokens.max(prompt_tokens);
        record.cached_tokens = record.cached_tokens.max(cached_tokens);
        let recomputed = small(attributes.count(key::TOKENS_RECOMPUTED));
        if !record.has_request {
            record.recomputed_tokens = record.recomputed_tokens.saturating_add(recomputed);
            record.instance = instance;
            let is_first = record.sequences == 1;
            record.start_ns =
                if is_first { part.span_start_ns } else { record.start_ns.min(part.span_start_ns) };
            record.end_ns = record.end_ns.max(part.span_end_ns);
            if record.request_id.is_none() {
                record.request_id = names.intern(attributes.text(key::REQUEST_ID).unwrap_or_default());
            }
            record.output_tokens = record.output_tokens.saturating_add(part.output_tokens);
        } else if record.output_tokens == 0 {
            // The reference does not say it of requests that were aborted.
            record.output_tokens = part.output_tokens;
        }
        let ends_last = record.sequences == 1 || part.finished.get() >= record.last.finished.get();
        if ends_last {
            record.last = part;
        }
        if !record.has_request {
            match ledger_of(attributes) {
                Some(buckets) if ends_last => {
                    record.buckets = buckets;
                    record.has_ledger = true;
                }
                Some(_) => {}
                None => record.writer = Writer::Reference,
            }
        }
        self.spans.dropped_events += span.dropped_events;
    }
}

impl SequencePart {
    fn add_preempted(&mut self, ns: u64) {
        let place = if self.first_token.get().is_some() {
            &mut self.preempted_since_token_ns
        } else {
            &mut self.preempted_before_token_ns
        };
        *place = place.saturating_add(ns);
    }
}

/// Whether no event is much earlier than one before it.
pub(super) fn events_are_in_order(span: &TraceSpan) -> bool {
    let in_order = |pair: &[SpanEvent]| pair[0].unix_ns <= pair[1].unix_ns.saturating_add(CLOCK_TOLERANCE_NS);
    span.events.windows(2).all(in_order)
}

fn wait_reason_of(text: &str) -> Option<WaitReason> {
    WaitReason::ALL.into_iter().find(|reason| reason.as_str() == text)
}

/// A count that is kept in 32 bits; what is missing is 0.
pub(super) fn small(count: Option<u64>) -> u32 {
    u32::try_from(count.unwrap_or(0)).unwrap_or(u32::MAX)
}
