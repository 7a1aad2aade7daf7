//! A running engine whose executor does what the test says, and whose outputs the test reads.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use wayfare_engine::{
    Engine, EngineFault, EngineRequest, Finish, OutputSink, RequestId, StepOutputs, SubmitError, TokenId,
};
use wayfare_engine_local::{
    EngineOptions, Executor, ExecutorError, LocalEngine, QueueLimits, RuleBook, StepInput,
};
use wayfare_journey::{
    CoreEventKind, FinishedJourney, HeadSampler, IncomingHeaders, JourneySink, RequestLabel, SystemClock,
    Tracer,
};
use wayfare_scheduler::SchedulerConfig;
use wayfare_testkit::greedy;

/// Nothing in these tests takes longer; a wait beyond it is a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

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

/// What a step does besides giving token 9 to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Work,
    Fail,
    Panic,
}

struct Scripted {
    behaviour: Arc<Mutex<Behaviour>>,
    /// One permit per step, so that tests act between steps and never race with them.
    permits: Receiver<()>,
}

impl Executor for Scripted {
    fn execute(
        &mut self,
        input: &StepInput,
        _: &mut RuleBook,
        tokens: &mut Vec<TokenId>,
    ) -> Result<(), ExecutorError> {
        let _ = self.permits.recv();
        let behaviour = *self.behaviour.lock();
        match behaviour {
            Behaviour::Work => {
                tokens.extend(input.sequences.iter().filter(|s| s.sample.is_some()).map(|_| 9));
                Ok(())
            }
            Behaviour::Fail => Err(ExecutorError("scripted failure".into())),
            Behaviour::Panic => panic!("scripted panic"),
        }
    }
}

#[derive(Debug, Default)]
struct Journeys(Mutex<Vec<FinishedJourney>>);

impl JourneySink for Journeys {
    fn accept(&self, journey: FinishedJourney) {
        self.0.lock().push(journey);
    }
}

pub(crate) struct Rig {
    /// Goes first, so that an engine that is dropped in the middle of a step does not wait for a permit.
    permits: Sender<()>,
    pub(crate) engine: LocalEngine,
    pub(crate) behaviour: Arc<Mutex<Behaviour>>,
    outputs: Mutex<Receiver<Delivered>>,
    journeys: Arc<Journeys>,
    tracer: Tracer,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(EngineOptions::default())
    }

    pub(crate) fn with_limits(queue_limits: QueueLimits) -> Self {
        Self::with(EngineOptions { queue_limits, ..EngineOptions::default() })
    }

    pub(crate) fn with(options: EngineOptions) -> Self {
        let (outputs_tx, outputs) = channel();
        let (permits, permits_rx) = channel();
        let behaviour = Arc::new(Mutex::new(Behaviour::Work));
        let executor = Scripted { behaviour: Arc::clone(&behaviour), permits: permits_rx };
        let config = SchedulerConfig::with_sizes(4, 64, 128, 16, 7);
        let clock = Arc::new(SystemClock);
        let sink = Box::new(Outputs(outputs_tx));
        let engine =
            LocalEngine::start(config, 100, Box::new(executor), sink, clock.clone(), options).unwrap();
        let journeys = Arc::new(Journeys::default());
        let tracer = Tracer::new(clock, HeadSampler::new(1.0).unwrap(), journeys.clone());
        Self { engine, behaviour, permits, outputs: Mutex::new(outputs), journeys, tracer }
    }

    pub(crate) fn submit(&self, id: u64, prompt: &[TokenId], max_tokens: u32) -> Result<(), SubmitError> {
        let span = self.tracer.admit(IncomingHeaders::default(), "/test", Default::default()).span.unwrap();
        let label = RequestLabel::new(&format!("r{id}"));
        span.handle().identified(&label);
        let core_span =
            span.handle().open_cores(&[(prompt.len() as u32, max_tokens)], Default::default()).pop();
        self.engine.submit(EngineRequest {
            id: RequestId(id),
            label,
            prompt: prompt.into(),
            sampling: greedy(max_tokens, &[2]),
            constraint: None,
            priority: 0,
            cache_salt: None,
            arrived: Default::default(),
            core_span,
        })
    }

    pub(crate) fn permit_steps(&self, count: usize) {
        // An engine that has ended needs none.
        for _ in 0..count {
            let _ = self.permits.send(());
        }
    }

    pub(crate) fn next(&self) -> Delivered {
        self.outputs.lock().recv_timeout(PATIENCE).expect("the engine delivers")
    }

    /// Waits for the end of a request; returns how many tokens it had and how it ended.
    pub(crate) fn finish_of(&self, id: u64) -> (usize, Finish) {
        let mut tokens = 0;
        loop {
            let Delivered::Step(step) = self.next() else { panic!("the engine died") };
            for output in step.outputs.into_iter().filter(|output| output.id == RequestId(id)) {
                tokens += output.tokens.len();
                if let Some(finish) = output.finish {
                    return (tokens, *finish);
                }
            }
        }
    }

    /// The kinds of the core events of every finished journey, by request.
    pub(crate) fn journeys(&self) -> Vec<String> {
        let journeys = self.journeys.0.lock();
        let mut lines: Vec<String> = journeys
            .iter()
            .map(|journey| {
                let label = journey.cell().label().unwrap();
                let kinds =
                    journey.cores().flat_map(|(_, core)| &core.events).map(|event| match &event.kind {
                        CoreEventKind::Queued => "QUEUED",
                        CoreEventKind::Scheduled { .. } => "SCHEDULED",
                        CoreEventKind::FirstToken => "FIRST_TOKEN",
                        CoreEventKind::Preempted { .. } => "PREEMPTED",
                        CoreEventKind::Finished { status } => status.as_str(),
                    });
                kinds.fold(format!("{label}:"), |line, kind| line + " " + kind)
            })
            .collect();
        lines.sort();
        lines
    }
}
