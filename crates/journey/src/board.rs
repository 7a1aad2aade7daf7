//! What the engine shows of itself as a whole: what it does, and why those in its queue wait.
//!
//! HOT PATH: the engine thread writes it, a few plain stores per step, however many wait. Why one of them waits
//! follows from the board and from what that sequence shows of itself.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::live::{RequestKey, SequenceKey, SequenceState, SequenceView};
use crate::words::Words;
use crate::{MonoNs, WaitReason};

/// What a sequence waits for at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitNow {
    /// Why it was not scheduled.
    pub reason: WaitReason,
    /// The request that is to blame, where it is one alone.
    pub blocker: Option<RequestKey>,
}

/// Why those in the waiting queue wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueWaits {
    /// The last step that looked at the queue.
    pub step: u64,
    /// The first in the queue, when it is traced.
    pub head: Option<SequenceKey>,
    /// What the first in the queue waits for.
    pub head_wait: WaitNow,
    /// What all others wait for.
    pub rest_wait: WaitNow,
}

impl QueueWaits {
    /// What a sequence waits for; `None` when it does not wait.
    #[must_use]
    pub fn of(&self, key: SequenceKey, view: &SequenceView) -> Option<WaitNow> {
        let wait = if self.head == Some(key) { self.head_wait } else { self.rest_wait };
        match view.state {
            SequenceState::Preempted => Some(wait),
            SequenceState::Queued if self.step > view.step => Some(wait),
            // That the engine is paused is known without a step; that it gives no reasons, too.
            SequenceState::Submitted | SequenceState::Queued
                if matches!(wait.reason, WaitReason::Paused | WaitReason::Unknown) =>
            {
                Some(wait)
            }
            SequenceState::Submitted | SequenceState::Queued => {
                Some(WaitNow { reason: WaitReason::NextStep, blocker: None })
            }
            SequenceState::Prefill | SequenceState::Decode | SequenceState::Finished => None,
        }
    }
}

/// The engine's gauges and totals, as [`EngineBoard::show_totals`] publishes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineTotals {
    /// Sequences that take part in steps.
    pub running: u64,
    /// Sequences in the waiting queue, preempted ones included.
    pub waiting: u64,
    /// KV blocks in use.
    pub kv_blocks_used: u64,
    /// KV blocks that sequences can use at all.
    pub kv_blocks_total: u64,
    /// Preemptions, ever.
    pub preemptions: u64,
    /// Prompt tokens computed for the first time or found in the cache, ever.
    pub prompt_tokens: u64,
    /// Tokens generated, ever.
    pub generation_tokens: u64,
    /// Whether the engine is paused.
    pub is_paused: bool,
}

/// The step that was started last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepView {
    /// Its number; 0 before the first.
    pub number: u64,
    /// When it was started.
    pub started: MonoNs,
    /// When it had been computed; `None` while it is not.
    pub ended: Option<MonoNs>,
}

// Where the fields lie.
const SEQUENCE_COUNT: usize = 0;
const WAITS_STEP: usize = 1;
const REASONS: usize = 2;
const HEAD_REQUEST: usize = 3;
const HEAD_INDEX: usize = 4;
const HEAD_BLOCKER: usize = 5;
const REST_BLOCKER: usize = 6;
const STEP: usize = 8;
const STEP_STARTED: usize = 9;
const STEP_ENDED: usize = 10;
const TOTALS: usize = 16;
pub(crate) const BOARD_WORDS: usize = 32;

/// The board of one engine. Clones are the same board; only one thread may write.
#[derive(Clone, Debug)]
pub struct EngineBoard(Words<BOARD_WORDS>);

impl Default for EngineBoard {
    /// An empty board on the heap.
    fn default() -> Self {
        Self(Words::zeros())
    }
}

impl EngineBoard {
    pub(crate) fn mapped(words: &'static [AtomicU64; BOARD_WORDS]) -> Self {
        Self(Words::Mapped(words))
    }

    #[inline]
    fn put(&self, index: usize, value: u64) {
        self.0[index].store(value, Ordering::Relaxed);
    }

    /// A step is being started.
    #[inline]
    pub fn begin_step(&self, number: u64, at: MonoNs) {
        self.put(STEP_ENDED, 0);
        self.put(STEP_STARTED, at.0);
        self.put(STEP, number);
    }

