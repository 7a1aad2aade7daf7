//! What is whole in the files, and what is not.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Ending, Survey, Writer};
use crate::reader::ReadError;

/// Scopes that are counted by name; the rest together.
const MAX_SCOPES: usize = 16;
/// Errors that are told in full.
const MAX_ERRORS: usize = 8;
const OTHER_SCOPES: &str = "(other scopes)";
const NO_SCOPE: &str = "(no scope)";

/// Counts of spans, by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SpanCounts {
    /// Spans that were read.
    pub read: u64,
    /// Of them, those of journeys.
    pub of_journeys: u64,
    /// Of them, those of engine steps.
    pub of_steps: u64,
    /// Spans of journeys that had been read before; the first one counts.
    pub doubles: u64,
    /// Other spans, by scope.
    pub foreign: BTreeMap<String, u64>,
    /// Events that the writers say they left out.
    pub dropped_events: u64,
    /// Lines, messages or files that could not be read.
    pub unreadable: u64,
    /// The first of them, in words.
    pub errors: Vec<String>,
}

/// Counts of journeys, by what is missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct JourneyCounts {
    /// All that are kept.
    pub found: u64,
    /// Both halves are there and have ended.
    pub complete: u64,
    /// The API's span is missing.
    pub without_request: u64,
    /// The engine had it, and its spans, or one of several, are missing.
    pub without_sequence: u64,
    /// The API's span has no last event.
    pub without_ending: u64,
    /// A sequence has no FINISHED.
    pub unfinished: u64,
    /// Times that contradict each other: an end before its start, events out of order.
    pub clock_off: u64,
    /// The ledger does not add up to the request's life.
    pub ledger_off: u64,
    /// Written by this server.
    pub own: u64,
    /// Written by the reference fork.
    pub reference: u64,
    /// Written by vLLM itself.
    pub stock: u64,
}

/// What is whole in some files, and what is not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Integrity {
    /// Spans.
    pub spans: SpanCounts,
    /// Journeys.
    pub journeys: JourneyCounts,
    /// Engine steps that were recorded.
    pub steps: u64,
    /// Every how-many-th of them is kept.
    pub steps_kept_every: u64,
    /// The share of the journeys that are kept, as there were too many: 1 for all.
    pub kept_share: f64,
}

impl SpanCounts {
    pub(super) fn foreign(&mut self, scope: &str) {
        let name = if scope.is_empty() { NO_SCOPE } else { scope };
        if let Some(count) = self.foreign.get_mut(name) {
            *count += 1;
            return;
        }
        let name = if self.foreign.len() < MAX_SCOPES { name } else { OTHER_SCOPES };
        *self.foreign.entry(name.chars().take(80).collect()).or_default() += 1;
    }

    pub(super) fn unreadable(&mut self, place: &str, error: &ReadError) {
        self.unreadable += 1;
        if self.errors.len() < MAX_ERRORS {
            let mut text = format!("{place}: {error}");
            let mut cause = std::error::Error::source(error);
            while let Some(source) = cause {
                text = format!("{text}: {source}");
                cause = source.source();
            }
            self.errors.push(text);
        }
    }

    /// All foreign spans.
    #[must_use]
    pub fn foreign_spans(&self) -> u64 {
        self.foreign.values().sum()
    }
}

impl Integrity {
    pub(super) fn of(survey: &Survey) -> Self {
        let mut journeys = JourneyCounts::default();
        for record in survey.records() {
            journeys.found += 1;
            journeys.complete += u64::from(record.is_complete());
            journeys.without_request += u64::from(!record.has_request);
            journeys.without_sequence += u64::from(record.lacks_sequences());
            journeys.without_ending += u64::from(record.has_request && record.ending == Ending::Unknown);
            journeys.unfinished += u64::from(record.unfinished() > 0);
            journeys.clock_off += u64::from(record.clock_is_off);
            let is_off = record.has_request
                && record.has_ledger
                && record.buckets.total() != record.end_ns.saturating_sub(record.start_ns);
            journeys.ledger_off += u64::from(is_off);
            match record.writer {
                Writer::Own => journeys.own += 1,
                Writer::Reference => journeys.reference += 1,
                Writer::Stock => journeys.stock += 1,
            }
        }
        Self {
            spans: survey.spans.clone(),
            journeys,
            steps: survey.steps.seen(),
            steps_kept_every: survey.steps.every(),
            kept_share: survey.kept_share(),
        }
    }

    /// Whether nothing is missing or contradicts itself.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let journeys = &self.journeys;
        journeys.complete == journeys.found
            && journeys.clock_off == 0
            && journeys.ledger_off == 0
            && self.spans.dropped_events == 0
            && self.spans.unreadable == 0
            && self.kept_share >= 1.0
    }
}
