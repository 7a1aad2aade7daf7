//! A tracer whose journeys the test can look at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use wayfare_journey::{
    ApiEnding, ApiSpan, Clock, CoreEvent, CoreEventKind, FinishStatus, FinishedJourney, FlightRecorder,
    HeadSampler, IncomingHeaders, JourneySink, LiveTracing, MonoNs, Phase, Progress, Recording,
    SamplingPolicy, ScheduleKind, Tracer, WallAnchor,
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
    ends: Arc<Captured>,
}

/// Memory of a flight recorder that anybody may look at.
#[derive(Clone, Copy)]
pub(crate) struct Memory(pub(crate) &'static [AtomicU64]);

impl Memory {
    pub(crate) fn for_records(records: u32) -> Self {
        let words = FlightRecorder::bytes(records) / 8;
        Self(Box::leak((0..words).map(|_| AtomicU64::new(0)).collect()))
    }

    pub(crate) fn recorder(self) -> FlightRecorder {
        FlightRecorder::begin(self.0, 77, MonoNs(5), WallAnchor::new(MonoNs(5), 1_000)).unwrap()
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.load(Ordering::SeqCst).to_ne_bytes()).collect()
    }

    pub(crate) fn recording(self) -> Recording {
        Recording::read(&self.bytes()).unwrap()
    }
}

impl Rig {
    pub(crate) fn new(rate: f64) -> Self {
        Self::with_policy(HeadSampler::new(rate).unwrap())
    }

    pub(crate) fn with_policy(policy: impl Into<SamplingPolicy>) -> Self {
        let (clock, captured) = (Arc::new(TestClock::default()), Arc::new(Captured::default()));
        let tracer = Tracer::new(clock.clone(), policy, captured.clone());
        Self { tracer, clock, captured, ends: Arc::default() }
    }

    /// Of a server with a live view, which records this share of the requests.
    pub(crate) fn live(rate: f64, recorder: Option<FlightRecorder>) -> Self {
        let (clock, captured) = (Arc::new(TestClock::default()), Arc::new(Captured::default()));
        let ends = Arc::new(Captured::default());
        let live = LiveTracing { ends: Some(ends.clone()), recorder };
        let policy = HeadSampler::new(rate).unwrap();
        Self {
            tracer: Tracer::with_live_view(clock.clone(), policy, captured.clone(), live),
            clock,
            captured,
            ends,
        }
    }

    /// The requests that have ended, as the live view is told of them.
    pub(crate) fn ends(&self) -> Vec<FinishedJourney> {
        self.ends.0.lock().clone()
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

/// SCHEDULED, in the phase PREFILL.
pub(crate) fn scheduled(kind: ScheduleKind, at: u64) -> CoreEvent {
    let kind = CoreEventKind::Scheduled { kind, cached_tokens: 4, scheduled_tokens: 3, wait: None };
    CoreEvent { phase: Phase::Prefill, ..event(kind, at) }
}

/// PREEMPTED, the `number`-th.
pub(crate) fn preempted(at: u64, number: u32) -> CoreEvent {
    let kind = CoreEventKind::Preempted { by: None, tokens_lost: 1, blocks_freed: 1 };
    CoreEvent { num_preemptions: number, ..event(kind, at) }
}

pub(crate) fn kinds(journey: &FinishedJourney) -> Vec<Vec<CoreEventKind>> {
    journey.cores().map(|(_, core)| core.events.iter().map(|event| event.kind.clone()).collect()).collect()
}
