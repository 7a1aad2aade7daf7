//! A journey as it is in a file: what there is of it.

use std::sync::Arc;

use wayfare_journey::schema::span_attribute as key;
use wayfare_journey::{SpanId, TraceId};

use crate::event::{ApiEvent, ApiEventKind, CoreEvent, CoreEventKind};
use crate::span::{Attributes, TraceSpan};

/// The spans of one request. At least one of them is there.
#[derive(Clone, Debug, PartialEq)]
pub struct TracedJourney {
    /// The trace it belongs to; several journeys may share one.
    pub trace_id: TraceId,
    /// The API's span, unless it is missing.
    pub request: Option<RequestSpan>,
    /// The engine's spans, as far as they are there, by sequence index or start.
    pub cores: Vec<CoreSpan>,
}

/// An `llm_request` span.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestSpan {
    /// Its id.
    pub span_id: SpanId,
    /// Its parent, the caller's span.
    pub parent: Option<SpanId>,
    /// Its start, in nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// Its end, in nanoseconds since the Unix epoch; never before its start.
    pub end_unix_ns: u64,
    /// Its events, in the order of the file.
    pub events: Vec<ApiEvent>,
    /// Its attributes.
    pub attributes: Attributes,
    /// Which server it came from.
    pub resource: Arc<Attributes>,
    /// What its status says; empty when there is nothing to say.
    pub status_message: Box<str>,
}

/// An `llm_core` span.
#[derive(Clone, Debug, PartialEq)]
pub struct CoreSpan {
    /// Its id.
    pub span_id: SpanId,
    /// The `llm_request` span it belongs to, which need not be there.
    pub parent: Option<SpanId>,
    /// Its start, in nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// Its end, in nanoseconds since the Unix epoch; never before its start.
    pub end_unix_ns: u64,
    /// Its events, in the order of the file.
    pub events: Vec<CoreEvent>,
    /// Its attributes.
    pub attributes: Attributes,
    /// Which server it came from.
    pub resource: Arc<Attributes>,
}

impl TracedJourney {
    /// The response's id: of `llm_request`, or else of an `llm_core`, to which the reference adds a suffix.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        let of_request = self.request.iter().map(|request| &request.attributes);
        let all = of_request.chain(self.cores.iter().map(|core| &core.attributes));
        all.filter_map(|attributes| attributes.text(key::REQUEST_ID)).next()
    }

    /// Start and end of the whole, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn bounds_unix_ns(&self) -> (u64, u64) {
        let of_request = self.request.iter().map(|request| (request.start_unix_ns, request.end_unix_ns));
        let all = of_request.chain(self.cores.iter().map(|core| (core.start_unix_ns, core.end_unix_ns)));
        all.reduce(|(start, end), (other_start, other_end)| (start.min(other_start), end.max(other_end)))
            .unwrap_or((0, 0))
    }

    /// Arrival to the first token, in nanoseconds: by the events, or else as the server has written it.
    #[must_use]
    pub fn time_to_first_token_ns(&self) -> Option<u64> {
        let request = self.request.as_ref()?;
        let first_tokens = self.cores.iter().flat_map(|core| &core.events);
        let by_core = first_tokens
            .filter(|event| event.kind == CoreEventKind::FirstToken)
            .map(|event| event.unix_ns.saturating_sub(request.start_unix_ns))
            .min();
        let written = || {
            let seconds = request.attributes.number(key::TIME_TO_FIRST_TOKEN)?;
            // A cast of a number that is none, or out of range, gives the nearest there is.
            Some((seconds * 1e9) as u64)
        };
        by_core.or_else(written)
    }

    /// Preemptions of all sequences together, as far as they are there.
    #[must_use]
    pub fn preemptions(&self) -> u64 {
        self.cores.iter().map(CoreSpan::preemptions).sum()
    }
}

impl RequestSpan {
    pub(crate) fn from_span(span: TraceSpan) -> Self {
        Self {
            span_id: span.span_id,
            parent: span.parent,
            start_unix_ns: span.start_unix_ns,
            end_unix_ns: span.end_unix_ns.max(span.start_unix_ns),
            events: span.events.iter().map(ApiEvent::from_span_event).collect(),
            attributes: span.attributes,
            resource: span.resource,
            status_message: span.status_message,
        }
    }

    /// Duration in nanoseconds.
    #[must_use]
    pub fn duration_ns(&self) -> u64 {
        self.end_unix_ns - self.start_unix_ns
    }

    /// The first event for which `wanted` holds.
    #[must_use]
    pub fn event(&self, wanted: impl Fn(&ApiEventKind) -> bool) -> Option<&ApiEvent> {
        self.events.iter().find(|event| wanted(&event.kind))
    }

    /// DEPARTED or ABORTED, whichever is there.
    #[must_use]
    pub fn ending(&self) -> Option<&ApiEvent> {
        self.event(|kind| matches!(kind, ApiEventKind::Departed { .. } | ApiEventKind::Aborted { .. }))
    }
}

impl CoreSpan {
    pub(crate) fn from_span(span: TraceSpan) -> Self {
        Self {
            span_id: span.span_id,
            parent: span.parent,
            start_unix_ns: span.start_unix_ns,
            end_unix_ns: span.end_unix_ns.max(span.start_unix_ns),
            events: span.events.iter().map(CoreEvent::from_span_event).collect(),
            attributes: span.attributes,
            resource: span.resource,
        }
    }

    /// Which sequence of the request it is; not in files of the reference.
    #[must_use]
    pub fn sequence_index(&self) -> Option<u64> {
        self.attributes.count(key::SEQUENCE_INDEX)
    }

    /// Preemptions of the sequence.
    #[must_use]
    pub fn preemptions(&self) -> u64 {
        let counted = self.events.iter().filter_map(|event| event.num_preemptions).max().unwrap_or(0);
        let stands_for = |event: &CoreEvent| match event.kind {
            CoreEventKind::Preempted { folded, .. } => folded.unwrap_or(1).max(1),
            _ => 0,
        };
        counted.max(self.events.iter().map(stands_for).fold(0, u64::saturating_add))
    }
}
