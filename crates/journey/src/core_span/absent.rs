//! In place of the guard of an `llm_core` span: a type of which there is no value.
//!
//! Built with `--cfg wayfare_no_journey` only, which `cargo xtask bench scheduler` does to have something to
//! compare with: since no core span can exist, the compiler drops every line that deals with one, and what
//! remains is the engine side as if journeys had never been written. Such a build cannot trace.

use crate::cell::OpenJourney;
use crate::core_record::{ClockSource, CoreRecord};
use crate::event::{CoreEvent, Progress};
use crate::live::{LiveSequence, SequenceKey, SequenceState};
use crate::{CoreLedger, MonoNs};

/// What there is none of.
#[derive(Debug)]
pub enum CoreSpan {}

impl CoreSpan {
    #[expect(clippy::needless_pass_by_value, reason = "the signature of the type that it stands for")]
    pub(crate) fn open(_: OpenJourney, _: LiveSequence, _: u32, _: Option<Box<CoreRecord>>) -> Self {
        panic!("this build records no journeys: it was made with --cfg wayfare_no_journey")
    }

    /// Is never called.
    #[must_use]
    pub fn key(&self) -> SequenceKey {
        match *self {}
    }

    /// Is never called.
    pub fn advance(&self, _: Progress, _: bool, _: MonoNs) {
        match *self {}
    }

    /// Is never called.
    pub fn record(&mut self, _: CoreEvent) {
        match *self {}
    }

    /// Is never called.
    pub fn of_engine(&mut self, _: u32, _: ClockSource) {
        match *self {}
    }

    /// Is never called.
    pub fn infer_state(&self, _: SequenceState, _: MonoNs) {
        match *self {}
    }

    /// Is never called.
    pub fn infer_queued(&mut self) {
        match *self {}
    }

    /// Is never called.
    pub fn infer_finished(&mut self) {
        match *self {}
    }

    /// Is never called.
    pub fn finish(self, _: CoreEvent) {
        match self {}
    }

    /// Is never called.
    pub fn finish_with_account(self, _: CoreEvent, _: CoreLedger) {
        match self {}
    }

    /// Is never called.
    pub fn withdraw(self) {
        match self {}
    }
}
