//! The step stream: what the engine did in its steps, whoever it did it for.
//!
//! HOT PATH: a [`StepTracer`] runs on the engine thread. A step that is not sampled costs a hash and a comparison; a
//! sampled one writes into memory that was allocated when its span was opened.

use std::fmt::Debug;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::event::{Phase, RequestLabel};
use crate::{InvalidSampleRate, MonoNs, SpanId, TraceId};

/// Most events of a step span, summaries and snapshots together; a collector takes messages up to 4 MiB by gRPC, and
/// an event takes up to 800 bytes there.
pub const MAX_STEP_EVENTS: usize = 4096;
/// Most snapshots of a step, so that a rich step does not crowd out the summaries of the others.
const MAX_SNAPSHOTS_PER_STEP: usize = 512;

/// What one sampled step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepSummary {
    /// Its number, as `scheduler.step` of the events of the requests in it.
    pub step: u64,
    /// When its planning began.
    pub started: MonoNs,
    /// When all of it was done.
    pub ended: MonoNs,
    /// Planning, in nanoseconds.
    pub schedule_ns: u64,
    /// Computing, in nanoseconds.
    pub execute_ns: u64,
    /// Taking over what was computed, in nanoseconds.
    pub commit_ns: u64,
    /// Requests that were running, once it was planned.
    pub running: u32,
    /// Requests that were waiting, once it was planned.
    pub waiting: u32,
    /// Requests with prompt tokens in it, or with tokens that are computed again.
    pub prefill_requests: u32,
    /// Requests with nothing but their last output token in it.
    pub decode_requests: u32,
    /// Tokens of these requests.
    pub prefill_tokens: u32,
    /// Tokens of those requests.
    pub decode_tokens: u32,
    /// Requests that ended with it.
    pub finished: u32,
    /// Requests that were preempted for it.
    pub preempted: u32,
    /// KV blocks in the pool.
    pub kv_blocks_total: u32,
    /// KV blocks that are free after it.
    pub kv_blocks_free: u32,
}

/// One running request in a sampled step, before the step was computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSnapshot {
    /// The step.
    pub step: u64,
    /// When it was taken.
    pub at: MonoNs,
    /// The request.
    pub label: RequestLabel,
    /// What it was doing.
    pub phase: Phase,
    /// Its prompt tokens.
    pub prompt_tokens: u32,
    /// Its tokens whose keys and values were in its blocks.
    pub computed_tokens: u32,
    /// Its output tokens.
    pub output_tokens: u32,
    /// Its preemptions.
    pub num_preemptions: u32,
    /// What the step computed for it.
    pub scheduled_tokens: u32,
    /// Its KV blocks.
    pub kv_blocks: u32,
    /// Those of them that others may find in the prefix cache.
    pub kv_blocks_cached: u32,
    /// Prompt tokens that it had found there itself.
    pub cached_tokens: u32,
}

/// A number of steps, one after the other, and what was recorded of them. A root span of a trace of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepSpan {
    /// Its trace.
    pub trace_id: TraceId,
    /// Its id.
    pub span_id: SpanId,
    /// Which engine of the server it comes from.
    pub engine_id: u32,
    /// Its place among the spans of the engine, from 1.
    pub sequence: u64,
    /// After how many steps spans are closed.
    pub closure_interval: u32,
    /// Its first step.
    pub first_step: u64,
    /// Its last step.
    pub last_step: u64,
    /// When its first step began.
    pub started: MonoNs,
    /// When its last step was done.
    pub ended: MonoNs,
    /// Its sampled steps.
    pub summaries: Vec<StepSummary>,
    /// The running requests of some of them, in the order of the steps.
    pub snapshots: Vec<RequestSnapshot>,
    /// Summaries and snapshots for which there was no room.
    pub dropped_events: u32,
}

impl StepSpan {
    /// Summaries and snapshots.
    #[must_use]
    pub fn num_events(&self) -> usize {
        self.summaries.len() + self.snapshots.len()
    }

    fn room(&self) -> usize {
        MAX_STEP_EVENTS.saturating_sub(self.num_events())
    }

    fn drop_events(&mut self, count: usize) {
        self.dropped_events = self.dropped_events.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

/// Takes finished step spans. Called on the engine's thread.
pub trait StepSink: Send + Sync + Debug {
    /// Takes the span or drops it and counts that. Never waits. Should it panic, the span is lost and the engine
    /// goes on.
    fn accept(&self, span: StepSpan);
}

/// Which steps are recorded, and when a span of them is closed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSampling {
    summary_rate: f64,
    rich_rate: f64,
    closure_interval: NonZeroU32,
}

impl StepSampling {
    /// Records the share `summary_rate` of all steps, and of those the share `rich_rate` with every running request.
    ///
    /// # Errors
    /// When a rate is not within 0 and 1.
    pub fn new(
        summary_rate: f64,
        rich_rate: f64,
        closure_interval: NonZeroU32,
    ) -> Result<Self, InvalidSampleRate> {
        let bad = [summary_rate, rich_rate].into_iter().find(|rate| !(0.0..=1.0).contains(rate));
        bad.map_or(Ok(Self { summary_rate, rich_rate, closure_interval }), |rate| {
            Err(InvalidSampleRate(rate))
        })
    }

