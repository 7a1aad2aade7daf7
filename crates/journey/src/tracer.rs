//! Where journeys begin, and where they go.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::api_span::ApiSpan;
use crate::board::EngineBoard;
use crate::cell::{Admitted, FinishedJourney, JourneyCell, OpenJourney};
use crate::context::TraceResponse;
use crate::live::{RequestKey, SEQUENCE_WORDS};
use crate::recorder::{Claim, FlightRecorder};
use crate::registry::Registry;
use crate::words::Words;
use crate::{Clock, KeepRuleKind, MonoNs, SamplingPolicy, SpanId, TraceContext};

/// Takes finished journeys. Called on whichever thread ended the journey, the engine's included.
pub trait JourneySink: Send + Sync + Debug {
    /// Takes the journey or drops it and counts that. Never waits. Should it panic, the journey is lost to it and
    /// [`TracerCounters::sink_panics`] counts that; the thread goes on.
    fn accept(&self, journey: FinishedJourney);
}

/// Gives every journey to each of several sinks, also when one of them panics.
#[derive(Clone, Debug)]
pub struct FanOut(Box<[Arc<dyn JourneySink>]>);

impl FanOut {
    /// A sink in front of these.
    #[must_use]
    pub fn new(sinks: impl IntoIterator<Item = Arc<dyn JourneySink>>) -> Self {
        Self(sinks.into_iter().collect())
    }
}

impl JourneySink for FanOut {
    fn accept(&self, journey: FinishedJourney) {
        let mut panic = None;
        for sink in &self.0 {
            let copy = journey.clone();
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| sink.accept(copy))) {
                panic = Some(payload);
            }
        }
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

/// What the caller sent to connect its trace with ours.
#[derive(Clone, Copy, Debug, Default)]
pub struct IncomingHeaders<'a> {
    /// The `traceparent` header.
    pub traceparent: Option<&'a str>,
    /// The values of all `tracestate` headers, in order.
    pub tracestate: &'a [&'a str],
}

/// What became of a request's arrival.
#[derive(Debug)]
pub struct Admission {
    /// The span, when the request is recorded or shown while it lives.
    pub span: Option<ApiSpan>,
    /// The value of the `traceresponse` header.
    pub traceresponse: TraceResponse,
}

/// Totals since the start.
///
/// Every request is either recorded or sampled out. A recorded one is in flight until its journey is complete;
/// then it is kept by the head, kept by a tail rule, or discarded.
#[derive(Debug, Default)]
pub struct TracerCounters {
    recorded: AtomicU64,
    sampled_out: AtomicU64,
    completed: AtomicU64,
    kept_by_head: AtomicU64,
    kept_by_rule: [AtomicU64; KeepRuleKind::ALL.len()],
    discarded: AtomicU64,
    sink_panics: AtomicU64,
}

