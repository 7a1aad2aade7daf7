//! Replays against figures computed by hand.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use wayfare_engine::{EngineStats, FinishReason};
use wayfare_engine_local::{
    Arrival, EngineOptions, LinearStepTime, QueueLimits, Refusal, Replay, ReplayError, ReplayObserver,
    ReplayOptions, Served, SharedPrefix, StepReport, StepTimeModel, StepTimer, VirtualClock,
};
use wayfare_journey::{ApiEnding, CoreEventKind, FinishedJourney, HeadSampler, JourneySink, Tracer};
use wayfare_scheduler::SchedulerConfig;

/// A step takes 10 ms, and 1 ms for every token.
const MODEL: StepTimeModel = StepTimeModel::Linear(LinearStepTime {
    base_us: 10_000.0,
    per_prefill_token_us: 1_000.0,
    per_decode_token_us: 1_000.0,
    per_kv_token_us: 0.0,
});

const CONFIG: SchedulerConfig = SchedulerConfig::with_sizes(4, 64, 256, 4, 129);

#[derive(Debug, Default)]
struct Journeys(Mutex<Vec<FinishedJourney>>);

impl JourneySink for Journeys {
    fn accept(&self, journey: FinishedJourney) {
        self.0.lock().push(journey);
    }
}

/// A line per happening, times in milliseconds since the beginning.
#[derive(Debug, Default, PartialEq)]
struct Log(Vec<String>);

impl ReplayObserver for Log {
    fn refused(&mut self, refusal: Refusal) {
        self.0.push(format!("refused: {refusal}"));
    }

    fn token_gap(&mut self, gap_ns: u64) {
        self.0.push(format!("gap {}", gap_ns / 1_000_000));
    }

    fn served(&mut self, served: &Served<'_>) {
        let ms = |time: wayfare_journey::MonoNs| time.since(VirtualClock::START) / 1_000_000;
        let times = &served.finish.times;
        assert_eq!(served.finish.reason, FinishReason::Length);
        assert_eq!(times.last_token, Some(served.ended));
        self.0.push(format!(
            "served {}+{}: arrived {} queued {} scheduled {} first {} last {}",
            served.prompt_tokens,
            served.output_tokens,
            ms(served.arrived),
            ms(times.queued),
            ms(times.first_scheduled.unwrap()),
            ms(times.first_token.unwrap()),
            ms(served.ended),
        ));
    }

    fn step(&mut self, report: &StepReport) {
        let ms = report.ended.since(report.started) / 1_000_000;
        let EngineStats { running, waiting, kv_blocks_used, .. } = report.stats;
        self.0.push(format!("step {ms}: running {running} waiting {waiting} blocks {kv_blocks_used}"));
    }
}

fn arrival(at_ms: u64, prompt_tokens: u32, output_tokens: u32) -> Arrival {
    let at = Duration::from_millis(at_ms);
    Arrival { at, prompt_tokens, output_tokens, prefix: None, priority: 0 }
}

fn replay(
    config: SchedulerConfig,
    max_queued: Option<u32>,
    tracer: Option<(VirtualClock, Tracer)>,
    arrivals: &[Arrival],
) -> (Log, EngineStats) {
    let (clock, tracer) = tracer.map_or_else(Default::default, |(clock, tracer)| (clock, Some(tracer)));
    let options = ReplayOptions {
        config,
        queue_limits: QueueLimits { requests: max_queued.and_then(NonZeroU32::new), tokens: None },
        timer: StepTimer::new(MODEL, 0.0, 0),
        clock,
        tracer,
        model_name: "test".to_owned(),
    };
    let mut log = Log::default();
    let arrivals = arrivals.iter().copied().map(Ok::<_, Infallible>);
    let stats = Replay::new(options).unwrap().run(arrivals, &mut log).unwrap();
    (log, stats)
}

#[test]
fn two_requests_that_meet_in_one_step() {
    let (log, stats) = replay(CONFIG, None, None, &[arrival(0, 20, 3), arrival(5, 8, 2), arrival(900, 1, 1)]);
    let expected = [
        // 10 + 20 prompt tokens.
        "step 30: running 1 waiting 0 blocks 5",
        // The second has arrived meanwhile: 10 + 1 decode + 8 prompt tokens.
        "gap 19",
        "step 19: running 2 waiting 0 blocks 8",
        "gap 12",
        "served 20+3: arrived 0 queued 0 scheduled 0 first 30 last 61",
        "gap 12",
        "served 8+2: arrived 5 queued 30 scheduled 30 first 49 last 61",
        "step 12: running 2 waiting 0 blocks 9",
        // Nothing happens until the third arrives.
        "served 1+1: arrived 900 queued 900 scheduled 900 first 911 last 911",
        "step 11: running 1 waiting 0 blocks 1",
    ];
    assert_eq!(log.0, expected);
    assert_eq!((stats.steps, stats.prompt_tokens, stats.generation_tokens), (4, 29, 6));
}

