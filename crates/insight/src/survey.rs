//! What is kept of files of traces: a record of fixed size per journey, however many events it had.
//!
//! Spans may come in any order, halves far apart, and twice. When there are more journeys than may be kept, half of
//! them are let go, chosen by trace id, and so again: what is left is a fair sample, whole journeys, and the share is
//! known.

mod api_part;
mod core_part;
mod integrity;
mod names;
mod record;
mod servers;
mod steps;
mod store;

use std::collections::HashSet;

use wayfare_journey::schema::{SCOPE_API, SCOPE_SCHEDULER, SCOPE_STEPS, SPAN_CORE, SPAN_REQUEST};
use wayfare_journey::{SpanId, TraceId};

use crate::reader::ReadError;
use crate::span::TraceSpan;

pub use integrity::{Integrity, JourneyCounts, SpanCounts};
pub use names::{Name, Names};
pub use record::{Ending, Moment, Record, SequencePart, Writer};
pub use servers::{Server, Servers};
pub use steps::{StepSample, Steps};
use store::Store;

/// Most journeys that are kept by default: some 700 MB.
pub const DEFAULT_MAX_JOURNEYS: usize = 1_250_000;

/// Everything that is known of some files of traces.
#[derive(Debug)]
pub struct Survey {
    store: Store,
    /// Sequences that were seen, so that one that was written twice counts once.
    sequences: HashSet<(TraceId, SpanId)>,
    names: Names,
    steps: Steps,
    servers: Servers,
    spans: SpanCounts,
    max_journeys: usize,
}

impl Default for Survey {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_JOURNEYS)
    }
}

impl Survey {
    /// One that keeps at most so many journeys, and 2 at least.
    #[must_use]
    pub fn new(max_journeys: usize) -> Self {
        Self {
            store: Store::default(),
            sequences: HashSet::new(),
            names: Names::default(),
            steps: Steps::default(),
            servers: Servers::default(),
            spans: SpanCounts::default(),
            max_journeys: max_journeys.max(2),
        }
    }

    /// Takes a span in. One that is neither of a journey nor of steps is counted as foreign.
    pub fn add(&mut self, span: &TraceSpan) {
        self.spans.read += 1;
        match (&*span.scope, &*span.name) {
            (SCOPE_API, SPAN_REQUEST) => self.add_request(span, Self::request),
            (SCOPE_SCHEDULER, SPAN_CORE) => self.add_sequence(span),
            (SCOPE_STEPS, _) => {
                self.spans.of_steps += 1;
                let instance = self.servers.note(&span.resource, &mut self.names);
                self.steps.add(span, instance);
            }
            (_, SPAN_REQUEST) if api_part::is_of_stock_vllm(span) => {
                self.add_request(span, Self::stock_request);
            }
            (scope, _) => self.spans.foreign(scope),
        }
    }

    /// Notes what could not be read; `place` is the file's name.
    pub fn note_unreadable(&mut self, place: &str, error: &ReadError) {
        self.spans.unreadable(place, error);
    }

    /// The journeys, in the order in which they were found.
    pub fn records(&self) -> impl Iterator<Item = &Record> + Clone {
        self.store.iter()
    }

    /// The texts of the records.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// What the engines did in their steps, as far as that was recorded.
    #[must_use]
    pub fn steps(&self) -> &Steps {
        &self.steps
    }

    /// The servers that wrote the spans.
    #[must_use]
    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// The share of the journeys that are kept: 1, ½, ¼ …
    #[must_use]
    pub fn kept_share(&self) -> f64 {
        self.store.kept_share()
    }

    /// What is whole, and what is not.
    #[must_use]
    pub fn integrity(&self) -> Integrity {
        Integrity::of(self)
    }

    fn add_request(&mut self, span: &TraceSpan, fill: fn(&mut Self, usize, &TraceSpan)) {
        self.spans.of_journeys += 1;
        let Some(at) = self.place_of(span.trace_id, span.span_id) else { return };
        let is_double = self.store.get_mut(at).is_some_and(|record| record.has_request);
        if is_double {
            self.spans.doubles += 1;
        } else {
            fill(self, at, span);
        }
    }

    fn add_sequence(&mut self, span: &TraceSpan) {
        self.spans.of_journeys += 1;
        let Some(at) = self.place_of(span.trace_id, span.parent.unwrap_or(span.span_id)) else { return };
        if self.sequences.insert((span.trace_id, span.span_id)) {
            self.sequence(at, span);
        } else {
            self.spans.doubles += 1;
        }
    }

    /// Where the record of a journey is, made now when it is new; `None` when it is one of those let go.
    fn place_of(&mut self, trace_id: TraceId, span_id: SpanId) -> Option<usize> {
        let at = self.store.place_of(trace_id, span_id)?;
        if self.store.len() <= self.max_journeys {
            return Some(at);
        }
        self.store.halve();
        let store = &self.store;
        self.sequences.retain(|(trace_id, _)| store.keeps(*trace_id));
        self.store.place_of(trace_id, span_id)
    }
}
