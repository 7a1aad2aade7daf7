//! What an engine core says is read, and becomes outputs and journeys, without memory for telemetry: a step costs the
//! engine thread as many allocations with journeys as without.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use wayfare_engine::{
    Engine as _, EngineFault, EngineRequest, OutputSink, RequestId, SchedulingPolicy, StepOutputs,
};
use wayfare_engine_vllm::wire::{EngineMessage, Layout};
use wayfare_engine_vllm::{AttachOptions, AttachedEngines, EngineAddress, Meeting, ModelFacts, VllmEngine};
use wayfare_journey::{
    ApiSpan, Clock as _, FinishedJourney, HeadSampler, IncomingHeaders, JourneySink, RequestLabel,
    SystemClock, Tracer, WallAnchor,
};
use wayfare_testkit::mock_vllm::{MockVllmOptions, Pace, serve};
use wayfare_testkit::{CountingAllocator, greedy};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// A wait beyond it is a hang.
const PATIENCE: Duration = Duration::from_secs(30);
/// As many tokens as the requests of the test get, each in a step of its own.
const STEPS: usize = 8;
/// Long enough that the engine thread has nothing else to do between two steps.
const STEP_US: u64 = 2_000;
/// Requests of which the median counts: how the sockets read is not the same each time.
const REQUESTS: u64 = 25;

/// For each step, how many allocations the engine thread had made in all when it delivered it, and whether the request
/// has ended with it.
struct Counting(Sender<(u64, bool)>);

impl OutputSink for Counting {
    fn deliver(&mut self, step: StepOutputs) {
        let made = ALLOCATOR.made().count;
        if let Some(output) = step.outputs.first() {
            let _ = self.0.send((made, output.finish.is_some()));
        }
    }

    fn engine_died(&mut self, fault: Arc<EngineFault>) {
        panic!("{fault}");
    }
}

#[derive(Debug)]
struct Nowhere;

impl JourneySink for Nowhere {
    fn accept(&self, _: FinishedJourney) {}
}

struct Rig {
    engine: VllmEngine,
    tracer: Tracer,
    steps: Receiver<(u64, bool)>,
    next: u64,
    /// Allocations of the engine thread up to the end of the last request.
    made: u64,
}

impl Rig {
    fn new() -> Self {
        let port = (0..100)
            .filter_map(|_| Some(TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port()))
            .find(|port| (*port..*port + 3).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()))
            .unwrap();
        let options = MockVllmOptions {
            handshake: format!("tcp://127.0.0.1:{port}"),
            rank: 0,
            ranks: 1,
            max_model_len: 256,
            max_num_seqs: 8,
        };
        let pace = Pace::default();
        pace.set_us(STEP_US);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            // Ends with the test's process.
            let _ = runtime.block_on(serve(options, pace));
        });
        let address = EngineAddress { host: "127.0.0.1".into(), port };
        let options = AttachOptions {
            meeting: Meeting::Handshake { address, advertise_host: None },
            engine_count: 1,
            ready_timeout: PATIENCE,
            allow_untested: false,
            takes_back: false,
        };
        let facts = ModelFacts { vocab_size: 49152, policy: SchedulingPolicy::Fcfs, sends_own_seeds: false };
        let wall = WallAnchor::capture();
        let engines = AttachedEngines::attach(options, facts, Arc::new(SystemClock), wall, None).unwrap();
        let (tx, steps) = channel();
        let engine = engines.serve(Box::new(Counting(tx)), None);
        let tracer = Tracer::new(Arc::new(SystemClock), HeadSampler::new(1.0).unwrap(), Arc::new(Nowhere));
        Self { engine, tracer, steps, next: 0, made: 0 }
    }

    /// Has a request served, and returns the allocations of the engine thread for each of its steps; those for sending it
    /// are with the first.
    fn allocations_of_one(&mut self, is_traced: bool) -> Vec<u64> {
        self.next += 1;
        let (request, span) = self.request(is_traced);
        self.engine.submit(request).unwrap();
        let mut made = vec![self.made];
        loop {
            let (so_far, is_last) = self.steps.recv_timeout(PATIENCE).unwrap();
            made.push(so_far);
            self.made = so_far;
            if is_last {
                break;
            }
        }
        if let Some(span) = span {
            span.complete(SystemClock.now());
        }
        made.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn request(&self, is_traced: bool) -> (EngineRequest, Option<ApiSpan>) {
        let now = SystemClock.now();
        let label = RequestLabel::new(&format!("r{}", self.next));
        let span =
            is_traced.then(|| self.tracer.admit(IncomingHeaders::default(), "/test", now).span.unwrap());
        let core_span = span.as_ref().and_then(|span| {
            span.handle().identified(&label);
            span.handle().body_complete(now);
            span.handle().open_cores(&[(40, STEPS as u32)], now).pop()
        });
        assert_eq!(core_span.is_some(), is_traced);
        let request = EngineRequest {
            id: RequestId(self.next),
            label,
            prompt: [10; 40].into(),
            sampling: greedy(STEPS as u32, &[2]),
            constraint: None,
            priority: 0,
            cache_salt: None,
            arrived: now,
            core_span,
        };
        (request, span)
    }
}

/// For each step, the middle of what the requests had.
fn medians(requests: &[Vec<u64>]) -> Vec<u64> {
    let of_step = |step: usize| {
        let mut counts: Vec<u64> = requests.iter().map(|request| request[step]).collect();
        counts.sort_unstable();
        counts[counts.len() / 2]
    };
    (0..requests[0].len()).map(of_step).collect()
}

#[test]
fn a_step_costs_no_memory_for_its_journeys() {
    let mut rig = Rig::new();
    // The first one is connected to, too.
    rig.allocations_of_one(true);
    let (mut traced, mut untraced) = (Vec::new(), Vec::new());
    for _ in 0..REQUESTS {
        untraced.push(rig.allocations_of_one(false));
        traced.push(rig.allocations_of_one(true));
    }
    assert_eq!(untraced[0].len(), STEPS);
    assert_eq!(medians(&traced), medians(&untraced));
}

#[test]
fn a_step_is_read_into_memory_that_is_there() {
    let layout = Layout::of_version(Some("0.32.0"), false).unwrap();
    let mut message = EngineMessage::default();
    // Whatever a real engine core says without log-probabilities: first tokens with their events, plain steps,
    // preemptions, ends, its state.
    for frames in ["plain", "cached", "preempted"].into_iter().flat_map(recorded) {
        message.read(&frames, layout).unwrap();
        let again = ALLOCATOR.allocations_of(|| message.read(&frames, layout).unwrap());
        assert_eq!(again.count, 0, "{message:?}");
    }
}

fn recorded(name: &str) -> Vec<Vec<Vec<u8>>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/recorded-0.32.json");
    let named: BTreeMap<String, Vec<Vec<String>>> =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let frame = |hex: &String| hex.as_bytes().chunks(2).map(byte).collect();
    named[name].iter().map(|frames| frames.iter().map(frame).collect()).collect()
}