    /// What is recorded of a step. The same number gets the same answer in every run.
    #[inline]
    fn detail(&self, step: u64) -> StepDetail {
        if !is_chosen(step, SUMMARY_STREAM, self.summary_rate) {
            StepDetail::None
        } else if is_chosen(step, RICH_STREAM, self.rich_rate) {
            StepDetail::Rich
        } else {
            StepDetail::Summary
        }
    }
}

/// What is recorded of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepDetail {
    /// Nothing; it is only counted.
    None,
    /// What it did.
    Summary,
    /// What it did, and every running request.
    Rich,
}

const SUMMARY_STREAM: u64 = 0x9e37_79b9_7f4a_7c15;
const RICH_STREAM: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// Whether a hash of the step is below the rate: evenly spread, without a pattern that could fall in with the load's.
/// The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014).
#[inline]
fn is_chosen(step: u64, stream: u64, rate: f64) -> bool {
    let mut hash = step.wrapping_mul(stream).wrapping_add(stream);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    // 53 bits, as many as a double can tell apart; a rate of 1 takes all of them.
    ((hash >> 11) as f64) < rate * (1_u64 << 53) as f64
}

/// Collects steps in spans, and hands each span on when it is closed. Exists only when step tracing is on.
#[derive(Debug)]
pub struct StepTracer {
    sampling: StepSampling,
    engine_id: u32,
    sink: Arc<dyn StepSink>,
    open: Option<Box<StepSpan>>,
    closed: u64,
}

impl StepTracer {
    /// A tracer of the engine with this number.
    #[must_use]
    pub fn new(sampling: StepSampling, engine_id: u32, sink: Arc<dyn StepSink>) -> Self {
        Self { sampling, engine_id, sink, open: None, closed: 0 }
    }

    /// A step begins. Says what is to be recorded of it. With a rate of 0 nothing ever is, and there are no spans.
    #[inline]
    pub fn begin(&mut self, step: u64, at: MonoNs) -> StepDetail {
        if self.sampling.summary_rate == 0.0 {
            return StepDetail::None;
        }
        if self.open.is_none() {
            self.open = Some(self.open_span(step, at));
        }
        self.sampling.detail(step)
    }

    /// Records the running requests of a step for which [`StepTracer::begin`] said [`StepDetail::Rich`]. Those for
    /// which there is no room are counted and not looked at.
    pub fn snapshots(&mut self, snapshots: impl ExactSizeIterator<Item = RequestSnapshot>) {
        let Some(span) = &mut self.open else { return };
        let recorded = snapshots.len().min(MAX_SNAPSHOTS_PER_STEP).min(span.room());
        span.drop_events(snapshots.len() - recorded);
        span.snapshots.extend(snapshots.take(recorded));
    }

    /// Records a step for which [`StepTracer::begin`] said so.
    pub fn summary(&mut self, summary: StepSummary) {
        let Some(span) = &mut self.open else { return };
        if span.room() > 0 {
            span.summaries.push(summary);
        } else {
            span.drop_events(1);
        }
    }

    /// A step is over. Closes the span when it was the last of the interval.
    #[inline]
    pub fn end(&mut self, step: u64, at: MonoNs) {
        let Some(span) = &mut self.open else { return };
        span.last_step = step;
        span.ended = at;
        if span.last_step - span.first_step + 1 >= u64::from(self.sampling.closure_interval.get()) {
            self.close();
        }
    }

    /// Whether there is a span to close when the engine has nothing to do for long.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Closes the open span, if there is one: the engine has been idle, or ends.
    pub fn close(&mut self) {
        if let Some(span) = self.open.take() {
            self.closed += 1;
            // The panic has been reported by its hook, and the engine is not to blame for it.
            let _ = catch_unwind(AssertUnwindSafe(|| self.sink.accept(*span)));
        }
    }

    fn open_span(&self, step: u64, at: MonoNs) -> Box<StepSpan> {
        let interval = self.sampling.closure_interval.get();
        // A little more than will be sampled on average; a luckier span grows once.
        let expected = f64::from(interval) * self.sampling.summary_rate;
        let capacity = (expected + 4.0 * expected.sqrt()) as usize + 1;
        Box::new(StepSpan {
            trace_id: TraceId::random(),
            span_id: SpanId::random(),
            engine_id: self.engine_id,
            sequence: self.closed + 1,
            closure_interval: interval,
            first_step: step,
            last_step: step,
            started: at,
            ended: at,
            summaries: Vec::with_capacity(capacity.min(interval as usize).min(MAX_STEP_EVENTS)),
            snapshots: Vec::new(),
            dropped_events: 0,
        })
    }
}

