//! What a client is told about the time of its own request, when the server and the client want that.
//!
//! Made of the engine's terminal outputs alone, like all metrics: tracing plays no part.

use std::fmt::Write as _;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use wayfare_engine::Finish;
use wayfare_journey::{Ledger, MonoNs, RequestMoments, WaitTimes};

use crate::generation::TokenUsage;

/// Whether metrics go into the answer: not at all, into a header, or into the body as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricsWanted {
    /// The server does not give any.
    No,
    /// `Server-Timing`, where the answer is not streamed.
    InHeader,
    /// An object in the body, besides.
    InBody,
}

/// Collects what the metrics of one request are made of.
#[derive(Debug)]
pub(crate) struct RequestAccount {
    arrived: MonoNs,
    body_complete: MonoNs,
    submitted: MonoNs,
    first_token: Option<MonoNs>,
    /// The choice that ended last, and its tokens.
    last: Option<(Finish, u32)>,
    preemptions: u64,
    recomputed_tokens: u64,
}

impl RequestAccount {
    pub(crate) fn new(arrived: MonoNs, body_complete: MonoNs, submitted: MonoNs) -> Self {
        Self {
            arrived,
            body_complete,
            submitted,
            first_token: None,
            last: None,
            preemptions: 0,
            recomputed_tokens: 0,
        }
    }

    /// The engine has ended a choice of so many tokens.
    pub(crate) fn finished(&mut self, finish: &Finish, generated_tokens: u32) {
        let first_tokens = self.first_token.into_iter().chain(finish.times.first_token);
        self.first_token = first_tokens.min();
        self.preemptions += u64::from(finish.num_preemptions);
        self.recomputed_tokens += u64::from(finish.ledger.recomputed_tokens);
        if self.last.as_ref().is_none_or(|(last, _)| end_of(last) <= end_of(finish)) {
            self.last = Some((finish.clone(), generated_tokens));
        }
    }

    /// The metrics of a request whose answer ends at `ended`.
    pub(crate) fn metrics(&self, usage: TokenUsage, ended: MonoNs) -> RequestMetrics {
        let moments = RequestMoments {
            arrived: self.arrived,
            body_complete: Some(self.body_complete),
            submitted: Some(self.submitted),
            ended,
        };
        let last = self.last.as_ref().map(|(finish, _)| finish);
        let core = last.map(|finish| (finish.times.queued, end_of(finish), &finish.ledger));
        let ledger = Ledger::new(&moments, core);
        let times = last.map(|finish| finish.times);
        let between = |from: Option<MonoNs>, until: Option<MonoNs>| {
            from.zip(until).map(|(from, until)| until.since(from) as f64 / 1e6)
        };
        let scheduled = times.and_then(|times| times.first_scheduled);
        let first_token = times.and_then(|times| times.first_token);
        let generation = between(first_token, times.and_then(|times| times.last_token));
        let tokens_after_the_first = self.last.as_ref().map_or(0, |(_, tokens)| tokens.saturating_sub(1));
        let end_to_end_ms = ended.since(self.arrived) as f64 / 1e6;
        RequestMetrics {
            time_to_first_token_ms: between(Some(self.arrived), self.first_token),
            queue_time_ms: between(times.map(|times| times.queued), scheduled),
            prefill_time_ms: between(scheduled, first_token),
            generation_time_ms: generation,
            mean_itl_ms: generation
                .filter(|_| tokens_after_the_first > 0)
                .map(|ms| ms / f64::from(tokens_after_the_first)),
            e2e_time_ms: end_to_end_ms,
            tokens_per_second: (end_to_end_ms > 0.0)
                .then(|| f64::from(usage.completion) / end_to_end_ms * 1e3),
            cached_tokens: usage.cached,
            recomputed_tokens: self.recomputed_tokens,
            preemptions: self.preemptions,
            ledger_ns: LedgerBuckets(ledger),
        }
    }
}

/// When the engine had ended the choice.
fn end_of(finish: &Finish) -> MonoNs {
    MonoNs(finish.times.queued.0 + finish.ledger.total_ns())
}

/// The `metrics` object. Names that vLLM has are vLLM's; its time to first token begins when the request is
/// scheduled, ours when it arrives, as the metric of that name.
#[derive(Debug, Serialize)]
pub(crate) struct RequestMetrics {
    time_to_first_token_ms: Option<f64>,
    queue_time_ms: Option<f64>,
    prefill_time_ms: Option<f64>,
    generation_time_ms: Option<f64>,
    mean_itl_ms: Option<f64>,
    e2e_time_ms: f64,
    tokens_per_second: Option<f64>,
    cached_tokens: u32,
    recomputed_tokens: u64,
    preemptions: u64,
    ledger_ns: LedgerBuckets,
}

impl RequestMetrics {
    /// The value of the `Server-Timing` header (W3C Server Timing), in milliseconds: the buckets of the ledger that
    /// hold anything, and the total.
    pub(crate) fn server_timing(&self) -> String {
        let mut value = String::new();
        let ledger = &self.ledger_ns.0;
        let held = buckets(ledger).into_iter().filter(|(_, ns)| *ns > 0);
        for (name, ns) in held.chain([("total", ledger.total_ns())]) {
            let separator = if value.is_empty() { "" } else { ", " };
            // Writing to a string cannot fail.
            let _ = write!(value, "{separator}{name};dur={:.3}", ns as f64 / 1e6);
        }
        value
    }
}

fn buckets(ledger: &Ledger) -> [(&'static str, u64); 11] {
    let core = &ledger.core;
    [
        ("receive", ledger.receive_ns),
        ("prepare", ledger.prepare_ns),
        ("admit", ledger.admit_ns),
        ("queue", core.queue.total()),
        ("prefill", core.prefill_ns),
        ("prefill_wait", core.prefill_wait_ns),
        ("decode", core.decode_ns),
        ("interference", core.interference_ns),
        ("preempted", core.preempted_ns),
        ("recompute", core.recompute_ns),
        ("deliver", ledger.deliver_ns),
    ]
}

/// All buckets in nanoseconds, and in `queue_by_reason` what of `queue` was waited for what.
#[derive(Debug)]
struct LedgerBuckets(Ledger);

impl Serialize for LedgerBuckets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, ns) in buckets(&self.0) {
            map.serialize_entry(name, &ns)?;
        }
        map.serialize_entry("queue_by_reason", &Reasons(&self.0.core.queue))?;
        map.end()
    }
}

struct Reasons<'a>(&'a WaitTimes);

impl Serialize for Reasons<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(reason, ns)| (reason.as_str(), ns)))
    }
}
