//! How long requests took.

use serde::Serialize;

use super::percentiles::Percentiles;
use crate::survey::{Ending, Record, Survey};

/// The latencies, in seconds. Those that need the API's span are of requests that were served; those of the engine also
/// of sequences whose API span is missing. `None` where no request tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Latencies {
    /// Arrival to the first token.
    pub ttft: Option<Percentiles>,
    /// Time between tokens: each request's mean, counted once per gap.
    pub itl: Option<Percentiles>,
    /// Time per output token after the first: each request's mean.
    pub tpot: Option<Percentiles>,
    /// In the queue before the first step.
    pub queue: Option<Percentiles>,
    /// First step to first token.
    pub prefill: Option<Percentiles>,
    /// First token to last token.
    pub decode: Option<Percentiles>,
    /// Arrival to the end of the answer.
    pub e2e: Option<Percentiles>,
}

/// A latency by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyKind {
    /// Arrival to the first token.
    Ttft,
    /// Time between tokens, of each request's mean.
    Itl,
    /// Time per output token.
    Tpot,
    /// In the queue.
    Queue,
    /// First step to first token.
    Prefill,
    /// First token to last token.
    Decode,
    /// All of it.
    E2e,
}

impl LatencyKind {
    /// All of them, as they are shown.
    pub const ALL: [LatencyKind; 7] = [
        LatencyKind::Ttft,
        LatencyKind::Itl,
        LatencyKind::Tpot,
        LatencyKind::Queue,
        LatencyKind::Prefill,
        LatencyKind::Decode,
        LatencyKind::E2e,
    ];

    /// Its key in JSON and in conditions.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            LatencyKind::Ttft => "ttft",
            LatencyKind::Itl => "itl",
            LatencyKind::Tpot => "tpot",
            LatencyKind::Queue => "queue",
            LatencyKind::Prefill => "prefill",
            LatencyKind::Decode => "decode",
            LatencyKind::E2e => "e2e",
        }
    }

    /// Its name for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            LatencyKind::Ttft => "TTFT",
            LatencyKind::Itl => "ITL",
            LatencyKind::Tpot => "TPOT",
            LatencyKind::E2e => "end to end",
            other => other.key(),
        }
    }

    /// That of a request, in nanoseconds, with how many times it counts.
    #[must_use]
    pub fn of(self, record: &Record) -> Option<(u64, u32)> {
        let is_served = record.ending == Ending::Departed;
        // A sequence without its API span was served as far as anybody knows.
        let counts = is_served || (!record.has_request && record.finished_sequences > 0);
        if !counts {
            return None;
        }
        let once = |ns: Option<u64>| ns.map(|ns| (ns, 1));
        match self {
            LatencyKind::Ttft => once(record.ttft_ns()),
            LatencyKind::Itl => Some((record.tpot_ns()?, record.token_gaps()?.get())),
            LatencyKind::Tpot => once(record.tpot_ns()),
            LatencyKind::Queue => once(record.queue_ns()),
            LatencyKind::Prefill => once(record.prefill_ns()),
            LatencyKind::Decode => once(record.decode_ns()),
            LatencyKind::E2e => once(record.e2e_ns()),
        }
    }
}

impl Latencies {
    pub(super) fn of(survey: &Survey) -> Self {
        let mut latencies = Self::default();
        for kind in LatencyKind::ALL {
            let mut values: Vec<_> = survey.records().filter_map(|record| kind.of(record)).collect();
            *latencies.place(kind) = Percentiles::of_weighted(&mut values);
        }
        latencies
    }

    /// The figures of one.
    #[must_use]
    pub fn get(&self, kind: LatencyKind) -> Option<&Percentiles> {
        match kind {
            LatencyKind::Ttft => self.ttft.as_ref(),
            LatencyKind::Itl => self.itl.as_ref(),
            LatencyKind::Tpot => self.tpot.as_ref(),
            LatencyKind::Queue => self.queue.as_ref(),
            LatencyKind::Prefill => self.prefill.as_ref(),
            LatencyKind::Decode => self.decode.as_ref(),
            LatencyKind::E2e => self.e2e.as_ref(),
        }
    }

    fn place(&mut self, kind: LatencyKind) -> &mut Option<Percentiles> {
        match kind {
            LatencyKind::Ttft => &mut self.ttft,
            LatencyKind::Itl => &mut self.itl,
            LatencyKind::Tpot => &mut self.tpot,
            LatencyKind::Queue => &mut self.queue,
            LatencyKind::Prefill => &mut self.prefill,
            LatencyKind::Decode => &mut self.decode,
            LatencyKind::E2e => &mut self.e2e,
        }
    }
}