impl Drop for StepTracer {
    /// The engine is gone, however it went.
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_chosen_steps_is_the_rate() {
        let chosen = |stream, rate| (0..100_000).filter(|step| is_chosen(*step, stream, rate)).count();
        for stream in [SUMMARY_STREAM, RICH_STREAM] {
            assert_eq!((chosen(stream, 0.0), chosen(stream, 1.0)), (0, 100_000));
            let share = chosen(stream, 0.1);
            // Four standard deviations of a binomial distribution.
            assert!((9_620..10_380).contains(&share), "{share}");
        }
    }

    #[derive(Debug, Default)]
    struct Closed(parking_lot::Mutex<Vec<StepSpan>>);

    impl StepSink for Closed {
        fn accept(&self, span: StepSpan) {
            self.0.lock().push(span);
        }
    }

    fn rich_tracer(steps: u32, sink: Arc<dyn StepSink>) -> StepTracer {
        let sampling = StepSampling::new(1.0, 1.0, NonZeroU32::new(steps).unwrap()).unwrap();
        StepTracer::new(sampling, 0, sink)
    }

    /// Records one step with so many running requests, and says how many were looked at.
    fn rich_step(tracer: &mut StepTracer, step: u64, requests: u32) -> usize {
        let label = RequestLabel::new("cmpl-1");
        let mut looked_at = 0;
        assert_eq!(tracer.begin(step, MonoNs(step)), StepDetail::Rich);
        tracer.snapshots((0..requests).map(|prompt_tokens| {
            looked_at += 1;
            RequestSnapshot {
                step,
                at: MonoNs(step),
                label: label.clone(),
                phase: Phase::Decode,
                prompt_tokens,
                computed_tokens: 0,
                output_tokens: 0,
                num_preemptions: 0,
                scheduled_tokens: 1,
                kv_blocks: 1,
                kv_blocks_cached: 0,
                cached_tokens: 0,
            }
        }));
        tracer.summary(StepSummary { step, running: requests, ..StepSummary::default() });
        tracer.end(step, MonoNs(step + 1));
        looked_at
    }

    #[test]
    fn a_rich_step_of_very_many_requests_looks_at_some_and_counts_the_others() {
        let closed = Arc::new(Closed::default());
        let mut tracer = rich_tracer(1, closed.clone());
        assert_eq!(rich_step(&mut tracer, 1, 100_000), MAX_SNAPSHOTS_PER_STEP);
        assert_eq!(rich_step(&mut tracer, 2, 3), 3);
        let spans = closed.0.lock();
        let counts: Vec<_> = spans
            .iter()
            .map(|span| (span.snapshots.len(), span.summaries.len(), span.dropped_events))
            .collect();
        assert_eq!(counts, [(512, 1, 99_488), (3, 1, 0)]);
        let first: Vec<_> = spans[0].snapshots.iter().map(|snapshot| snapshot.prompt_tokens).collect();
        assert_eq!(first, (0..512).collect::<Vec<_>>());
    }

    #[test]
    fn a_span_that_is_full_counts_what_comes_and_looks_at_nothing() {
        let closed = Arc::new(Closed::default());
        let mut tracer = rich_tracer(10, closed.clone());
        let looked_at: Vec<_> = (1..=10).map(|step| rich_step(&mut tracer, step, 600)).collect();
        // Seven steps of 512 snapshots and a summary, and what is left of the room in the eighth.
        assert_eq!(looked_at, [512, 512, 512, 512, 512, 512, 512, 505, 0, 0]);
        let spans = closed.0.lock();
        let span = &spans[0];
        assert_eq!((span.num_events(), span.dropped_events), (MAX_STEP_EVENTS, 10 * 601 - 4096));
    }

    #[derive(Debug)]
    struct Panicking;

    impl StepSink for Panicking {
        fn accept(&self, span: StepSpan) {
            panic!("no span {} today", span.sequence);
        }
    }

    #[test]
    fn a_panic_over_a_span_of_steps_does_not_reach_the_engine() {
        let mut tracer = rich_tracer(1, Arc::new(Panicking));
        assert_eq!((rich_step(&mut tracer, 1, 1), rich_step(&mut tracer, 2, 1)), (1, 1));
        assert!(!tracer.is_open());
        // An engine that dies drops the tracer while it unwinds.
        let died = catch_unwind(AssertUnwindSafe(|| {
            let mut tracer = rich_tracer(10, Arc::new(Panicking));
            rich_step(&mut tracer, 1, 1);
            panic!("the engine is dead");
        }));
        assert_eq!(died.unwrap_err().downcast_ref::<&str>(), Some(&"the engine is dead"));
    }

    #[test]
    fn a_rate_is_a_share() {
        let interval = NonZeroU32::MIN;
        assert!(StepSampling::new(1.0, 0.0, interval).is_ok());
        for (summary, rich) in [(1.1, 0.0), (-0.1, 0.0), (0.5, 2.0), (f64::NAN, 0.0)] {
            assert!(StepSampling::new(summary, rich, interval).is_err(), "{summary} {rich}");
        }
    }
}
