//! The step stream of a running engine.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use wayfare_engine::Engine;
use wayfare_engine_local::{EngineOptions, StepTracing};
use wayfare_journey::{Phase, StepSampling, StepSink, StepSpan, StepTracer};
use wayfare_testkit::wait_until;

use crate::rig::{Behaviour, PATIENCE, Rig};

/// Nothing is closed for idleness in tests that are not about it.
const NEVER_IDLE: Duration = Duration::from_secs(3_600);

#[derive(Clone, Debug, Default)]
struct Spans(Arc<Mutex<Vec<StepSpan>>>);

impl StepSink for Spans {
    fn accept(&self, span: StepSpan) {
        self.0.lock().push(span);
    }
}

impl Spans {
    fn ranges(&self) -> Vec<(u64, u64, u64)> {
        let spans = self.0.lock();
        spans.iter().map(|span| (span.sequence, span.first_step, span.last_step)).collect()
    }
}

fn rig(rate: f64, rich: f64, interval: u32, idle_time: Duration) -> (Rig, Spans) {
    let spans = Spans::default();
    let sampling = StepSampling::new(rate, rich, NonZeroU32::new(interval).unwrap()).unwrap();
    let tracer = StepTracer::new(sampling, 3, Arc::new(spans.clone()));
    let steps = Some(StepTracing::new(tracer).with_idle_time(idle_time));
    (Rig::with(EngineOptions { steps, ..EngineOptions::default() }), spans)
}

/// One request that takes so many steps.
fn run_steps(rig: &Rig, id: u64, steps: u32) {
    rig.submit(id, &[5; 4], steps).unwrap();
    rig.permit_steps(steps as usize);
    rig.finish_of(id);
}

#[test]
fn spans_close_at_the_interval_and_the_last_one_at_the_end() {
    let (rig, spans) = rig(0.5, 0.5, 10, NEVER_IDLE);
    run_steps(&rig, 1, 35);
    rig.engine.stop();
    assert_eq!(spans.ranges(), [(1, 1, 10), (2, 11, 20), (3, 21, 30), (4, 31, 35)]);
    let spans = spans.0.lock();
    assert!(spans.iter().all(|span| span.engine_id == 3 && span.closure_interval == 10));
    assert!(spans.windows(2).all(|pair| pair[0].ended <= pair[1].started));
    let ids: std::collections::HashSet<_> = spans.iter().map(|span| span.trace_id.to_bytes()).collect();
    assert_eq!(ids.len(), spans.len(), "each is a trace of its own");
}

#[test]
fn an_idle_engine_closes_its_span_in_time() {
    let (rig, spans) = rig(1.0, 0.0, 10, Duration::from_millis(30));
    run_steps(&rig, 1, 3);
    wait_until(PATIENCE, || spans.ranges() == [(1, 1, 3)]);
    // The next one begins with the next step.
    run_steps(&rig, 2, 2);
    wait_until(PATIENCE, || spans.ranges() == [(1, 1, 3), (2, 4, 5)]);
}

#[test]
fn at_rate_zero_nothing_is_left() {
    let (rig, spans) = rig(0.0, 1.0, 10, Duration::from_millis(1));
    run_steps(&rig, 1, 25);
    rig.engine.stop();
    assert_eq!(spans.ranges(), []);
}

#[test]
fn at_rate_one_every_step_has_a_summary_whose_sums_agree() {
    let (rig, spans) = rig(1.0, 0.0, 10, NEVER_IDLE);
    // The pool has six blocks of 16 tokens: both together grow beyond it, so one is preempted.
    rig.submit(1, &[5; 40], 30).unwrap();
    rig.submit(2, &[6; 40], 30).unwrap();
    rig.permit_steps(200);
    rig.finish_of(1);
    rig.finish_of(2);
    let steps = rig.engine.stats().steps;
    rig.engine.stop();
    let spans = spans.0.lock();
    let summaries: Vec<_> = spans.iter().flat_map(|span| &span.summaries).collect();
    let numbers: Vec<u64> = summaries.iter().map(|summary| summary.step).collect();
    assert_eq!(numbers, (1..=steps).collect::<Vec<_>>());
    for summary in &summaries {
        assert_eq!(
            summary.prefill_requests + summary.decode_requests > 0,
            summary.prefill_tokens + summary.decode_tokens > 0
        );
        assert_eq!(summary.decode_requests, summary.decode_tokens, "a decode is a token");
        assert!(summary.kv_blocks_free <= summary.kv_blocks_total);
        let parts = summary.schedule_ns + summary.execute_ns + summary.commit_ns;
        assert_eq!(parts, summary.ended.since(summary.started), "the parts are the whole");
        assert!(summary.running <= 2);
    }
    let sum =
        |value: fn(&wayfare_journey::StepSummary) -> u32| summaries.iter().map(|one| value(one)).sum::<u32>();
    assert_eq!(sum(|one| one.finished), 2);
    assert_eq!(sum(|one| one.preempted), 1);
    // Both prompts, and what was computed again.
    assert!(sum(|one| one.prefill_tokens) > 80, "a re-prefill counts as prefill");
    assert!(spans.iter().all(|span| span.snapshots.is_empty() && span.dropped_events == 0));
}

#[test]
fn a_rich_step_shows_every_running_request() {
    let (rig, spans) = rig(1.0, 1.0, 100, NEVER_IDLE);
    run_steps(&rig, 1, 3);
    run_steps(&rig, 2, 1);
    rig.engine.stop();
    let spans = spans.0.lock();
    let [span] = &**spans else { panic!("one span: {spans:?}") };
    let shown: Vec<_> = span
        .snapshots
        .iter()
        .map(|one| {
            (
                one.step,
                one.label.as_str(),
                one.phase,
                one.computed_tokens,
                one.scheduled_tokens,
                one.kv_blocks,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (1, "r1", Phase::Prefill, 0, 4, 1),
            (2, "r1", Phase::Decode, 4, 1, 1),
            (3, "r1", Phase::Decode, 5, 1, 1),
            (4, "r2", Phase::Prefill, 0, 4, 1),
        ]
    );
    assert_eq!(span.snapshots[2].output_tokens, 2);
}

#[test]
fn rich_steps_are_sampled_ones() {
    let (rig, spans) = rig(0.3, 0.5, 1_000, NEVER_IDLE);
    run_steps(&rig, 1, 80);
    rig.engine.stop();
    let spans = spans.0.lock();
    let sampled: Vec<u64> = spans.iter().flat_map(|span| &span.summaries).map(|one| one.step).collect();
    let rich: Vec<u64> = spans.iter().flat_map(|span| &span.snapshots).map(|one| one.step).collect();
    assert!(!rich.is_empty() && rich.len() < sampled.len() && sampled.len() < 60, "{sampled:?} {rich:?}");
    assert!(rich.iter().all(|step| sampled.contains(step)));
}

#[test]
fn a_step_that_fails_is_recorded_with_those_it_ended() {
    let (rig, spans) = rig(1.0, 0.0, 10, NEVER_IDLE);
    *rig.behaviour.lock() = Behaviour::Fail;
    run_steps(&rig, 1, 1);
    rig.engine.stop();
    let summary = spans.0.lock()[0].summaries[0];
    assert_eq!((summary.running, summary.finished, summary.prefill_tokens), (1, 1, 4));
}
