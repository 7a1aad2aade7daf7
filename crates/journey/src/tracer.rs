//! Where journeys begin, and where they go.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::api_span::ApiSpan;
use crate::cell::{FinishedJourney, JourneyCell};
use crate::{Clock, HeadSampler, MonoNs, SpanId, TraceContext};

/// Takes finished journeys. Called on whichever thread ended the journey, the engine's included.
pub trait JourneySink: Send + Sync + Debug {
    /// Takes the journey or drops it and counts that. Never waits.
    fn accept(&self, journey: FinishedJourney);
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
    /// The span, when the request is recorded.
    pub span: Option<ApiSpan>,
    /// The value of the `traceresponse` header.
    pub traceresponse: String,
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct TracerCounters {
    recorded: AtomicU64,
    sampled_out: AtomicU64,
    handed_over: AtomicU64,
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
        self.recorded().saturating_sub(self.handed_over.load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
pub(crate) struct TracerShared {
    pub(crate) clock: Arc<dyn Clock>,
    sampler: HeadSampler,
    sink: Arc<dyn JourneySink>,
    counters: TracerCounters,
}

impl TracerShared {
    pub(crate) fn hand_over(&self, journey: FinishedJourney) {
        self.counters.handed_over.fetch_add(1, Ordering::Relaxed);
        self.sink.accept(journey);
    }
}

/// Opens the span of each request that is to be recorded. Exists only when tracing is on.
#[derive(Clone, Debug)]
pub struct Tracer {
    shared: Arc<TracerShared>,
}

impl Tracer {
    /// A tracer that gives finished journeys to `sink`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, sampler: HeadSampler, sink: Arc<dyn JourneySink>) -> Self {
        let counters = TracerCounters::default();
        Self { shared: Arc::new(TracerShared { clock, sampler, sink, counters }) }
    }

    /// Decides about a request whose head was read at `arrived`, and opens its span.
    ///
    /// A caller that sent an unsampled context is not recorded; otherwise the sampler decides by trace id.
    #[must_use]
    pub fn admit(&self, incoming: IncomingHeaders<'_>, route: &str, arrived: MonoNs) -> Admission {
        let context = TraceContext::extract(incoming.traceparent, incoming.tracestate.iter().copied());
        let span_id = SpanId::random();
        let is_recorded = context.caller_sampled && self.shared.sampler.keeps(context.trace_id);
        let traceresponse = context.traceresponse(span_id, is_recorded);
        if !is_recorded {
            self.shared.counters.sampled_out.fetch_add(1, Ordering::Relaxed);
            return Admission { span: None, traceresponse };
        }
        self.shared.counters.recorded.fetch_add(1, Ordering::Relaxed);
        let cell = JourneyCell::new(Arc::clone(&self.shared), context, span_id, route, arrived);
        Admission { span: Some(ApiSpan::open(Arc::new(cell))), traceresponse }
    }

    /// Totals since the start.
    #[must_use]
    pub fn counters(&self) -> &TracerCounters {
        &self.shared.counters
    }
}
