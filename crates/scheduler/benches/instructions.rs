//! Instructions of scheduler steps, to be counted by callgrind: `cargo xtask bench scheduler` does it, with and
//! without the journey code. By itself it only says that it runs.
//!
//! `decode`: 64 sequences that decode. `churn`: sequences that come, decode and go. With `traced` behind it every
//! sequence has a core span.
#![allow(clippy::print_stdout, reason = "a bench reports to whoever runs it")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::hint::black_box;
use std::sync::Arc;

use wayfare_engine::{EngineRequest, RequestId, SequenceOutput, TokenId};
use wayfare_journey::{
    Clock, FinishedJourney, HeadSampler, IncomingHeaders, JourneySink, MonoNs, RequestLabel, Tracer,
};
use wayfare_scheduler::{Scheduler, SchedulerConfig};
use wayfare_testkit::greedy;

const SEQUENCES: u64 = 64;
const PROMPT_TOKENS: u32 = 20;
const WARM_UP_STEPS: u64 = 100;
const STEPS: u64 = 1_000;

#[derive(Debug)]
struct Nowhere;

impl JourneySink for Nowhere {
    fn accept(&self, _: FinishedJourney) {}
}

/// valgrind has no vDSO to read the time from.
#[derive(Debug)]
struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> MonoNs {
        MonoNs(1)
    }
}

struct Bench {
    scheduler: Scheduler,
    tracer: Option<Tracer>,
    max_tokens: u32,
    next_id: u64,
    now: MonoNs,
    tokens: Vec<TokenId>,
    outputs: Vec<SequenceOutput>,
}

impl Bench {
    fn new(max_tokens: u32, tracer: Option<Tracer>) -> Self {
        let config = SchedulerConfig::with_sizes(64, 2048, 4096, 16, 8_000);
        let scheduler = Scheduler::new(config).unwrap();
        let (tokens, outputs) = (Vec::with_capacity(64), Vec::with_capacity(64));
        let mut bench = Self { scheduler, tracer, max_tokens, next_id: 0, now: MonoNs(1), tokens, outputs };
        for _ in 0..SEQUENCES {
            let request = bench.request();
            bench.scheduler.add(request, bench.now).unwrap();
        }
        bench
    }

    fn request(&mut self) -> EngineRequest {
        self.next_id += 1;
        let core_span = self.tracer.as_ref().and_then(|tracer| {
            let span = tracer.admit(IncomingHeaders::default(), "/bench", self.now).span.unwrap();
            span.handle().open_cores(&[(PROMPT_TOKENS, self.max_tokens)], self.now).pop()
        });
        EngineRequest {
            id: RequestId(self.next_id),
            label: RequestLabel::new("r"),
            prompt: vec![5; PROMPT_TOKENS as usize].into(),
            // Lengths differ a little, so that the sequences do not all end at once.
            sampling: greedy(self.max_tokens + (self.next_id % 7) as u32, &[2]),
            constraint: None,
            priority: 0,
            cache_salt: None,
            arrived: self.now,
            core_span,
        }
    }

    /// Puts a new sequence in the place of each that has ended.
    fn replace_ended(&mut self) {
        let ended = self.outputs.iter().filter(|output| output.finish.is_some()).count();
        for _ in 0..ended {
            let request = self.request();
            add(&mut self.scheduler, request, self.now);
        }
        self.outputs.clear();
    }

    fn steps(&mut self, count: u64) {
        for _ in 0..count {
            self.now.0 += 1_000_000;
            step(&mut self.scheduler, &mut self.tokens, &mut self.outputs, self.now);
            self.replace_ended();
        }
    }
}

/// What is counted. Making a request is not.
#[inline(never)]
fn add(scheduler: &mut Scheduler, request: EngineRequest, now: MonoNs) {
    scheduler.add(request, now).unwrap();
}

/// What is counted.
#[inline(never)]
fn step(
    scheduler: &mut Scheduler,
    tokens: &mut Vec<TokenId>,
    outputs: &mut Vec<SequenceOutput>,
    now: MonoNs,
) {
    scheduler.schedule(now);
    tokens.clear();
    tokens.extend(scheduler.planned().filter(|planned| black_box(planned).sample.is_some()).map(|_| 7));
    scheduler.commit(tokens, now, outputs);
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let tracer = has("traced")
        .then(|| Tracer::new(Arc::new(NoClock), HeadSampler::new(1.0).unwrap(), Arc::new(Nowhere)));
    let max_tokens = if has("churn") { 16 } else { 2_000 };
    let mut bench = Bench::new(max_tokens, tracer);
    bench.steps(WARM_UP_STEPS + STEPS);
    println!("{} steps done", bench.scheduler.step());
}
