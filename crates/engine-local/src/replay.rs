//! Replaying arrivals on a virtual clock: the real scheduler, modelled step times, no HTTP and no waiting.
//!
//! The loop is that of the engine thread: read what has arrived, plan, let the step's time pass, commit. A request
//! that arrives in the middle of a step is read, and has its QUEUED event, when the step is over.
//!
//! HOT PATH: a step allocates nothing; a request allocates its tokens and its journey.

mod clock;
mod journey;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use wayfare_engine::{
    EngineLimits, EngineRequest, EngineStats, Finish, RequestId, SamplingParams, SequenceOutput, TokenId,
};
use wayfare_journey::{Clock as _, MonoNs, RequestLabel, Tracer, Usage};
use wayfare_scheduler::{Scheduler, SchedulerConfig, SchedulerConfigError};

pub use clock::VirtualClock;
use journey::RequestJourney;

use crate::engine::{QueueLimits, limits_of};
use crate::random::mix;
use crate::{StepTimer, StepWork};

/// Steps without any work, one after the other, after which the scheduler is taken to be stuck.
const MOST_EMPTY_STEPS: u32 = 1_000;

/// A request of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When it arrives, since the beginning; not before the one before it.
    pub at: Duration,
    /// Tokens of its prompt, at least 1.
    pub prompt_tokens: u32,
    /// Tokens that it is answered with, at least 1.
    pub output_tokens: u32,
    /// What its prompt has in common with others.
    pub prefix: Option<SharedPrefix>,
    /// Its priority, as in vLLM: the lower, the earlier.
    pub priority: i32,
}

/// The first tokens of a prompt, the same in all prompts of the group. All other tokens are the prompt's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedPrefix {
    /// Names the group.
    pub group: u64,
    /// How many tokens; no more than the prompt has count.
    pub tokens: u32,
}

/// Why a request was not taken, as the server would not take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Prompt and answer are longer than a sequence can be.
    #[error("prompt and answer have {tokens} tokens, but a sequence can have only {limit}")]
    TooLong {
        /// Tokens of prompt and answer.
        tokens: u64,
        /// Most tokens of a sequence.
        limit: u32,
    },
    /// As many requests wait as may, or as many prompt tokens.
    #[error("{waiting} requests are waiting already, and no more may")]
    QueueFull {
        /// Requests that wait.
        waiting: u64,
    },
}

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Served<'a> {
    /// When it arrived.
    pub arrived: MonoNs,
    /// When its last token was there.
    pub ended: MonoNs,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Tokens of its answer.
    pub output_tokens: u32,
    /// The scheduler's account of it.
    pub finish: &'a Finish,
}

/// A step that was computed.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// When it began.
    pub started: MonoNs,
    /// When it ended.
    pub ended: MonoNs,
    /// The engine's state while it was computed.
    pub stats: EngineStats,
}

/// Is told what happens in a replay, in order.
pub trait ReplayObserver {
    /// A request was not taken.
    fn refused(&mut self, refusal: Refusal);
    /// A request has got a token, other than its first one, so long after the one before.
    fn token_gap(&mut self, gap_ns: u64);
    /// A request has its last token.
    fn served(&mut self, served: &Served<'_>);
    /// A step is over.
    fn step(&mut self, report: &StepReport);
}

/// How to replay.
#[derive(Debug)]
pub struct ReplayOptions {
    /// Sizes of the engine.
    pub config: SchedulerConfig,
    /// What may wait; requests beyond it are refused.
    pub queue_limits: QueueLimits,
    /// The times of the steps.
    pub timer: StepTimer,
    /// The clock that is moved; the tracer's.
    pub clock: VirtualClock,
    /// Records journeys, if any are to be.
    pub tracer: Option<Tracer>,
    /// The model's name in journeys.
    pub model_name: String,
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError<E> {
    /// The next arrival cannot be had.
    #[error(transparent)]
    Arrivals(E),
    /// The scheduler does not go on.
    #[error("the scheduler is stuck: {waiting} requests wait and none can be computed")]
    Stuck {
        /// Requests that wait.
        waiting: u64,
    },
}

/// A replay from its beginning to its end.
#[derive(Debug)]
pub struct Replay {
    scheduler: Scheduler,
    limits: EngineLimits,
    queue_limits: QueueLimits,
    timer: StepTimer,
    clock: VirtualClock,
    tracer: Option<Tracer>,
    model_name: String,
    now: MonoNs,
    /// Requests seen so far; the next one's number.
    arrived: u64,
    /// From the oldest request that is not over to the newest; those in between that are over are empty.
    in_flight: VecDeque<Option<InFlight>>,
    no_tokens: Arc<[TokenId]>,
    next_token: TokenId,
    empty_steps: u32,
    tokens: Vec<TokenId>,
    outputs: Vec<SequenceOutput>,
}

#[derive(Debug)]
struct InFlight {
    arrived: MonoNs,
    prompt_tokens: u32,
    output_tokens: u32,
    cached_tokens: u32,
    last_token: Option<MonoNs>,
    journey: Option<RequestJourney>,
}

impl Replay {
    /// A replay that has not begun.
    ///
    /// # Errors
    /// When the sizes of the engine do not fit together.
    pub fn new(options: ReplayOptions) -> Result<Self, SchedulerConfigError> {
        let ReplayOptions { config, queue_limits, timer, clock, tracer, model_name } = options;
        let limits = limits_of(&config, u32::MAX);
        Ok(Self {
            scheduler: Scheduler::new(config)?,
            limits,
            queue_limits,
            timer,
            now: clock.now(),
            clock,
            tracer,
            model_name,
            arrived: 0,
            in_flight: VecDeque::new(),
            no_tokens: Arc::new([]),
            next_token: 0,
            empty_steps: 0,
            tokens: Vec::new(),
            outputs: Vec::new(),
        })
    }

