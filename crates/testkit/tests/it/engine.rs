use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use wayfare_engine::{
    AbortCause, Engine, EngineFault, EngineRequest, Finish, FinishReason, OutputSink, RequestId, StepOutputs,
    SubmitError, Terminator, TokenId,
};
use wayfare_journey::{
    ApiSpan, CoreEventKind, CoreSpan, FinishedJourney, IncomingHeaders, MonoNs, RequestLabel, ScheduleKind,
};
use wayfare_testkit::{
    JourneyStore, Reply, ScriptedEngine, VirtualClock, greedy, scripted_limits, wait_until,
};

const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct Delivered {
    tokens: Vec<(RequestId, Vec<TokenId>)>,
    finishes: Vec<(RequestId, Finish)>,
    steps: Vec<u64>,
    death: Option<Arc<EngineFault>>,
}

#[derive(Clone, Default)]
struct Outputs(Arc<Mutex<Delivered>>);

impl OutputSink for Outputs {
    fn deliver(&mut self, outputs: StepOutputs) {
        let mut delivered = self.0.lock();
        delivered.steps.push(outputs.step);
        for output in outputs.outputs {
            if !output.tokens.is_empty() {
                delivered.tokens.push((output.id, output.tokens.to_vec()));
            }
            if let Some(finish) = output.finish {
                delivered.finishes.push((output.id, *finish));
            }
        }
    }

    fn engine_died(&mut self, fault: Arc<EngineFault>) {
        self.0.lock().death = Some(fault);
    }
}

struct Rig {
    engine: ScriptedEngine,
    outputs: Outputs,
    journeys: JourneyStore,
    clock: VirtualClock,
}

impl Rig {
    fn new(script: impl Fn() -> Reply + Send + Sync + 'static) -> Self {
        let (outputs, clock) = (Outputs::default(), VirtualClock::at(MonoNs(100)));
        let engine =
            ScriptedEngine::scripted(scripted_limits(), clock.clone(), outputs.clone(), move |_| script());
        Self { engine, outputs, journeys: JourneyStore::default(), clock }
    }

    /// A traced request with room for four tokens.
    fn submit(&self, id: u64) -> (ApiSpan, Result<(), SubmitError>) {
        let tracer = self.journeys.tracer(self.clock.clone());
        let span = tracer.admit(IncomingHeaders::default(), "/", MonoNs(50)).span.unwrap();
        let core = span.handle().open_cores(&[(3, 4)], MonoNs(60)).pop();
        let result = self.engine.submit(request(id, core));
        (span, result)
    }

    fn finished(&self, count: usize) -> Vec<(RequestId, Finish)> {
        wait_until(LONG, || self.outputs.0.lock().finishes.len() >= count);
        self.outputs.0.lock().finishes.clone()
    }

    /// The journey, once its API part is over too.
    fn journey(&self, span: ApiSpan) -> FinishedJourney {
        span.complete(MonoNs(1_000_000));
        self.journeys.wait_for(1, LONG).remove(0)
    }
}

fn request(id: u64, core_span: Option<CoreSpan>) -> EngineRequest {
    EngineRequest {
        id: RequestId(id),
        label: RequestLabel::new("cmpl-1"),
        prompt: Arc::from([1, 2, 3]),
        sampling: greedy(4, &[9]),
        constraint: None,
        priority: 0,
        cache_salt: None,
        arrived: MonoNs(50),
        core_span,
    }
}

fn kinds(journey: &FinishedJourney) -> Vec<String> {
    let (_, core) = journey.cores().next().unwrap();
    let name = |kind: &CoreEventKind| match kind {
        CoreEventKind::Queued => "QUEUED".into(),
        CoreEventKind::Scheduled { kind: ScheduleKind::First, .. } => "FIRST".into(),
        CoreEventKind::Scheduled { kind: ScheduleKind::Resume, .. } => "RESUME".into(),
        CoreEventKind::FirstToken => "TOKEN".into(),
        CoreEventKind::Preempted { .. } => "PREEMPTED".into(),
        CoreEventKind::Finished { status } => format!("FINISHED {}", status.as_str()),
    };
    core.events.iter().map(|event| name(&event.kind)).collect()
}

#[test]
fn it_answers_by_itself_one_token_per_step() {
    let rig = Rig::new(|| Reply::until_end_of_text([5, 6], 9));
    let (span, result) = rig.submit(1);
    result.unwrap();
    let (id, finish) = rig.finished(1).remove(0);
    assert_eq!(
        (id, finish.reason, finish.terminator),
        (RequestId(1), FinishReason::Stop, Some(Terminator::EndOfText))
    );
    let delivered = rig.outputs.0.lock();
    assert_eq!(delivered.tokens, [(RequestId(1), vec![5]), (RequestId(1), vec![6]), (RequestId(1), vec![9])]);
    assert_eq!(delivered.steps, [1, 2, 3]);
    drop(delivered);
    assert_eq!(kinds(&rig.journey(span)), ["QUEUED", "FIRST", "TOKEN", "FINISHED stopped"]);
    assert!(rig.engine.live().is_empty());
}