#[test]
fn what_the_server_would_refuse_is_refused() {
    let one_at_a_time = SchedulerConfig { max_num_seqs: 1, ..CONFIG };
    let arrivals =
        [arrival(0, 200, 57), arrival(0, 4, 1), arrival(1, 4, 1), arrival(2, 4, 1), arrival(3, 4, 1)];
    let (log, _) = replay(one_at_a_time, Some(2), None, &arrivals);
    let refused: Vec<_> = log.0.iter().filter(|line| line.starts_with("refused")).collect();
    assert_eq!(
        refused,
        [
            "refused: prompt and answer have 257 tokens, but a sequence can have only 256",
            "refused: 2 requests are waiting already, and no more may"
        ]
    );
    assert_eq!(log.0.iter().filter(|line| line.starts_with("served")).count(), 3);
}

#[test]
fn preempted_requests_come_to_their_end() {
    // Room for 40 tokens; two requests of 30 each.
    let small = SchedulerConfig { num_kv_blocks: 11, ..CONFIG };
    let (log, stats) = replay(small, None, None, &[arrival(0, 10, 20), arrival(0, 10, 20)]);
    assert_eq!(log.0.iter().filter(|line| line.starts_with("served 10+20")).count(), 2);
    assert_eq!(log.0.iter().filter(|line| line.starts_with("gap")).count(), 2 * 19);
    assert!(stats.preemptions > 0 && stats.recomputed_tokens > 0, "{stats:?}");
}

#[test]
fn journeys_are_whole_and_in_virtual_time() {
    let clock = VirtualClock::new();
    let journeys = Arc::new(Journeys::default());
    let all = HeadSampler::new(1.0).unwrap();
    let tracer = Tracer::new(Arc::new(clock.clone()), all, Arc::<Journeys>::clone(&journeys));
    let arrivals = [arrival(0, 20, 3), arrival(5, 8, 2), arrival(6, 300, 2)];
    let (log, _) = replay(CONFIG, None, Some((clock, tracer.clone())), &arrivals);
    assert_eq!(log, replay(CONFIG, None, None, &arrivals).0, "recording changes nothing");
    assert_eq!((tracer.counters().recorded(), tracer.counters().in_flight()), (3, 0));
    let journeys = journeys.0.lock();
    let ms = |time: wayfare_journey::MonoNs| time.since(VirtualClock::START) / 1_000_000;
    let ends = |journey: &FinishedJourney| (ms(journey.cell().arrived()), ms(journey.api().ended));
    assert_eq!(journeys.iter().map(ends).collect::<Vec<_>>(), [(6, 6), (0, 61), (5, 61)]);
    let ApiEnding::Aborted { error_type, .. } = &journeys[0].api().ending else { panic!("it was refused") };
    assert_eq!((*error_type, journeys[0].api().status), ("context_length_exceeded", Some(400)));
    assert_eq!(journeys[0].cores().count(), 0);
    let (_, core) = journeys[2].cores().next().unwrap();
    let events: Vec<_> = core
        .events
        .iter()
        .map(|event| {
            let name = match event.kind {
                CoreEventKind::Queued => "queued",
                CoreEventKind::Scheduled { .. } => "scheduled",
                CoreEventKind::FirstToken => "first token",
                CoreEventKind::Preempted { .. } => "preempted",
                CoreEventKind::Finished { .. } => "finished",
            };
            (name, ms(event.at), event.step)
        })
        .collect();
    assert_eq!(
        events,
        [("queued", 30, 1), ("scheduled", 30, 2), ("first token", 49, 2), ("finished", 61, 3)]
    );
    assert_eq!(journeys[2].first_token().map(ms), Some(49));
}

#[test]
fn arrivals_that_cannot_be_had_end_the_replay() {
    let options = ReplayOptions {
        config: CONFIG,
        queue_limits: QueueLimits::default(),
        timer: StepTimer::new(MODEL, 0.0, 0),
        clock: VirtualClock::new(),
        tracer: None,
        model_name: String::new(),
    };
    let arrivals = [Ok(arrival(0, 4, 4)), Err("line 3")];
    let ended = Replay::new(options).unwrap().run(arrivals.into_iter(), &mut Log::default());
    assert!(matches!(ended, Err(ReplayError::Arrivals("line 3"))), "{ended:?}");
}

#[test]
fn the_same_arrivals_and_seed_give_the_same_replay() {
    let arrivals: Vec<_> = (0..200_u32)
        .map(|n| Arrival {
            prefix: Some(SharedPrefix { group: u64::from(n % 3), tokens: 8 }),
            ..arrival(u64::from(n) * 7, 10 + n % 50, 1 + n % 20)
        })
        .collect();
    let run = |seed| {
        let options = ReplayOptions {
            config: CONFIG,
            queue_limits: QueueLimits::default(),
            timer: StepTimer::new(MODEL, 0.3, seed),
            clock: VirtualClock::new(),
            tracer: None,
            model_name: String::new(),
        };
        let mut log = Log::default();
        let arrivals = arrivals.iter().copied().map(Ok::<_, Infallible>);
        Replay::new(options).unwrap().run(arrivals, &mut log).unwrap();
        log
    };
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
}

