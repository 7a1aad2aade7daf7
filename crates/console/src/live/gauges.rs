//! The engine's gauges of the last minutes.

use std::collections::VecDeque;

use serde_json::{Value, json};
use wayfare_journey::{EngineTotals, MonoNs, WallAnchor};

use super::SAMPLE_INTERVAL;
use super::request::InFlight;

/// Ten minutes.
const MAX_SAMPLES: usize = 600;

/// The engine at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    at: MonoNs,
    totals: EngineTotals,
    preempted: usize,
    in_flight: usize,
    prompt_tokens_per_second: f64,
    output_tokens_per_second: f64,
}

impl Sample {
    pub(crate) fn json(&self, anchor: WallAnchor) -> Value {
        let totals = &self.totals;
        json!({
            "unix_ns": anchor.unix_ns(self.at).to_string(),
            "running": totals.running,
            "waiting": totals.waiting,
            "preempted": self.preempted,
            "in_flight": self.in_flight,
            "kv_blocks_used": totals.kv_blocks_used,
            "kv_blocks_total": totals.kv_blocks_total,
            "prompt_tokens_per_second": self.prompt_tokens_per_second,
            "output_tokens_per_second": self.output_tokens_per_second,
            "preemptions_total": totals.preemptions,
            "paused": totals.is_paused,
        })
    }
}

/// One sample per second.
#[derive(Debug)]
pub(crate) struct Gauges {
    /// The oldest first.
    samples: VecDeque<Sample>,
    last_totals: EngineTotals,
    last_at: MonoNs,
}

impl Gauges {
    pub(crate) fn new(totals: EngineTotals, now: MonoNs) -> Self {
        Self { samples: VecDeque::with_capacity(MAX_SAMPLES), last_totals: totals, last_at: now }
    }

    /// Whether it is time for another sample. A little early is better than one look late.
    pub(crate) fn is_due(&self, now: MonoNs) -> bool {
        let interval_ns = SAMPLE_INTERVAL.as_nanos() as u64;
        now.since(self.last_at) >= interval_ns - interval_ns / 40
    }

    pub(crate) fn sample(&mut self, totals: EngineTotals, in_flight: &InFlight) -> Sample {
        let seconds = in_flight.now.seconds_since(self.last_at);
        let rate = |after: u64, before: u64| {
            if seconds > 0.0 { after.saturating_sub(before) as f64 / seconds } else { 0.0 }
        };
        let sample = Sample {
            prompt_tokens_per_second: rate(totals.prompt_tokens, self.last_totals.prompt_tokens),
            output_tokens_per_second: rate(totals.generation_tokens, self.last_totals.generation_tokens),
            ..self.at(totals, in_flight)
        };
        (self.last_totals, self.last_at) = (totals, in_flight.now);
        if self.samples.len() >= MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        sample
    }

    /// The engine now, with the rates of the last sample.
    pub(crate) fn at(&self, totals: EngineTotals, in_flight: &InFlight) -> Sample {
        let last = self.samples.back();
        Sample {
            at: in_flight.now,
            totals,
            preempted: in_flight.num_preempted(),
            in_flight: in_flight.len(),
            prompt_tokens_per_second: last.map_or(0.0, |last| last.prompt_tokens_per_second),
            output_tokens_per_second: last.map_or(0.0, |last| last.output_tokens_per_second),
        }
    }

    pub(crate) fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter()
    }
}
