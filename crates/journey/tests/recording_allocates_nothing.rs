//! What the engine thread does for a journey allocates nothing, up to the usual number of events, and little
//! beyond; a request that is sampled out allocates nothing at all.
//!
//! A binary of its own, because it counts the allocations of the thread through the global allocator.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::Arc;

use wayfare_journey::{
    CoreEvent, CoreEventKind, CoreSpan, FinishStatus, FinishedJourney, HeadSampler, IncomingHeaders,
    JourneySink, KeepRules, MAX_CORE_EVENTS, MonoNs, Phase, Progress, SamplingPolicy, ScheduleKind,
    SystemClock, TraceSampler, Tracer,
};
use wayfare_testkit::{Allocations, CountingAllocator};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Number and bytes of the allocations of `work`.
fn allocations_of(work: impl FnOnce()) -> (u64, u64) {
    let Allocations { count, bytes } = ALLOCATOR.allocations_of(work);
    (count, bytes)
}

#[derive(Debug)]
struct Forget;

impl JourneySink for Forget {
    fn accept(&self, journey: FinishedJourney) {
        drop(journey);
    }
}

fn tracer(policy: impl Into<SamplingPolicy>) -> Tracer {
    Tracer::new(Arc::new(SystemClock), policy, Arc::new(Forget))
}

fn open(tracer: &Tracer) -> CoreSpan {
    let span = tracer.admit(IncomingHeaders::default(), "/", MonoNs(1)).span.unwrap();
    let core = span.handle().open_cores(&[(10, 10)], MonoNs(2)).pop().unwrap();
    span.complete(MonoNs(3));
    core
}

fn record(core: &mut CoreSpan, kind: CoreEventKind) {
    core.record(event(kind));
}

fn event(kind: CoreEventKind) -> CoreEvent {
    CoreEvent {
        kind,
        at: MonoNs(5),
        step: 1,
        phase: Phase::Waiting,
        progress: Progress::default(),
        num_preemptions: 0,
    }
}

/// A life with so many preemptions, as the engine thread lives it; its part is the last one out.
fn live(mut core: CoreSpan, preemptions: usize) {
    let scheduled =
        |kind| CoreEventKind::Scheduled { kind, cached_tokens: 0, scheduled_tokens: 1, wait: None };
    record(&mut core, CoreEventKind::Queued);
    record(&mut core, scheduled(ScheduleKind::First));
    record(&mut core, CoreEventKind::FirstToken);
    for _ in 0..preemptions {
        record(&mut core, CoreEventKind::Preempted { by: None, tokens_lost: 1, blocks_freed: 1 });
        record(&mut core, scheduled(ScheduleKind::Resume));
    }
    core.finish(event(CoreEventKind::Finished { status: FinishStatus::Stopped }));
}

#[test]
fn the_engine_thread_allocates_nothing_for_a_usual_journey_and_little_for_a_long_one() {
    let rules: KeepRules = "slow>1h,ttft>1h,queue>1h,error,rate=0,preempted".parse().unwrap();
    let rules = SamplingPolicy::new(0.0, TraceSampler::default(), rules).unwrap();
    for policy in [HeadSampler::new(1.0).unwrap().into(), rules] {
        let tracer = tracer(policy);
        // `arc-swap` sets itself up once per thread.
        live(open(&tracer), 0);
        for preemptions in [0, 1] {
            let core = open(&tracer);
            assert_eq!(allocations_of(|| live(core, preemptions)), (0, 0), "{preemptions}");
        }
        let core = open(&tracer);
        let (times, bytes) = allocations_of(|| live(core, 100_000));
        // Doubling from the room for the usual events to that for the most.
        let most = 2 * MAX_CORE_EVENTS * size_of::<CoreEvent>();
        assert!((1..=4).contains(&times) && bytes <= most as u64, "{times} times, {bytes} of {most} bytes");
        assert_eq!(tracer.counters().in_flight(), 0);
    }
}

#[test]
fn a_request_that_is_sampled_out_allocates_nothing() {
    let tracer = tracer(HeadSampler::new(0.0).unwrap());
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let admit = |traceparent| {
        let incoming = IncomingHeaders { traceparent, tracestate: &[] };
        assert!(tracer.admit(incoming, "/v1/chat/completions", MonoNs(1)).span.is_none());
    };
    // The thread's random generator and `arc-swap` set themselves up once.
    admit(None);
    for traceparent in [None, Some(traceparent)] {
        assert_eq!(allocations_of(|| admit(traceparent)), (0, 0));
    }
}
