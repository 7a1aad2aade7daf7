//! The guard of one sequence's `llm_core` span.
//!
//! HOT PATH: [`CoreSpan::record`] runs on the engine thread. The record and room for its usual events are
//! allocated when the span is opened, on the API side; only a sequence that is preempted repeatedly grows it,
//! and not beyond [`MAX_CORE_EVENTS`](crate::MAX_CORE_EVENTS).

use crate::cell::OpenJourney;
use crate::core_record::{ClockSource, CoreRecord};
use crate::event::{CoreEvent, CoreEventKind, FinishStatus, Phase, Progress};
use crate::live::{LiveSequence, SequenceKey, SequenceState};
use crate::{CoreLedger, MonoNs};

/// The right and duty to end one `llm_core` span. Travels with the sequence; ends when it is dropped.
#[derive(Debug)]
pub struct CoreSpan {
    journey: OpenJourney,
    live: LiveSequence,
    index: u32,
    is_open: bool,
    /// `None` of a request that is only shown while it lives.
    record: Option<Box<CoreRecord>>,
}

impl CoreSpan {
    pub(crate) fn open(
        journey: OpenJourney,
        live: LiveSequence,
        index: u32,
        record: Option<Box<CoreRecord>>,
    ) -> Self {
        Self { journey, live, index, is_open: true, record }
    }

    /// Names the sequence in this process.
    #[must_use]
    pub fn key(&self) -> SequenceKey {
        SequenceKey { request: self.journey.cell().key(), index: self.index }
    }

    /// Appends an event. Bounded time; allocates only beyond the usual number of events, and no more than
    /// a bounded amount.
    #[inline]
    pub fn record(&mut self, event: CoreEvent) {
        self.live.show(&event);
        if let Some(record) = &mut self.record {
            record.push(event);
        }
    }

    /// Shows how far the sequence has come by a step that ended at `at`; `decodes` when that gave a token. Leaves
    /// nothing in the span.
    #[inline]
    pub fn advance(&self, progress: Progress, decodes: bool, at: MonoNs) {
        self.live.advance(progress, decodes, at);
    }

    /// The events come from an engine in another process.
    pub fn of_engine(&mut self, engine_id: u32, clock_source: ClockSource) {
        if let Some(record) = &mut self.record {
            record.engine_id = engine_id;
            record.clock_source = Some(clock_source);
        }
    }

    /// Shows that the sequence must be in this state since `at`, as follows from what the engine said of all of its
    /// sequences together. Leaves nothing in the span; the next event or token takes its place.
    pub fn infer_state(&self, state: SequenceState, at: MonoNs) {
        self.live.infer(state, at);
    }

    /// QUEUED, which is recorded next, is not what the engine said.
    pub fn infer_queued(&mut self) {
        if let Some(record) = &mut self.record {
            record.inferred.queued = true;
        }
    }

    /// FINISHED, which is recorded next, is not what the engine said.
    pub fn infer_finished(&mut self) {
        if let Some(record) = &mut self.record {
            record.inferred.finished = true;
        }
    }

    /// Ends the span with its FINISHED event. The ledger is what the events tell.
    pub fn finish(mut self, event: CoreEvent) {
        debug_assert!(matches!(event.kind, CoreEventKind::Finished { .. }));
        self.record(event);
        self.deposit();
    }

    /// Ends the span with its FINISHED event and the account that the engine has kept of the sequence.
    pub fn finish_with_account(mut self, event: CoreEvent, account: CoreLedger) {
        if let Some(record) = &mut self.record {
            record.account = Some(account);
        }
        self.finish(event);
    }

    /// Takes the span back before the engine has accepted the sequence: it will not be part of the journey.
    pub fn withdraw(mut self) {
        self.record = None;
        self.deposit();
    }

    fn deposit(&mut self) {
        self.is_open = false;
        match self.record.take() {
            Some(record) => self.journey.deposit_core(self.index, record),
            None => self.journey.part_ended(),
        }
    }
}

impl Drop for CoreSpan {
    /// The other end: whoever held the sequence lost it, so it was aborted. Keeps the rules of a core span
    /// (QUEUED first, FINISHED last) even if the scheduler never saw the sequence.
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        let at = self.journey.now();
        match &self.record {
            None => self.live.end(at),
            Some(record) if record.finish_status().is_none() => {
                let last = record.events.last();
                let ended = CoreEvent {
                    kind: CoreEventKind::Finished { status: FinishStatus::Aborted },
                    at: last.map_or(at.max(record.opened), |last| last.at.max(at)),
                    step: last.map_or(0, |last| last.step),
                    phase: last.map_or(Phase::Waiting, |last| last.phase),
                    progress: last.map_or(Progress::default(), |last| last.progress),
                    num_preemptions: last.map_or(0, |last| last.num_preemptions),
                };
                if record.events.is_empty() {
                    self.record(CoreEvent { kind: CoreEventKind::Queued, ..ended.clone() });
                }
                self.record(ended);
            }
            Some(_) => {}
        }
        self.deposit();
    }
}
