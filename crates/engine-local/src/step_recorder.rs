//! What the engine thread tells the step stream.
//!
//! HOT PATH: a step that is not sampled costs one decision; only a sampled one reads the clock besides.

use std::time::Duration;

use wayfare_engine::SequenceOutput;
use wayfare_journey::{Clock, MonoNs, RequestSnapshot, StepDetail, StepSummary, StepTracer};
use wayfare_scheduler::Scheduler;

/// How long an engine does nothing before its open span of steps is closed.
const IDLE_TIME: Duration = Duration::from_secs(1);

/// The step stream of an engine.
#[derive(Debug)]
pub struct StepTracing {
    tracer: StepTracer,
    idle_time: Duration,
}

impl StepTracing {
    /// Records steps with this tracer.
    #[must_use]
    pub fn new(tracer: StepTracer) -> Self {
        Self { tracer, idle_time: IDLE_TIME }
    }

    /// Closes the open span when the engine has done nothing for this long, instead of a second.
    #[must_use]
    pub fn with_idle_time(self, idle_time: Duration) -> Self {
        Self { idle_time, ..self }
    }
}

/// A step in the making.
#[derive(Debug)]
pub(crate) struct StepRecorder {
    tracing: StepTracing,
    detail: StepDetail,
    summary: StepSummary,
}

impl StepRecorder {
    pub(crate) fn new(tracing: StepTracing) -> Self {
        Self { tracing, detail: StepDetail::None, summary: StepSummary::default() }
    }

    /// The step `step` begins.
    #[inline]
    pub(crate) fn begin(&mut self, step: u64, started: MonoNs) {
        self.detail = self.tracing.tracer.begin(step, started);
        self.summary = StepSummary { step, started, ..StepSummary::default() };
    }

    /// The step is planned.
    #[inline]
    pub(crate) fn planned(&mut self, scheduler: &Scheduler, clock: &dyn Clock) {
        if self.detail != StepDetail::None {
            self.record_plan(scheduler, clock.now());
        }
    }

    fn record_plan(&mut self, scheduler: &Scheduler, at: MonoNs) {
        let facts = scheduler.step_facts();
        let step = self.summary.step;
        self.summary = StepSummary {
            schedule_ns: at.since(self.summary.started),
            running: facts.running,
            waiting: facts.waiting,
            prefill_requests: facts.prefill_sequences,
            decode_requests: facts.decode_sequences,
            prefill_tokens: facts.prefill_tokens,
            decode_tokens: facts.decode_tokens,
            preempted: facts.preempted,
            ..self.summary
        };
        if self.detail == StepDetail::Rich {
            let snapshots = scheduler.running().map(|running| RequestSnapshot {
                step,
                at,
                label: running.label.clone(),
                phase: running.phase,
                prompt_tokens: running.prompt_tokens,
                computed_tokens: running.computed_tokens,
                output_tokens: running.output_tokens,
                num_preemptions: running.num_preemptions,
                scheduled_tokens: running.scheduled_tokens,
                kv_blocks: running.kv_blocks,
                kv_blocks_cached: running.kv_blocks_cached,
                cached_tokens: running.cached_tokens,
            });
            self.tracing.tracer.snapshots(snapshots);
        }
    }

    /// The step was computed at `computed` and is committed; `outputs` are what it gave.
    #[inline]
    pub(crate) fn end(
        &mut self,
        scheduler: &Scheduler,
        outputs: &[SequenceOutput],
        computed: MonoNs,
        clock: &dyn Clock,
    ) {
        let mut ended = computed;
        if self.detail != StepDetail::None {
            ended = clock.now();
            self.record_end(scheduler, outputs, computed, ended);
        }
        self.tracing.tracer.end(self.summary.step, ended);
    }

    fn record_end(
        &mut self,
        scheduler: &Scheduler,
        outputs: &[SequenceOutput],
        computed: MonoNs,
        ended: MonoNs,
    ) {
        let stats = scheduler.stats();
        let planned = MonoNs(self.summary.started.0 + self.summary.schedule_ns);
        // The pool has a `u32` number of blocks, and a step no more sequences than that.
        self.tracing.tracer.summary(StepSummary {
            ended,
            execute_ns: computed.since(planned),
            commit_ns: ended.since(computed),
            finished: outputs.iter().filter(|output| output.finish.is_some()).count() as u32,
            kv_blocks_total: stats.kv_blocks_total as u32,
            kv_blocks_free: (stats.kv_blocks_total - stats.kv_blocks_used) as u32,
            ..self.summary
        });
    }

    /// How long the engine may wait before it has to close a span.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.tracing.tracer.is_open().then_some(self.tracing.idle_time)
    }

    /// The engine has done nothing for that long, or ends.
    pub(crate) fn close(&mut self) {
        self.tracing.tracer.close();
    }
}
