//! An engine over engine cores that the test plays, with its outputs and journeys.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use wayfare_engine::{
    Engine as _, EngineFault, EngineRequest, Finish, OutputSink, RequestId, SchedulingPolicy, SequenceOutput,
    StepOutputs, SubmitError, TokenId,
};
use wayfare_engine_vllm::{
    AttachError, AttachOptions, AttachedEngines, EngineAddress, Meeting, ModelFacts, VllmEngine,
};
use wayfare_journey::{
    ApiSpan, Clock as _, FinishedJourney, HeadSampler, IncomingHeaders, JourneySink, MonoNs, RequestLabel,
    SystemClock, Tracer, WallAnchor,
};
use wayfare_testkit::greedy;

use crate::peer::{Peer, free_ports};

/// Nothing in these tests takes longer; a wait beyond it is a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const END_OF_TEXT: TokenId = 2;

#[derive(Debug)]
pub(crate) enum Delivered {
    Step(StepOutputs),
    Died(Arc<EngineFault>),
}

struct Outputs(Sender<Delivered>);

impl OutputSink for Outputs {
    fn deliver(&mut self, outputs: StepOutputs) {
        let _ = self.0.send(Delivered::Step(outputs));
    }

    fn engine_died(&mut self, fault: Arc<EngineFault>) {
        let _ = self.0.send(Delivered::Died(fault));
    }
}

#[derive(Debug)]
struct Journeys(Mutex<Sender<FinishedJourney>>);

impl JourneySink for Journeys {
    fn accept(&self, journey: FinishedJourney) {
        let _ = self.0.lock().send(journey);
    }
}

pub(crate) struct Rig {
    pub(crate) engine: VllmEngine,
    pub(crate) peers: Vec<Peer>,
    outputs: Receiver<Delivered>,
    journeys: Receiver<FinishedJourney>,
    tracer: Tracer,
    /// The API parts of the journeys.
    api_spans: Mutex<Vec<ApiSpan>>,
}

/// Waits for engine cores as the server does.
pub(crate) fn attach(port: u16, ranks: u16, timeout: Duration) -> Result<AttachedEngines, AttachError> {
    attach_with(AttachOptions { ready_timeout: timeout, ..options(port, ranks) })
}

/// Engine cores that say hello at this port.
pub(crate) fn options(port: u16, ranks: u16) -> AttachOptions {
    let address = EngineAddress { host: "127.0.0.1".into(), port };
    AttachOptions {
        meeting: Meeting::Handshake { address, advertise_host: None },
        engine_count: ranks,
        ready_timeout: PATIENCE,
        allow_untested: false,
        takes_back: false,
    }
}

pub(crate) fn attach_with(options: AttachOptions) -> Result<AttachedEngines, AttachError> {
    let facts = ModelFacts { vocab_size: 1000, policy: SchedulingPolicy::Priority, sends_own_seeds: false };
    AttachedEngines::attach(options, facts, Arc::new(SystemClock), WallAnchor::capture(), None)
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(1, &[])
    }

    /// So many engine cores, each started with these arguments.
    pub(crate) fn with(ranks: u16, arguments: &[&str]) -> Self {
        let port = free_ports();
        let peers = (0..ranks).map(|rank| {
            let (rank, ranks) = (rank.to_string(), ranks.to_string());
            Peer::start(port, &[&["--rank", &rank, "--ranks", &ranks], arguments].concat())
        });
        Self::over(options(port, ranks), peers.collect())
    }

    /// Engine cores that are on their way.
    pub(crate) fn over(options: AttachOptions, peers: Vec<Peer>) -> Self {
        let (outputs_tx, outputs) = channel();
        let engine = attach_with(options).unwrap().serve(Box::new(Outputs(outputs_tx)), None);
        let (journeys_tx, journeys) = channel();
        let sink = Arc::new(Journeys(Mutex::new(journeys_tx)));
        let tracer = Tracer::new(Arc::new(SystemClock), HeadSampler::new(1.0).unwrap(), sink);
        Self { engine, peers, outputs, journeys, tracer, api_spans: Mutex::default() }
    }

    pub(crate) fn request(&self, id: u64, prompt: &[TokenId]) -> EngineRequest {
        let now = SystemClock.now();
        let span = self.tracer.admit(IncomingHeaders::default(), "/test", now).span.unwrap();
        let label = RequestLabel::new(&format!("r{id}"));
        span.handle().identified(&label);
        span.handle().body_complete(now);
        let core_span = span.handle().open_cores(&[(prompt.len() as u32, 8)], now).pop();
        self.api_spans.lock().push(span);
        EngineRequest {
            id: RequestId(id),
            label,
            prompt: prompt.into(),
            sampling: greedy(8, &[END_OF_TEXT]),
            constraint: None,
            priority: 0,
            cache_salt: None,
            arrived: now,
            core_span,
        }
    }

    pub(crate) fn submit(&self, id: u64, prompt: &[TokenId]) -> Result<(), SubmitError> {
        self.engine.submit(self.request(id, prompt))
    }

    pub(crate) fn next(&self) -> Delivered {
        self.outputs.recv_timeout(PATIENCE).expect("the engine delivers")
    }

    /// The next step that brings anything.
    pub(crate) fn next_step(&self) -> StepOutputs {
        loop {
            match self.next() {
                Delivered::Step(step) if step.outputs.is_empty() => {}
                Delivered::Step(step) => return step,
                Delivered::Died(fault) => panic!("{fault}"),
            }
        }
    }

    pub(crate) fn next_output(&self) -> SequenceOutput {
        let mut step = self.next_step();
        assert_eq!(step.outputs.len(), 1);
        step.outputs.remove(0)
    }

    /// Waits for the end of a request; returns its tokens and how it ended.
    pub(crate) fn finish_of(&self, id: u64) -> (Vec<TokenId>, Finish) {
        let mut tokens = Vec::new();
        loop {
            for output in self.next_step().outputs.into_iter().filter(|output| output.id == RequestId(id)) {
                tokens.extend(output.tokens);
                if let Some(finish) = output.finish {
                    return (tokens, *finish);
                }
            }
        }
    }

    /// The journey that is finished next. All requests so far have had their answers.
    pub(crate) fn journey(&self) -> FinishedJourney {
        self.api_spans.lock().drain(..).for_each(|span| span.complete(SystemClock.now()));
        self.journeys.recv_timeout(PATIENCE).expect("a journey is finished")
    }
}

/// Nanoseconds of a peer's seconds.
pub(crate) fn mono(seconds: f64) -> MonoNs {
    MonoNs((seconds * 1e9).round() as u64)
}
