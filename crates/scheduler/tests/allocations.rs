//! A step of running sequences does not allocate, traced or not, shown or not. In a binary of its own, because it counts what
//! the whole process allocates.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use wayfare_engine::{EngineRequest, RequestId, SequenceOutput, TokenId};
use wayfare_journey::{
    FinishedJourney, FlightRecorder, HeadSampler, IncomingHeaders, JourneySink, LiveTracing, MonoNs,
    RequestLabel, SystemClock, Tracer, WallAnchor,
};
use wayfare_scheduler::{Scheduler, SchedulerConfig};
use wayfare_testkit::{CountingAllocator, greedy};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const SEQUENCES: u64 = 64;
const PROMPT_TOKENS: u32 = 20;
const MAX_TOKENS: u32 = 200;

#[derive(Debug)]
struct Nowhere;

impl JourneySink for Nowhere {
    fn accept(&self, _: FinishedJourney) {}
}

fn request(id: u64, tracer: Option<&Tracer>) -> EngineRequest {
    let core_span = tracer.and_then(|tracer| {
        let span = tracer.admit(IncomingHeaders::default(), "/test", MonoNs(1)).span.unwrap();
        span.handle().open_cores(&[(PROMPT_TOKENS, MAX_TOKENS)], MonoNs(1)).pop()
    });
    EngineRequest {
        id: RequestId(id),
        label: RequestLabel::new("r"),
        prompt: vec![5; PROMPT_TOKENS as usize].into(),
        sampling: greedy(MAX_TOKENS, &[2]),
        constraint: None,
        priority: 0,
        cache_salt: None,
        arrived: MonoNs(1),
        core_span,
    }
}

/// Allocations of 100 steps in which all running sequences decode and take new blocks now and then, while so many
/// others wait.
fn allocations_of_decoding(tracer: Option<&Tracer>, waiting: u64) -> u64 {
    let sizes = SchedulerConfig::with_sizes(64, 2048, 4096, 16, 2000);
    let mut scheduler = Scheduler::new(SchedulerConfig { prefix_caching: Some([1, 2]), ..sizes }).unwrap();
    if let Some(tracer) = tracer {
        scheduler.show_on(tracer.board().clone());
    }
    (0..SEQUENCES + waiting).for_each(|id| scheduler.add(request(id, tracer), MonoNs(1)).unwrap());
    let tokens: Vec<TokenId> = vec![7; SEQUENCES as usize];
    let mut outputs: Vec<SequenceOutput> = Vec::with_capacity(tokens.len());
    let mut step = |now: u64| {
        outputs.clear();
        scheduler.schedule(MonoNs(now));
        assert_eq!(scheduler.planned().count(), tokens.len());
        scheduler.commit(&tokens, MonoNs(now), &mut outputs);
    };
    (2..12).for_each(&mut step);
    ALLOCATOR.allocations_of(|| (12..112).for_each(&mut step)).count
}

#[test]
fn a_steady_step_does_not_allocate() {
    let memory = (0..FlightRecorder::bytes(4_000) / 8).map(|_| AtomicU64::new(0)).collect();
    let (clock, anchor) = (Arc::new(SystemClock), WallAnchor::new(MonoNs(1), 1));
    let recorder = FlightRecorder::begin(Box::leak(memory), 1, MonoNs(1), anchor).unwrap();
    let with = |rate, live| {
        Tracer::with_live_view(clock.clone(), HeadSampler::new(rate).unwrap(), Arc::new(Nowhere), live)
    };
    let ends = || Some(Arc::new(Nowhere) as _);
    let recorded = with(1.0, LiveTracing::default());
    let only_shown = with(0.0, LiveTracing { ends: ends(), recorder: None });
    let in_the_recorder = with(1.0, LiveTracing { ends: ends(), recorder: Some(recorder) });
    for waiting in [0, 1_000] {
        assert_eq!(allocations_of_decoding(None, waiting), 0);
        for tracer in [&recorded, &only_shown, &in_the_recorder] {
            assert_eq!(allocations_of_decoding(Some(tracer), waiting), 0);
        }
    }
}