/// The engine thread with a clock that its executor moves. The first step waits until all is submitted.
mod live {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use wayfare_engine::{
        Engine as _, EngineFault, EngineRequest, OutputSink, RequestId, SequenceTimes, StepOutputs, TokenId,
    };
    use wayfare_engine_local::{
        AnswerText, Answers, Executor, ExecutorError, LocalEngine, RuleBook, SimulatedExecutor, StepInput,
    };
    use wayfare_journey::RequestLabel;
    use wayfare_testkit::greedy;

    use super::*;

    struct Gated {
        inner: SimulatedExecutor,
        /// Told that a step has begun.
        begun: Sender<()>,
        gate: Receiver<()>,
    }

    impl Executor for Gated {
        fn execute(
            &mut self,
            input: &StepInput,
            rules: &mut RuleBook,
            tokens: &mut Vec<TokenId>,
        ) -> Result<(), ExecutorError> {
            // The other ends are gone once the gate is open.
            let _ = self.begun.send(());
            let _ = self.gate.recv();
            self.inner.execute(input, rules, tokens)
        }
    }

    struct Finishes(Sender<(u64, SequenceTimes, u32)>);

    impl OutputSink for Finishes {
        fn deliver(&mut self, outputs: StepOutputs) {
            for output in outputs.outputs {
                if let Some(finish) = output.finish {
                    let _ = self.0.send((output.id.0, finish.times, finish.num_preemptions));
                }
            }
        }

        fn engine_died(&mut self, fault: Arc<EngineFault>) {
            panic!("{fault}");
        }
    }

    pub(super) fn times(config: SchedulerConfig, arrivals: &[Arrival]) -> Vec<(u64, SequenceTimes, u32)> {
        let clock = wayfare_testkit::VirtualClock::at(VirtualClock::START);
        let (begun_tx, begun) = channel();
        let (open, gate) = channel();
        let (finishes_tx, finishes) = channel();
        let answers = Answers {
            text: AnswerText::Passage([7].into()),
            length: None,
            end_of_text: 2,
            closers: [].into(),
            seed: 0,
        };
        let moved = clock.clone();
        let inner = SimulatedExecutor::new(StepTimer::new(MODEL, 0.2, 9), answers, move |time| {
            moved.advance(time);
        });
        let executor = Box::new(Gated { inner, begun: begun_tx, gate });
        let sink = Box::new(Finishes(finishes_tx));
        let engine =
            LocalEngine::start(config, 100, executor, sink, Arc::new(clock), EngineOptions::default())
                .unwrap();
        for (id, arrival) in (0..).zip(arrivals) {
            let request = EngineRequest {
                id: RequestId(id),
                label: RequestLabel::new("live"),
                prompt: vec![5; arrival.prompt_tokens as usize].into(),
                sampling: greedy(arrival.output_tokens, &[]),
                constraint: None,
                priority: 0,
                cache_salt: None,
                arrived: VirtualClock::START,
                core_span: None,
            };
            engine.submit(request).unwrap();
            if id == 0 {
                // The first step is that of the first request alone.
                begun.recv().unwrap();
            }
        }
        drop(open);
        let mut finishes: Vec<_> = finishes.iter().take(arrivals.len()).collect();
        finishes.sort_by_key(|(id, ..)| *id);
        finishes
    }
}

/// Remembers times in the order in which requests arrived.
#[derive(Default)]
struct Times(Vec<(u64, wayfare_engine::SequenceTimes, u32)>);

impl ReplayObserver for Times {
    fn refused(&mut self, refusal: Refusal) {
        panic!("{refusal}");
    }

    fn token_gap(&mut self, _: u64) {}

    fn served(&mut self, served: &Served<'_>) {
        // Prompts are told apart by their lengths.
        let id = u64::from(served.prompt_tokens) - 10;
        self.0.push((id, served.finish.times, served.finish.num_preemptions));
    }

    fn step(&mut self, _: &StepReport) {}
}

/// A replay is the engine thread's work, to the nanosecond, with chunked prefill, preemption and noise.
#[test]
fn a_replay_and_the_engine_thread_do_the_same() {
    let config = SchedulerConfig { max_num_seqs: 6, max_num_batched_tokens: 24, num_kv_blocks: 41, ..CONFIG };
    let arrivals: Vec<_> =
        (0..30_u32).map(|n| arrival(u64::from(n.min(1)), 10 + n, 5 + n * 11 % 40)).collect();
    let live = live::times(config, &arrivals);
    let options = ReplayOptions {
        config,
        queue_limits: QueueLimits::default(),
        timer: StepTimer::new(MODEL, 0.2, 9),
        clock: VirtualClock::new(),
        tracer: None,
        model_name: String::new(),
    };
    let mut replayed = Times::default();
    let arrivals = arrivals.into_iter().map(Ok::<_, Infallible>);
    let stats = Replay::new(options).unwrap().run(arrivals, &mut replayed).unwrap();
    replayed.0.sort_by_key(|(id, ..)| *id);
    assert!(stats.preemptions > 0, "{stats:?}");
    assert_eq!(replayed.0, live);
}
