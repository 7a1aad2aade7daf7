//! What a streamed token costs on the API side: from the engine's send, through the dispatcher and the
//! detokeniser, to the bytes of its chunk. Everything on one thread, so that the time is the CPU time.
#![allow(missing_docs, reason = "the macros of criterion make undocumented items")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

#[path = "../tests/it/rig.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests need more of it")]
mod rig;

use std::sync::Arc;

use axum::body::Body;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::json;
use smallvec::smallvec;
use tower::ServiceExt as _;
use wayfare_engine::{
    AbortCause, Engine, EngineFault, EngineLimits, EngineRequest, EngineStats, OutputSink as _, RequestId,
    SequenceOutput, StepOutputs, SubmitError, TokenId,
};
use wayfare_journey::{Clock as _, MonoNs, SystemClock};
use wayfare_openai::{HubSink, Server};
use wayfare_testkit::JourneyStore;

const TOKENS: u64 = 1_000;

/// Keeps the last request; the bench makes its tokens.
#[derive(Debug)]
struct BenchEngine {
    sink: Mutex<HubSink>,
    request: Mutex<Option<EngineRequest>>,
}

impl BenchEngine {
    fn deliver(&self, id: RequestId, token: TokenId, at: MonoNs) {
        let output =
            SequenceOutput { id, tokens: smallvec![token], first: None, details: None, finish: None };
        let stats = EngineStats::default();
        let step = StepOutputs {
            engine: 0,
            step: 1,
            at,
            scheduled_tokens: 1,
            stats,
            block_lives: Vec::new(),
            outputs: vec![output],
        };
        self.sink.lock().deliver(step);
    }
}

impl Engine for BenchEngine {
    fn submit(&self, request: EngineRequest) -> Result<(), SubmitError> {
        *self.request.lock() = Some(request);
        Ok(())
    }

    fn abort(&self, _: RequestId, _: AbortCause) {}

    fn finish(&self, _: RequestId) {}

    fn limits(&self) -> EngineLimits {
        wayfare_testkit::scripted_limits()
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }

    fn stats_by_engine(&self) -> Vec<(u32, EngineStats)> {
        vec![(0, self.stats())]
    }

    fn fault(&self) -> Option<Arc<EngineFault>> {
        None
    }
}

fn streamed_token(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = criterion.benchmark_group("streamed_token");
    group.throughput(Throughput::Elements(TOKENS));
    for (name, is_traced, stop) in [
        ("tracing off", false, json!(null)),
        ("traced", true, json!(null)),
        ("stop string", false, json!(["END"])),
    ] {
        let (sink, hub) = wayfare_openai::output_channel();
        let engine = Arc::new(BenchEngine { sink: Mutex::new(sink), request: Mutex::default() });
        let journeys = JourneyStore::default();
        let tracer = is_traced.then(|| journeys.tracer(SystemClock));
        let config = rig::config(Arc::clone(&engine) as Arc<dyn Engine>, tracer, Arc::new(SystemClock));
        let router = runtime.block_on(async { Server::start(config, hub) }).unwrap().router();
        let body = rig::chat(json!({"stream": true, "stop": stop}));
        let start = || -> (RequestId, Body) {
            let response = runtime.block_on(router.clone().oneshot(rig::post(rig::CHAT, &body))).unwrap();
            (engine.request.lock().as_ref().unwrap().id, response.into_body())
        };
        let stream = |(id, mut body): (RequestId, Body)| {
            runtime.block_on(async {
                for _ in 0..TOKENS {
                    engine.deliver(id, TokenId::from(b'x'), SystemClock.now());
                    body.frame().await.unwrap().unwrap();
                }
            });
            body
        };
        group.bench_function(name, |bencher| bencher.iter_batched(start, stream, BatchSize::PerIteration));
    }
    group.finish();
}

criterion_group!(benches, streamed_token);
criterion_main!(benches);