    /// Replays all arrivals and goes on until the last answer is complete. Gives the engine's totals.
    ///
    /// Reads one arrival ahead; what is held in memory is what is in flight.
    ///
    /// # Errors
    /// When the next arrival cannot be had, or the scheduler does not go on.
    pub fn run<E>(
        mut self,
        mut arrivals: impl Iterator<Item = Result<Arrival, E>>,
        observer: &mut impl ReplayObserver,
    ) -> Result<EngineStats, ReplayError<E>> {
        let mut next = arrivals.next().transpose().map_err(ReplayError::Arrivals)?;
        loop {
            while let Some(arrival) = next.filter(|arrival| time_of(arrival) <= self.now) {
                self.take(&arrival, observer);
                next = arrivals.next().transpose().map_err(ReplayError::Arrivals)?;
            }
            if self.scheduler.has_unfinished() {
                self.step(observer)?;
            } else if let Some(arrival) = &next {
                self.set_now(time_of(arrival));
            } else {
                return Ok(self.scheduler.stats());
            }
        }
    }

    fn set_now(&mut self, now: MonoNs) {
        self.now = now;
        self.clock.set(now);
    }

    /// Takes a request that has arrived, or refuses it.
    fn take(&mut self, arrival: &Arrival, observer: &mut impl ReplayObserver) {
        let number = self.arrived;
        self.arrived += 1;
        let at = time_of(arrival);
        let label = RequestLabel::new(&format!("cmpl-{number:012x}"));
        let journey = self
            .tracer
            .as_ref()
            .and_then(|tracer| RequestJourney::open(tracer, &self.model_name, &label, arrival, at));
        if let Some(refusal) = self.refusal(arrival) {
            if let Some(journey) = journey {
                journey.refuse(refusal, at);
            }
            self.in_flight.push_back(None);
            self.forget_ended();
            observer.refused(refusal);
            return;
        }
        let core_span = journey.as_ref().and_then(|journey| journey.open_core(arrival, at));
        let request = EngineRequest {
            id: RequestId(number),
            label,
            prompt: prompt(arrival, number),
            sampling: self.sampling(arrival.output_tokens),
            constraint: None,
            priority: arrival.priority,
            cache_salt: None,
            arrived: at,
            core_span,
        };
        self.in_flight.push_back(Some(InFlight {
            arrived: at,
            prompt_tokens: arrival.prompt_tokens,
            output_tokens: 0,
            cached_tokens: 0,
            last_token: None,
            journey,
        }));
        let added = self.scheduler.add(request, self.now);
        debug_assert!(added.is_ok(), "requests are numbered");
    }

    fn refusal(&self, arrival: &Arrival) -> Option<Refusal> {
        let tokens = u64::from(arrival.prompt_tokens) + u64::from(arrival.output_tokens);
        let limit = self.limits.context_tokens();
        if tokens > u64::from(limit) {
            return Some(Refusal::TooLong { tokens, limit });
        }
        let (waiting, tokens) = (self.scheduler.num_waiting(), self.scheduler.waiting_tokens());
        let is_taken = self.queue_limits.admit(waiting, tokens, arrival.prompt_tokens.into());
        (!is_taken).then_some(Refusal::QueueFull { waiting })
    }

