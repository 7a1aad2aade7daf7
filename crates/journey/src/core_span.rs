//! The guard of one sequence's `llm_core` span.
//!
//! HOT PATH: [`CoreSpan::record`] runs on the engine thread. The record and room for its usual events are
//! allocated when the span is opened, on the API side; only a sequence that is preempted repeatedly grows it.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::event::{CoreEvent, CoreEventKind, FinishStatus, Phase, Progress};
use crate::{JourneyCell, MonoNs, SpanId};

/// Events of a sequence that is preempted at most once.
const USUAL_EVENTS: usize = 6;

/// Everything recorded about one sequence in the engine.
#[derive(Debug)]
pub struct CoreRecord {
    /// The id of the `llm_core` span.
    pub span_id: SpanId,
    /// When the sequence was made ready for the engine.
    pub opened: MonoNs,
    /// Prompt tokens of the sequence.
    pub prefill_total: u32,
    /// The most output tokens the sequence may generate.
    pub decode_max: u32,
    /// What happened, in order.
    pub events: SmallVec<[CoreEvent; USUAL_EVENTS]>,
}

impl CoreRecord {
    /// When the sequence entered the scheduler, or was opened if it never did.
    #[must_use]
    pub fn started(&self) -> MonoNs {
        self.events.first().map_or(self.opened, |event| event.at)
    }

    /// When the sequence left the scheduler, or was opened if it never entered it.
    #[must_use]
    pub fn ended(&self) -> MonoNs {
        self.events.last().map_or(self.opened, |event| event.at)
    }

    /// The time of the first event for which `wanted` holds.
    #[must_use]
    pub fn first_time(&self, wanted: impl Fn(&CoreEventKind) -> bool) -> Option<MonoNs> {
        self.events.iter().find(|event| wanted(&event.kind)).map(|event| event.at)
    }
}

/// The right and duty to end one `llm_core` span. Travels with the sequence; ends when it is dropped.
#[derive(Debug)]
pub struct CoreSpan {
    cell: Arc<JourneyCell>,
    index: u32,
    record: Option<Box<CoreRecord>>,
}

impl CoreSpan {
    pub(crate) fn open(
        cell: Arc<JourneyCell>,
        index: u32,
        prefill_total: u32,
        decode_max: u32,
        opened: MonoNs,
    ) -> Self {
        let record = CoreRecord {
            span_id: SpanId::random(),
            opened,
            prefill_total,
            decode_max,
            events: SmallVec::new(),
        };
        Self { cell, index, record: Some(Box::new(record)) }
    }

    /// Appends an event. Constant time; allocates only beyond the usual number of events.
    #[inline]
    pub fn record(&mut self, event: CoreEvent) {
        if let Some(record) = &mut self.record {
            record.events.push(event);
        }
    }

    /// Ends the span with its FINISHED event.
    pub fn finish(mut self, event: CoreEvent) {
        debug_assert!(matches!(event.kind, CoreEventKind::Finished { .. }));
        self.record(event);
        self.deposit();
    }

    /// Takes the span back before the engine has accepted the sequence: it will not be part of the journey.
    pub fn withdraw(mut self) {
        self.record = None;
        self.cell.part_ended();
    }

    fn deposit(&mut self) {
        if let Some(record) = self.record.take() {
            self.cell.deposit_core(self.index, record);
        }
    }
}

impl Drop for CoreSpan {
    /// The other end: whoever held the sequence lost it, so it was aborted. Keeps the rules of a core span
    /// (QUEUED first, FINISHED last) even if the scheduler never saw the sequence.
    fn drop(&mut self) {
        let Some(record) = &mut self.record else { return };
        let (at, last) = (self.cell.now(), record.events.last());
        let ended = CoreEvent {
            kind: CoreEventKind::Finished { status: FinishStatus::Aborted },
            at: last.map_or(at, |last| last.at.max(at)),
            step: last.map_or(0, |last| last.step),
            phase: last.map_or(Phase::Waiting, |last| last.phase),
            progress: last.map_or(Progress::default(), |last| last.progress),
            num_preemptions: last.map_or(0, |last| last.num_preemptions),
        };
        if record.events.is_empty() {
            record.events.push(CoreEvent { kind: CoreEventKind::Queued, ..ended.clone() });
        }
        record.events.push(ended);
        self.deposit();
    }
}
