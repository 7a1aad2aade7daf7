//! Picking single journeys out of files, by id or for being slow.

use std::collections::{HashMap, HashSet};

use wayfare_journey::schema::{SCOPE_SCHEDULER, SPAN_REQUEST};
use wayfare_journey::{SpanId, TraceId};

use crate::collector::JourneyCollector;
use crate::journey::TracedJourney;
use crate::span::TraceSpan;
use crate::survey::{Record, Survey};

/// What response ids begin with, before the client's own id.
const ID_PREFIXES: [&str; 3] = ["chatcmpl-", "cmpl-", "resp_"];

/// The records that an id means: that of the response, that which the client had given, or a trace id.
#[must_use]
pub fn records_of_id<'a>(survey: &'a Survey, id: &str) -> Vec<&'a Record> {
    let trace_id = TraceId::from_hex(&id.to_ascii_lowercase());
    let is_meant = |record: &&Record| {
        let text = survey.names().text(record.request_id);
        let by_client = ID_PREFIXES.iter().any(|prefix| text.strip_prefix(prefix) == Some(id));
        text == id || by_client || trace_id == Some(record.trace_id)
    };
    survey.records().filter(is_meant).collect()
}

/// The records that took longest from arrival to end, the longest first.
#[must_use]
pub fn slowest(survey: &Survey, count: usize) -> Vec<&Record> {
    let mut timed: Vec<_> = survey.records().filter(|record| record.e2e_ns().is_some()).collect();
    let key = |record: &&Record| (std::cmp::Reverse(record.e2e_ns()), record.start_ns, record.span_id);
    let count = count.min(timed.len());
    if count < timed.len() {
        timed.select_nth_unstable_by_key(count, key);
        timed.truncate(count);
    }
    timed.sort_by_key(key);
    timed
}

/// Collects the spans of some journeys on a second way through the files.
#[derive(Debug)]
pub struct JourneyPicker {
    wanted: HashSet<(TraceId, SpanId)>,
    collector: JourneyCollector,
}

impl JourneyPicker {
    /// Of these journeys.
    #[must_use]
    pub fn new(records: &[&Record]) -> Self {
        let wanted = records.iter().map(|record| (record.trace_id, record.span_id)).collect();
        Self { wanted, collector: JourneyCollector::default() }
    }

    /// Keeps the span when it is one of theirs.
    pub fn add(&mut self, span: TraceSpan) {
        let key =
            if *span.name == *SPAN_REQUEST { span.span_id } else { span.parent.unwrap_or(span.span_id) };
        if self.wanted.contains(&(span.trace_id, key)) {
            self.collector.add_of_any_writer(span);
        }
    }

    /// What was found.
    #[must_use]
    pub fn finish(self) -> Vec<TracedJourney> {
        self.collector.finish()
    }
}

/// As [`JourneyPicker`], and keeps the spans as they are.
#[derive(Debug)]
pub struct SpanPicker {
    wanted: HashMap<(TraceId, SpanId), Vec<TraceSpan>>,
}

impl SpanPicker {
    /// Of these journeys.
    #[must_use]
    pub fn new(records: &[&Record]) -> Self {
        let wanted = records.iter().map(|record| ((record.trace_id, record.span_id), Vec::new())).collect();
        Self { wanted }
    }

    /// Keeps the span when it is one of theirs, and was not read before.
    pub fn add(&mut self, span: TraceSpan) {
        let is_of_a_journey = *span.name == *SPAN_REQUEST || *span.scope == *SCOPE_SCHEDULER;
        if let (true, Some(spans)) = (is_of_a_journey, self.wanted.get_mut(&key_of(&span)))
            && spans.iter().all(|one| one.span_id != span.span_id)
        {
            spans.push(span);
        }
    }

    /// The spans of one of them.
    #[must_use]
    pub fn spans_of(&self, record: &Record) -> &[TraceSpan] {
        self.wanted.get(&(record.trace_id, record.span_id)).map(Vec::as_slice).unwrap_or_default()
    }
}

/// The record that a span belongs to.
fn key_of(span: &TraceSpan) -> (TraceId, SpanId) {
    let id = if *span.name == *SPAN_REQUEST { span.span_id } else { span.parent.unwrap_or(span.span_id) };
    (span.trace_id, id)
}