    fn sampling(&self, max_tokens: u32) -> SamplingParams {
        SamplingParams {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: 0,
            seed_is_chosen: false,
            max_tokens,
            end_of_text: Arc::clone(&self.no_tokens),
            stop_token_ids: Arc::clone(&self.no_tokens),
            rules: None,
            logprobs: None,
            prompt_logprobs: None,
        }
    }

    fn step<E>(&mut self, observer: &mut impl ReplayObserver) -> Result<(), ReplayError<E>> {
        let started = self.now;
        let is_empty = self.scheduler.schedule(started).is_empty();
        self.empty_steps = if is_empty { self.empty_steps + 1 } else { 0 };
        if self.empty_steps > MOST_EMPTY_STEPS {
            return Err(ReplayError::Stuck { waiting: self.scheduler.num_waiting() });
        }
        let stats = self.scheduler.stats();
        let mut work = StepWork::default();
        self.tokens.clear();
        for planned in self.scheduler.planned() {
            let output_index = planned.sample.map(|(_, output_index)| output_index);
            // Bounded by the token budget, a `u32`.
            work.add(planned.first_position, planned.tokens.len() as u32, output_index);
            if output_index.is_some() {
                self.next_token = self.next_token.wrapping_add(1);
                self.tokens.push(self.next_token);
            }
        }
        let time_ns = u64::try_from(self.timer.next(&work).as_nanos()).unwrap_or(u64::MAX);
        self.set_now(MonoNs(started.0.saturating_add(time_ns)));
        let mut outputs = std::mem::take(&mut self.outputs);
        self.scheduler.commit(&self.tokens, self.now, &mut outputs);
        debug_assert_eq!(self.scheduler.check_invariants(), Ok(()));
        for output in outputs.drain(..) {
            self.hand_out(&output, observer);
        }
        self.outputs = outputs;
        self.forget_ended();
        observer.step(&StepReport { started, ended: self.now, stats });
        Ok(())
    }

    /// What the API side of a server does with an output.
    fn hand_out(&mut self, output: &SequenceOutput, observer: &mut impl ReplayObserver) {
        let now = self.now;
        let oldest = self.arrived - self.in_flight.len() as u64;
        let place = usize::try_from(output.id.0.saturating_sub(oldest)).unwrap_or(usize::MAX);
        let Some(place) = self.in_flight.get_mut(place) else { return };
        let Some(request) = place else { return };
        if let Some(first) = output.first {
            request.cached_tokens = first.cached_tokens;
            if let Some(journey) = &request.journey {
                journey.first_token(now);
            }
        }
        if !output.tokens.is_empty() {
            request.output_tokens += output.tokens.len() as u32;
            if let Some(last) = request.last_token.replace(now) {
                observer.token_gap(now.since(last));
            }
        }
        let Some(finish) = &output.finish else { return };
        if let Some(mut request) = place.take() {
            if let Some(journey) = request.journey.take() {
                let usage = Usage {
                    prompt_tokens: request.prompt_tokens,
                    completion_tokens: request.output_tokens,
                    cached_tokens: request.cached_tokens,
                    finish_reasons: SmallVec::from_slice(&[finish.reason.as_str()]),
                };
                journey.end(usage, now);
            }
            observer.served(&Served {
                arrived: request.arrived,
                ended: now,
                prompt_tokens: request.prompt_tokens,
                output_tokens: request.output_tokens,
                finish,
            });
        }
    }

    /// Drops the places of the oldest requests that are over.
    fn forget_ended(&mut self) {
        while self.in_flight.front().is_some_and(Option::is_none) {
            self.in_flight.pop_front();
        }
    }
}

fn time_of(arrival: &Arrival) -> MonoNs {
    let since_start = u64::try_from(arrival.at.as_nanos()).unwrap_or(u64::MAX);
    MonoNs(VirtualClock::START.0.saturating_add(since_start))
}

/// The tokens of a prompt: the group's, then its own.
fn prompt(arrival: &Arrival, number: u64) -> Arc<[TokenId]> {
    let (group, shared) = arrival.prefix.map_or((0, 0), |prefix| (prefix.group, prefix.tokens));
    let own = mix(number, u64::MAX / 2);
    let token = |position: u32| {
        let series = if position < shared { group } else { own };
        mix(series, u64::from(position)) as TokenId
    };
    (0..arrival.prompt_tokens).map(token).collect()
}
