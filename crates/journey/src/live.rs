//! What can be seen of a request while it lives.
//!
//! HOT PATH: the engine thread writes [`LiveSequence`] with each event: a few plain stores.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::MonoNs;
use crate::event::{CoreEvent, CoreEventKind, Phase, Progress};

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JourneyState {
    /// Its body is still arriving.
    Receiving,
    /// It is parsed, rendered, tokenised, or being refused.
    Preparing,
    /// The engine has it.
    InEngine,
    /// The engine is through, the response is not.
    Delivering,
    /// The response is over, but the engine has not let go of it yet.
    Abandoned,
}

impl JourneyState {
    /// The state as a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            JourneyState::Receiving => "receiving",
            JourneyState::Preparing => "preparing",
            JourneyState::InEngine => "in_engine",
            JourneyState::Delivering => "delivering",
            JourneyState::Abandoned => "abandoned",
        }
    }
}

/// Where a sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceState {
    /// On its way into the scheduler.
    Submitted,
    /// In the waiting queue for the first time.
    Queued,
    /// Computing prompt tokens, or computing again what a preemption threw away.
    Prefill,
    /// Generating.
    Decode,
    /// Back in the waiting queue.
    Preempted,
    /// Out of the scheduler.
    Finished,
}

impl SequenceState {
    const ALL: [SequenceState; 6] = [
        SequenceState::Submitted,
        SequenceState::Queued,
        SequenceState::Prefill,
        SequenceState::Decode,
        SequenceState::Preempted,
        SequenceState::Finished,
    ];

    /// The state as a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SequenceState::Submitted => "submitted",
            SequenceState::Queued => "queued",
            SequenceState::Prefill => "prefill",
            SequenceState::Decode => "decode",
            SequenceState::Preempted => "preempted",
            SequenceState::Finished => "finished",
        }
    }

    fn after(event: &CoreEvent) -> Self {
        match event.kind {
            CoreEventKind::Queued => SequenceState::Queued,
            CoreEventKind::Scheduled { .. } if event.phase == Phase::Decode => SequenceState::Decode,
            CoreEventKind::Scheduled { .. } => SequenceState::Prefill,
            CoreEventKind::FirstToken => SequenceState::Decode,
            CoreEventKind::Preempted { .. } => SequenceState::Preempted,
            CoreEventKind::Finished { .. } => SequenceState::Finished,
        }
    }
}

/// A sequence as it was at its last event. Read field by field while it may change, so two fields may belong
/// to two neighbouring events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceView {
    /// Where it is.
    pub state: SequenceState,
    /// How far it had come.
    pub progress: Progress,
    /// Prompt tokens.
    pub prefill_total: u32,
    /// The most output tokens.
    pub decode_max: u32,
    /// Preemptions.
    pub num_preemptions: u32,
    /// When that was; when it was opened, before its first event.
    pub changed: MonoNs,
}

#[derive(Debug)]
pub(crate) struct LiveSequence {
    state: AtomicU8,
    prefill_done: AtomicU32,
    decode_done: AtomicU32,
    num_preemptions: AtomicU32,
    changed: AtomicU64,
    prefill_total: u32,
    decode_max: u32,
}

impl LiveSequence {
    pub(crate) fn new(prefill_total: u32, decode_max: u32, opened: MonoNs) -> Self {
        Self {
            state: AtomicU8::new(SequenceState::Submitted as u8),
            prefill_done: AtomicU32::new(0),
            decode_done: AtomicU32::new(0),
            num_preemptions: AtomicU32::new(0),
            changed: AtomicU64::new(opened.0),
            prefill_total,
            decode_max,
        }
    }

    #[inline]
    pub(crate) fn show(&self, event: &CoreEvent) {
        self.prefill_done.store(event.progress.prefill_done, Ordering::Relaxed);
        self.decode_done.store(event.progress.decode_done, Ordering::Relaxed);
        self.num_preemptions.store(event.num_preemptions, Ordering::Relaxed);
        self.changed.store(event.at.0, Ordering::Relaxed);
        self.state.store(SequenceState::after(event) as u8, Ordering::Release);
    }

    pub(crate) fn view(&self) -> SequenceView {
        let state = usize::from(self.state.load(Ordering::Acquire));
        SequenceView {
            state: SequenceState::ALL.get(state).copied().unwrap_or(SequenceState::Submitted),
            progress: Progress {
                prefill_done: self.prefill_done.load(Ordering::Relaxed),
                decode_done: self.decode_done.load(Ordering::Relaxed),
            },
            prefill_total: self.prefill_total,
            decode_max: self.decode_max,
            num_preemptions: self.num_preemptions.load(Ordering::Relaxed),
            changed: MonoNs(self.changed.load(Ordering::Relaxed)),
        }
    }
}