#[test]
fn it_keeps_the_limit_on_tokens() {
    let rig = Rig::new(|| Reply::tokens([1, 2, 3, 4, 5, 6]));
    let (span, result) = rig.submit(1);
    result.unwrap();
    assert_eq!(rig.finished(1)[0].1.reason, FinishReason::Length);
    assert_eq!(rig.outputs.0.lock().tokens.len(), 4);
    assert_eq!(kinds(&rig.journey(span)).last().unwrap(), "FINISHED length");
}

#[test]
fn an_answer_without_tokens_ends_too() {
    let rig = Rig::new(|| Reply::tokens([]));
    let (span, result) = rig.submit(1);
    result.unwrap();
    rig.finished(1);
    assert_eq!(kinds(&rig.journey(span)), ["QUEUED", "FINISHED stopped"]);
}

#[test]
fn the_test_can_push_everything_by_hand() {
    let rig = Rig::new(|| Reply::ByHand);
    let (span, result) = rig.submit(7);
    result.unwrap();
    let id = RequestId(7);
    assert!(!rig.engine.preempt(id, None), "nothing to take away yet");
    assert!(rig.engine.schedule(id));
    assert_eq!(rig.engine.stats().running, 1);
    assert!(rig.engine.emit(id, &[5, 6]));
    assert!(rig.engine.preempt(id, Some(&RequestLabel::new("cmpl-2"))));
    assert_eq!((rig.engine.stats().waiting, rig.engine.stats().preemptions), (1, 1));
    assert!(rig.engine.emit_last(id, &[8], FinishReason::Stop, Some(Terminator::StopToken(8))));
    assert!(!rig.engine.emit(id, &[1]), "it has ended");
    let (_, finish) = rig.finished(1).remove(0);
    assert_eq!((finish.num_preemptions, finish.ledger.recomputed_tokens), (1, 5));
    assert_eq!(
        kinds(&rig.journey(span)),
        ["QUEUED", "FIRST", "TOKEN", "PREEMPTED", "RESUME", "FINISHED stopped"]
    );
    assert_eq!(rig.engine.submitted().len(), 1);
}

#[test]
fn aborts_and_stop_strings_end_a_request_and_are_remembered() {
    let rig = Rig::new(|| Reply::ByHand);
    let (aborted, result) = rig.submit(1);
    result.unwrap();
    rig.engine.abort(RequestId(1), AbortCause::ClientGone);
    rig.engine.abort(RequestId(99), AbortCause::Timeout);
    assert_eq!(rig.finished(1)[0].1.reason, FinishReason::Abort);
    assert_eq!(kinds(&rig.journey(aborted)), ["QUEUED", "FINISHED aborted"]);

    let (stopped, result) = rig.submit(2);
    result.unwrap();
    rig.engine.emit(RequestId(2), &[5]);
    rig.engine.finish(RequestId(2));
    assert_eq!(rig.finished(2)[1].1.reason, FinishReason::Stop);
    assert_eq!(kinds(&rig.journey(stopped)).last().unwrap(), "FINISHED stopped");
    assert_eq!(
        rig.engine.aborts(),
        [(RequestId(1), AbortCause::ClientGone), (RequestId(99), AbortCause::Timeout)]
    );
    assert_eq!(rig.engine.finishes(), [RequestId(2)]);
}

#[test]
fn a_refused_request_has_no_core_span() {
    let rig = Rig::new(|| Reply::ByHand);
    rig.engine.refuse_next(SubmitError::ShuttingDown);
    let (span, result) = rig.submit(1);
    assert!(matches!(result, Err(SubmitError::ShuttingDown)));
    assert_eq!(rig.journey(span).cores().count(), 0);
    let mut too_long = request(2, None);
    too_long.prompt = Arc::from(vec![1; 5000]);
    assert!(matches!(rig.engine.submit(too_long), Err(SubmitError::PromptTooLong { .. })));
    assert!(rig.engine.submitted().is_empty());
}

#[test]
fn a_dead_engine_says_so_and_gives_nothing_more() {
    let rig = Rig::new(|| Reply::ByHand);
    let (span, result) = rig.submit(1);
    result.unwrap();
    rig.engine.die("out of luck");
    assert_eq!(rig.outputs.0.lock().death.as_ref().unwrap().message, "out of luck");
    assert!(rig.engine.fault().is_some());
    assert!(!rig.engine.emit(RequestId(1), &[1]));
    assert_eq!(kinds(&rig.journey(span)), ["QUEUED", "FINISHED error"]);
    assert!(matches!(rig.submit(2).1, Err(SubmitError::EngineDead(_))));
    assert!(rig.outputs.0.lock().finishes.is_empty());
}

/// Ten threads submit and abort at random while the engine answers.
#[test]
fn every_request_ends_once_whoever_is_faster() {
    let rig = Rig::new(|| Reply::tokens([1, 2, 3]));
    std::thread::scope(|scope| {
        for thread in 0..10 {
            let engine = &rig.engine;
            scope.spawn(move || {
                for number in 0..50 {
                    let id = RequestId(thread * 1000 + number);
                    engine.submit(request(id.0, None)).unwrap();
                    if number % 3 == 0 {
                        engine.abort(id, AbortCause::ClientGone);
                    }
                }
            });
        }
    });
    let mut ids: Vec<_> = rig.finished(500).into_iter().map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), rig.engine.live().len()), (500, 0));
    assert!(rig.outputs.0.lock().steps.is_sorted());
}
