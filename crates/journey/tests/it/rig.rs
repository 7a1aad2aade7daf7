//! A tracer whose journeys the test can look at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use wayfare_journey::{
    ApiEnding, ApiSpan, Clock, CoreEvent, CoreEventKind, FinishStatus, FinishedJourney, HeadSampler,
    IncomingHeaders, JourneySink, MonoNs, Phase, Progress, SamplingPolicy, Tracer,
};

#[derive(Debug, Default)]
pub(crate) struct TestClock(AtomicU64);

impl TestClock {
    pub(crate) fn set(&self, ns: u64) {
        self.0.store(ns, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> MonoNs {
        MonoNs(self.0.load(Ordering::Relaxed))
    }
}

#[derive(Debug, Default)]
struct Captured(Mutex<Vec<FinishedJourney>>);

impl JourneySink for Captured {
    fn accept(&self, journey: FinishedJourney) {
        self.0.lock().push(journey);
    }
}

pub(crate) struct Rig {
    pub(crate) tracer: Tracer,
    pub(crate) clock: Arc<TestClock>,
    captured: Arc<Captured>,
}

impl Rig {
    pub(crate) fn new(rate: f64) -> Self {
        Self::with_policy(HeadSampler::new(rate).unwrap())
    }

    pub(crate) fn with_policy(policy: impl Into<SamplingPolicy>) -> Self {
        let (clock, captured) = (Arc::new(TestClock::default()), Arc::new(Captured::default()));
        Self { tracer: Tracer::new(clock.clone(), policy, captured.clone()), clock, captured }
    }

    pub(crate) fn admit(&self) -> ApiSpan {
        self.tracer.admit(IncomingHeaders::default(), "/v1/test", MonoNs(10)).span.unwrap()
    }

    pub(crate) fn journeys(&self) -> Vec<FinishedJourney> {
        self.captured.0.lock().clone()
    }

    /// The only journey so far.
    pub(crate) fn journey(&self) -> FinishedJourney {
        let journeys = self.journeys();
        assert_eq!(journeys.len(), 1);
        journeys[0].clone()
    }

    pub(crate) fn ending(&self) -> ApiEnding {
        self.journey().api().ending.clone()
    }
}

pub(crate) fn event(kind: CoreEventKind, at: u64) -> CoreEvent {
    CoreEvent {
        kind,
        at: MonoNs(at),
        step: 3,
        phase: Phase::Decode,
        progress: Progress::default(),
        num_preemptions: 0,
    }
}

pub(crate) fn finished(at: u64) -> CoreEvent {
    event(CoreEventKind::Finished { status: FinishStatus::Stopped }, at)
}

/// PREEMPTED, the `number`-th.
pub(crate) fn preempted(at: u64, number: u32) -> CoreEvent {
    let kind = CoreEventKind::Preempted { by: None, tokens_lost: 1, blocks_freed: 1 };
    CoreEvent { num_preemptions: number, ..event(kind, at) }
}

pub(crate) fn kinds(journey: &FinishedJourney) -> Vec<Vec<CoreEventKind>> {
    journey.cores().map(|(_, core)| core.events.iter().map(|event| event.kind.clone()).collect()).collect()
}