impl TracerCounters {
    /// Requests that are or were recorded.
    #[must_use]
    pub fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Relaxed)
    }

    /// Requests that were not recorded, by the sample rate or by the caller's flag.
    #[must_use]
    pub fn sampled_out(&self) -> u64 {
        self.sampled_out.load(Ordering::Relaxed)
    }

    /// Recorded requests whose journey is not complete yet.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        let completed = self.completed.load(Ordering::Acquire);
        self.recorded().saturating_sub(completed)
    }

    /// Journeys that were handed over because the head had said so.
    #[must_use]
    pub fn kept_by_head(&self) -> u64 {
        self.kept_by_head.load(Ordering::Relaxed)
    }

    /// Journeys that were handed over only because a tail rule matched; the first that does counts.
    #[must_use]
    pub fn kept_by_rule(&self, kind: KeepRuleKind) -> u64 {
        self.kept_by_rule[kind as usize].load(Ordering::Relaxed)
    }

    /// Journeys that were recorded for the tail rules' sake and matched none.
    #[must_use]
    pub fn discarded(&self) -> u64 {
        self.discarded.load(Ordering::Relaxed)
    }

    /// Kept journeys over which the sink panicked: lost, at least to one of those behind a [`FanOut`].
    #[must_use]
    pub fn sink_panics(&self) -> u64 {
        self.sink_panics.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(crate) struct TracerShared {
    pub(crate) clock: Arc<dyn Clock>,
    policy: ArcSwap<SamplingPolicy>,
    sink: Arc<dyn JourneySink>,
    counters: TracerCounters,
    registry: Registry,
    live: LiveTracing,
    board: EngineBoard,
    last_key: AtomicU64,
}

/// How requests are shown while they live.
#[derive(Debug, Default)]
pub struct LiveTracing {
    /// Takes every request that was in flight, recorded or not, when its journey is complete. With it every request
    /// is shown; without it those that are not recorded are not. The same rules hold for it as for any sink.
    pub ends: Option<Arc<dyn JourneySink>>,
    /// Where their state lies, so that it outlives the process. Every request is shown there.
    pub recorder: Option<FlightRecorder>,
}

impl LiveTracing {
    fn shows_all(&self) -> bool {
        self.ends.is_some() || self.recorder.is_some()
    }
}

impl TracerShared {
    /// Words for what is shown of a sequence.
    pub(crate) fn sequence_words(&self) -> (Words<SEQUENCE_WORDS>, Option<Claim>) {
        let recorded = self.live.recorder.as_ref().and_then(FlightRecorder::sequence_words);
        recorded.map_or_else(|| (Words::zeros(), None), |(words, claim)| (words, Some(claim)))
    }

    pub(crate) fn release(&self, claim: &Claim) {
        if let Some(recorder) = &self.live.recorder {
            recorder.release(claim);
        }
    }

    fn offer(&self, sink: &dyn JourneySink, journey: FinishedJourney) {
        // This is the engine's thread or a request's, perhaps in the middle of unwinding.
        if catch_unwind(AssertUnwindSafe(|| sink.accept(journey))).is_err() {
            self.counters.sink_panics.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a complete journey out of the registry and decides whether it is kept, both spans or neither.
    pub(crate) fn hand_over(&self, journey: FinishedJourney) {
        if let Some(place) = journey.cell().place() {
            self.registry.remove(place);
        }
        journey.cell().claims().for_each(|claim| self.release(claim));
        if let Some(ends) = &self.live.ends {
            self.offer(&**ends, journey.clone());
        }
        if !journey.cell().is_recorded() {
            return;
        }
        let is_kept = if journey.cell().head_sampled() {
            self.counters.kept_by_head.fetch_add(1, Ordering::Relaxed);
            true
        } else if let Some(kind) = self.policy.load().keep().first_match(&journey) {
            self.counters.kept_by_rule[kind as usize].fetch_add(1, Ordering::Relaxed);
            true
        } else {
            self.counters.discarded.fetch_add(1, Ordering::Relaxed);
            false
        };
        self.counters.completed.fetch_add(1, Ordering::Release);
        if is_kept {
            self.offer(&*self.sink, journey);
        }
    }
}

/// Opens the span of each request that is to be recorded. Exists only when tracing is on.
#[derive(Clone, Debug)]
pub struct Tracer {
    shared: Arc<TracerShared>,
}

impl Tracer {
    /// A tracer that gives finished journeys to `sink`. A [`HeadSampler`](crate::HeadSampler) is a policy,
    /// too: its rate and no tail rules.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, policy: impl Into<SamplingPolicy>, sink: Arc<dyn JourneySink>) -> Self {
        Self::with_live_view(clock, policy, sink, LiveTracing::default())
    }

    /// A tracer that besides shows requests while they live.
    #[must_use]
    pub fn with_live_view(
        clock: Arc<dyn Clock>,
        policy: impl Into<SamplingPolicy>,
        sink: Arc<dyn JourneySink>,
        live: LiveTracing,
    ) -> Self {
        let shared = TracerShared {
            board: live.recorder.as_ref().map(FlightRecorder::board).unwrap_or_default(),
            live,
            last_key: AtomicU64::new(0),
            clock,
            policy: ArcSwap::from_pointee(policy.into()),
            sink,
            counters: TracerCounters::default(),
            registry: Registry::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Decides about a request whose head was read at `arrived`, and opens its span.
    ///
    /// A caller that sent an unsampled context is not sampled by the head; otherwise the policy decides by
    /// trace id. With tail rules every request is recorded, whatever the head said; `traceresponse` says what
    /// the head said. A request that is not recorded costs the decision and nothing else, unless it is shown while
    /// it lives.
    #[must_use]
    pub fn admit(&self, incoming: IncomingHeaders<'_>, route: &str, arrived: MonoNs) -> Admission {
        let shared = &self.shared;
        let context = TraceContext::extract(incoming.traceparent, incoming.tracestate.iter().copied());
        let span_id = SpanId::random();
        let (head_sampled, is_recorded) = {
            let policy = shared.policy.load();
            let head_sampled = policy.head_keeps(&context);
            (head_sampled, head_sampled || !policy.keep().is_empty())
        };
        let traceresponse = context.traceresponse(span_id, head_sampled);
        if !is_recorded {
            shared.counters.sampled_out.fetch_add(1, Ordering::Relaxed);
            if !shared.live.shows_all() {
                return Admission { span: None, traceresponse };
            }
        } else {
            shared.counters.recorded.fetch_add(1, Ordering::Relaxed);
        }
        let key = RequestKey(shared.last_key.fetch_add(1, Ordering::Relaxed) + 1);
        let flight = shared
            .live
            .recorder
            .as_ref()
            .and_then(|recorder| recorder.begin_request(key, context.trace_id, span_id, route, arrived));
        let place = shared.registry.reserve();
        let admitted = Admitted { key, is_recorded, head_sampled, place, span_id, flight };
        let cell = Arc::new(JourneyCell::new(admitted, context, route, arrived));
        if let Some(place) = place {
            shared.registry.insert(place, &cell);
        }
        let journey = OpenJourney::new(cell, Arc::clone(shared));
        Admission { span: Some(ApiSpan::open(journey)), traceresponse }
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<SamplingPolicy> {
        self.shared.policy.load_full()
    }

    /// Puts another policy in force, at once and as a whole: the head's part for requests that arrive from
    /// now on, the tail rules for journeys that are complete from now on.
    pub fn set_policy(&self, policy: SamplingPolicy) {
        self.shared.policy.store(Arc::new(policy));
    }

    /// Where the engine shows what it does and why those in its queue wait.
    #[must_use]
    pub fn board(&self) -> &EngineBoard {
        &self.shared.board
    }

    /// The flight recorder, when there is one.
    #[must_use]
    pub fn recorder(&self) -> Option<&FlightRecorder> {
        self.shared.live.recorder.as_ref()
    }

    /// The requests in flight that are shown, in no particular order: all, or with no live view the recorded ones.
    /// One that arrives or ends meanwhile may be
    /// among them. Whoever holds a cell keeps its memory and nothing else.
    pub fn in_flight(&self) -> impl Iterator<Item = Arc<JourneyCell>> {
        self.shared.registry.iter()
    }

    /// Totals since the start.
    #[must_use]
    pub fn counters(&self) -> &TracerCounters {
        &self.shared.counters
    }
}
