//! What the engines did in their steps.

use wayfare_journey::schema::{step_event, step_event_attribute as key, step_span_attribute as span_key};

use super::names::Name;
use crate::span::TraceSpan;

/// Most steps that are kept.
const MAX_SAMPLES: usize = 1 << 19;

/// One step that was recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSample {
    /// Which server.
    pub instance: Name,
    /// Which engine of it.
    pub engine: u32,
    /// Its end, nanoseconds since the Unix epoch.
    pub unix_ns: u64,
    /// How long it took, in microseconds.
    pub duration_us: u32,
    /// Requests that were running.
    pub running: u32,
    /// Requests that were waiting.
    pub waiting: u32,
    /// Prompt tokens, and tokens computed again.
    pub prefill_tokens: u32,
    /// Output tokens.
    pub decode_tokens: u32,
    /// Requests preempted for it.
    pub preempted: u32,
    /// Share of the KV blocks in use after it, 0 to 1.
    pub kv_usage: f32,
}

/// The steps that were recorded, or every n-th of them.
#[derive(Debug)]
pub struct Steps {
    samples: Vec<StepSample>,
    seen: u64,
    every: u64,
}

impl Default for Steps {
    fn default() -> Self {
        Self { samples: Vec::new(), seen: 0, every: 1 }
    }
}

impl Steps {
    /// Those that are kept, in the order of the files.
    #[must_use]
    pub fn samples(&self) -> &[StepSample] {
        &self.samples
    }

    /// How many there were.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Every how-many-th is kept.
    #[must_use]
    pub fn every(&self) -> u64 {
        self.every
    }

    pub(super) fn add(&mut self, span: &TraceSpan, instance: Name) {
        let engine =
            span.attributes.count(span_key::ENGINE_ID).and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
        for event in span.events.iter().filter(|event| *event.name == *step_event::BATCH_SUMMARY.name) {
            self.seen += 1;
            if !(self.seen - 1).is_multiple_of(self.every) {
                continue;
            }
            if self.samples.len() >= MAX_SAMPLES {
                let mut is_second = false;
                self.samples.retain(|_| {
                    is_second = !is_second;
                    is_second
                });
                self.every *= 2;
            }
            let count = |attribute| {
                let value = event.attributes.count(attribute).unwrap_or(0);
                u32::try_from(value).unwrap_or(u32::MAX)
            };
            let usage = event.attributes.number(key::KV_USAGE_RATIO).unwrap_or(0.0);
            self.samples.push(StepSample {
                instance,
                engine,
                unix_ns: event.unix_ns,
                duration_us: count(key::DURATION_US),
                running: count(key::RUNNING_DEPTH),
                waiting: count(key::WAITING_DEPTH),
                prefill_tokens: count(key::PREFILL_TOKENS),
                decode_tokens: count(key::DECODE_TOKENS),
                preempted: count(key::NUM_PREEMPTED),
                kv_usage: if usage.is_finite() { usage.clamp(0.0, 1.0) as f32 } else { 0.0 },
            });
        }
    }
}