    /// The step has been computed.
    #[inline]
    pub fn end_step(&self, at: MonoNs) {
        self.put(STEP_ENDED, at.0);
    }

    /// Why those in the queue wait from now on.
    pub fn show_waits(&self, waits: &QueueWaits) {
        let request = |key: Option<RequestKey>| key.map_or(0, |key| key.0);
        let count = self.0[SEQUENCE_COUNT].load(Ordering::Relaxed);
        // Odd while the fields do not belong together.
        self.put(SEQUENCE_COUNT, count.wrapping_add(1));
        fence(Ordering::Release);
        self.put(WAITS_STEP, waits.step);
        self.put(REASONS, waits.head_wait.reason as u64 | (waits.rest_wait.reason as u64) << 8);
        self.put(HEAD_REQUEST, request(waits.head.map(|head| head.request)));
        self.put(HEAD_INDEX, waits.head.map_or(0, |head| head.index.into()));
        self.put(HEAD_BLOCKER, request(waits.head_wait.blocker));
        self.put(REST_BLOCKER, request(waits.rest_wait.blocker));
        self.0[SEQUENCE_COUNT].store(count.wrapping_add(2), Ordering::Release);
    }

    /// Publishes the gauges and totals.
    pub fn show_totals(&self, totals: &EngineTotals) {
        totals.words().into_iter().enumerate().for_each(|(index, value)| self.put(TOTALS + index, value));
    }

    /// The latest waits.
    #[must_use]
    pub fn waits(&self) -> QueueWaits {
        // The writer is through with them within nanoseconds, or the process has died in between.
        for _ in 0..1000 {
            let before = self.0[SEQUENCE_COUNT].load(Ordering::Acquire);
            let words = self.0.load();
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.0[SEQUENCE_COUNT].load(Ordering::Relaxed) == before {
                return QueueWaits::of_words(&words);
            }
            std::hint::spin_loop();
        }
        QueueWaits::of_words(&self.0.load())
    }

    /// The latest gauges and totals.
    #[must_use]
    pub fn totals(&self) -> EngineTotals {
        EngineTotals::of_words(&self.0.load())
    }

    /// The step that was started last.
    #[must_use]
    pub fn step(&self) -> StepView {
        StepView::of_words(&self.0.load())
    }
}

impl QueueWaits {
    pub(crate) fn of_words(words: &[u64; BOARD_WORDS]) -> Self {
        let request = |word: u64| Some(RequestKey(word)).filter(|key| key.0 != 0);
        let reason = |number: u64| {
            let known = WaitReason::ALL.get(usize::from(number as u8));
            known.copied().unwrap_or(WaitReason::Unknown)
        };
        let index = words[HEAD_INDEX] as u32;
        Self {
            step: words[WAITS_STEP],
            head: request(words[HEAD_REQUEST]).map(|request| SequenceKey { request, index }),
            head_wait: WaitNow { reason: reason(words[REASONS]), blocker: request(words[HEAD_BLOCKER]) },
            rest_wait: WaitNow { reason: reason(words[REASONS] >> 8), blocker: request(words[REST_BLOCKER]) },
        }
    }
}

impl EngineTotals {
    fn words(&self) -> [u64; 8] {
        [
            self.running,
            self.waiting,
            self.kv_blocks_used,
            self.kv_blocks_total,
            self.preemptions,
            self.prompt_tokens,
            self.generation_tokens,
            self.is_paused.into(),
        ]
    }

    pub(crate) fn of_words(words: &[u64; BOARD_WORDS]) -> Self {
        let at = |index: usize| words[TOTALS + index];
        Self {
            running: at(0),
            waiting: at(1),
            kv_blocks_used: at(2),
            kv_blocks_total: at(3),
            preemptions: at(4),
            prompt_tokens: at(5),
            generation_tokens: at(6),
            is_paused: at(7) != 0,
        }
    }
}

impl StepView {
    pub(crate) fn of_words(words: &[u64; BOARD_WORDS]) -> Self {
        Self {
            number: words[STEP],
            started: MonoNs(words[STEP_STARTED]),
            ended: Some(words[STEP_ENDED]).filter(|at| *at != 0).map(MonoNs),
        }
    }
}
