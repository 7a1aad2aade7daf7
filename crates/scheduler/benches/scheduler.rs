//! What a step costs: scheduling and committing together, without any computation between.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench may stop at the first surprise")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use wayfare_engine::{EngineRequest, FinishReason, RequestId, SequenceOutput, TokenId};
use wayfare_journey::{
    FinishedJourney, FlightRecorder, HeadSampler, IncomingHeaders, JourneySink, LiveTracing, MonoNs,
    RequestLabel, SystemClock, Tracer, WallAnchor,
};
use wayfare_scheduler::{Scheduler, SchedulerConfig};
use wayfare_testkit::greedy;

const BLOCK_SIZE: u32 = 16;
const MAX_MODEL_LEN: u32 = 40_000;

fn request(id: u64, prompt: &Arc<[TokenId]>, max_tokens: u32) -> EngineRequest {
    EngineRequest {
        id: RequestId(id),
        label: RequestLabel::new("chatcmpl-bench"),
        prompt: Arc::clone(prompt),
        sampling: greedy(max_tokens, &[2]),
        constraint: None,
        priority: 0,
        cache_salt: None,
        arrived: MonoNs(1),
        core_span: None,
    }
}

#[derive(Debug)]
struct Nowhere;

impl JourneySink for Nowhere {
    fn accept(&self, _: FinishedJourney) {}
}

/// A tracer that records this share of the requests and shows all of them, in a flight recorder if it has one.
fn live_tracer(sample_rate: f64, has_recorder: bool) -> Tracer {
    let recorder = has_recorder.then(|| {
        let memory = (0..FlightRecorder::bytes(4_096) / 8).map(|_| AtomicU64::new(0)).collect();
        FlightRecorder::begin(Box::leak(memory), 1, MonoNs(1), WallAnchor::new(MonoNs(1), 1)).unwrap()
    });
    let live = LiveTracing { ends: Some(Arc::new(Nowhere)), recorder };
    let sampler = HeadSampler::new(sample_rate).unwrap();
    Tracer::with_live_view(Arc::new(SystemClock), sampler, Arc::new(Nowhere), live)
}

fn scheduler(max_num_seqs: u32, num_kv_blocks: u32) -> Scheduler {
    let sizes = SchedulerConfig::with_sizes(max_num_seqs, 8192, MAX_MODEL_LEN, BLOCK_SIZE, num_kv_blocks);
    Scheduler::new(SchedulerConfig { prefix_caching: Some([1, 2]), ..sizes }).unwrap()
}

/// Steps of `running` sequences that decode, while `waiting` others wait.
struct Steady {
    scheduler: Scheduler,
    running: u32,
    waiting: u32,
    tokens: Vec<TokenId>,
    outputs: Vec<SequenceOutput>,
    now: MonoNs,
    id: u64,
    tracer: Option<Tracer>,
}

impl Steady {
    fn new(running: u32, waiting: u32, tracer: Option<Tracer>) -> Self {
        // Enough for all of them to grow for a long time.
        let blocks = running * (10_000 / BLOCK_SIZE) + 1;
        let mut steady = Self {
            scheduler: scheduler(running, blocks),
            running,
            waiting,
            tokens: vec![7; running as usize],
            outputs: Vec::with_capacity(running as usize),
            now: MonoNs(1_000),
            id: 0,
            tracer,
        };
        if let Some(tracer) = &steady.tracer {
            steady.scheduler.show_on(tracer.board().clone());
        }
        steady.fill();
        steady
    }

    fn fill(&mut self) {
        for _ in 0..self.running + self.waiting {
            // Each with a prompt of its own.
            let prompt: Arc<[TokenId]> = (0..100).map(|index| index + 1_000 * self.id as u32).collect();
            let mut request = request(self.id, &prompt, 4_000);
            request.core_span = self.tracer.as_ref().and_then(|tracer| {
                let span = tracer.admit(IncomingHeaders::default(), "/bench", self.now).span.unwrap();
                span.handle().open_cores(&[(100, 4_000)], self.now).pop()
            });
            self.scheduler.add(request, self.now).unwrap();
            self.id += 1;
        }
        while self.outputs.len() < self.running as usize {
            self.step();
        }
    }

    fn step(&mut self) {
        self.outputs.clear();
        self.now.0 += 1_000;
        let plan = self.scheduler.schedule(self.now);
        black_box(plan.total_tokens);
        let sampling = self.scheduler.planned().filter(|planned| planned.sample.is_some()).count();
        self.now.0 += 1_000;
        self.scheduler.commit(&self.tokens[..sampling], self.now, &mut self.outputs);
        if self.outputs.iter().any(|output| output.finish.is_some()) {
            let mut ended = Vec::new();
            self.scheduler.finish_all(FinishReason::Abort, self.now, &mut ended);
            self.outputs.clear();
            self.fill();
        }
    }
}

fn steps(criterion: &mut Criterion) {
    for (running, waiting) in [(32, 0), (256, 0), (256, 10_000), (1024, 0)] {
        let mut steady = Steady::new(running, waiting, None);
        criterion.bench_function(&format!("step/{running} running, {waiting} waiting"), |bencher| {
            bencher.iter(|| steady.step());
        });
    }
}

/// What it costs a step that its requests can be watched. To be compared with each other within one run.
fn shown_steps(criterion: &mut Criterion) {
    let tracers = [
        ("nobody looks", None),
        ("shown", Some(live_tracer(0.0, false))),
        ("recorded and shown", Some(live_tracer(1.0, false))),
        ("recorded and in the flight recorder", Some(live_tracer(1.0, true))),
    ];
    for (name, tracer) in tracers {
        let mut steady = Steady::new(256, 16, tracer);
        criterion.bench_function(&format!("step/256 running, 16 waiting, {name}"), |bencher| {
            bencher.iter(|| steady.step());
        });
    }
}

/// A request with a long prompt that is known but for its last tokens: hash it, find it, admit it.
fn prefix_lookup(criterion: &mut Criterion) {
    let prompt: Arc<[TokenId]> = (0..32_768).collect();
    let mut scheduler = scheduler(4, 3 * MAX_MODEL_LEN / BLOCK_SIZE);
    let mut outputs = Vec::new();
    let mut now = MonoNs(1_000);
    let mut serve = |prepared: EngineRequest, outputs: &mut Vec<SequenceOutput>| {
        now.0 += 1;
        let id = prepared.id;
        scheduler.add(prepared, now).unwrap();
        let tokens = scheduler.schedule(now).total_tokens;
        scheduler.finish(id, FinishReason::Abort, now, outputs);
        scheduler.commit(&[7], now, outputs);
        outputs.clear();
        tokens
    };
    // The budget is 8192 tokens a step, and a request that is aborted leaves what it has computed.
    for id in 0..4 {
        assert!(serve(request(id, &prompt, 1), &mut outputs) > 8_000);
    }
    let mut next = 4;
    criterion.bench_function("prefix/look up 32768 tokens", |bencher| {
        bencher.iter_batched(
            || {
                next += 1;
                request(next, &prompt, 1)
            },
            |prepared| black_box(serve(prepared, &mut outputs)),
            BatchSize::PerIteration,
        );
    });
    let left = serve(request(next + 1, &prompt, 1), &mut outputs);
    assert_eq!(left, BLOCK_SIZE, "all but the last block is known");
}

criterion_group!(benches, steps, shown_steps, prefix_lookup);
criterion_main!(benches);
