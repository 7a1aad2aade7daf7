//! Putting the spans of journeys together.

use std::collections::{HashMap, HashSet};
use std::io::BufRead;

use wayfare_journey::schema::{SCOPE_API, SCOPE_SCHEDULER, SPAN_CORE, SPAN_REQUEST};
use wayfare_journey::{SpanId, TraceId};

use crate::journey::{CoreSpan, RequestSpan, TracedJourney};
use crate::reader::{ReadError, SpanReader};
use crate::span::TraceSpan;

/// Reads all journeys of a file of OTLP/JSON lines, in the order of their start.
///
/// # Errors
/// At the first line that cannot be read.
pub fn read_journeys(input: impl BufRead) -> Result<Vec<TracedJourney>, ReadError> {
    let mut collector = JourneyCollector::default();
    for span in SpanReader::new(input) {
        collector.add(span?);
    }
    Ok(collector.finish())
}

/// Collects the spans of journeys, which may come in any order; a span of another scope is let go.
#[derive(Debug, Default)]
pub struct JourneyCollector {
    /// By trace and by the id of `llm_request`. A core span without a parent stands for itself.
    journeys: HashMap<(TraceId, SpanId), TracedJourney>,
    cores: HashSet<(TraceId, SpanId)>,
}

impl JourneyCollector {
    /// Adds a span; says whether it is one of a journey. Of two `llm_request` spans with the same id, which
    /// an exporter that tries again may write, the first counts, and so with `llm_core`.
    pub fn add(&mut self, span: TraceSpan) -> bool {
        match (&*span.scope, &*span.name) {
            (SCOPE_API, SPAN_REQUEST) => {
                let journey = self.journey(span.trace_id, span.span_id);
                if journey.request.is_none() {
                    journey.request = Some(RequestSpan::from_span(span));
                }
                true
            }
            (SCOPE_SCHEDULER, SPAN_CORE) => {
                if self.cores.insert((span.trace_id, span.span_id)) {
                    let journey = self.journey(span.trace_id, span.parent.unwrap_or(span.span_id));
                    journey.cores.push(CoreSpan::from_span(span));
                }
                true
            }
            _ => false,
        }
    }

    /// As [`JourneyCollector::add`], and takes vLLM's own span for that of an API.
    pub(crate) fn add_of_any_writer(&mut self, mut span: TraceSpan) {
        if *span.name == *SPAN_REQUEST {
            span.scope = SCOPE_API.into();
        }
        self.add(span);
    }

    fn journey(&mut self, trace_id: TraceId, request: SpanId) -> &mut TracedJourney {
        let new = || TracedJourney { trace_id, request: None, cores: Vec::new() };
        self.journeys.entry((trace_id, request)).or_insert_with(new)
    }

    /// The journeys, whole or not, in the order of their start.
    #[must_use]
    pub fn finish(self) -> Vec<TracedJourney> {
        let mut journeys: Vec<_> = self.journeys.into_values().collect();
        for journey in &mut journeys {
            journey.cores.sort_by_key(|core| (core.sequence_index(), core.start_unix_ns, core.span_id));
        }
        journeys.sort_by_key(|journey| {
            let (start, end) = journey.bounds_unix_ns();
            let id = journey.request.as_ref().map(|request| request.span_id);
            (start, end, journey.trace_id, id)
        });
        journeys
    }
}
