//! What can be seen of a request while it lives.
//!
//! HOT PATH: the engine thread writes [`LiveSequence`] with each event and after each step: a few plain stores.

use std::sync::atomic::{Ordering, fence};

use crate::MonoNs;
use crate::event::{CoreEvent, CoreEventKind, Phase, Progress, ScheduleKind};
use crate::words::{Words, check, pair, unpair};

/// Names a request in this process; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKey(pub u64);

/// Names a sequence in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceKey {
    /// Its request.
    pub request: RequestKey,
    /// Its number among the sequences of the request.
    pub index: u32,
}

/// How far a request has come on the API side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApiState {
    Receiving,
    Preparing,
    Submitted,
    Abandoned,
}

impl ApiState {
    pub(crate) const ALL: [ApiState; 4] =
        [ApiState::Receiving, ApiState::Preparing, ApiState::Submitted, ApiState::Abandoned];
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JourneyState {
    /// Its body is still arriving.
    Receiving,
    /// It is parsed, rendered, tokenised, or being refused.
    Preparing,
    /// The engine has it and has computed nothing of it.
    Queued,
    /// The engine computes its prompt, or computes again what a preemption threw away.
    Prefill,
    /// The engine generates.
    Decode,
    /// Its KV blocks were taken away; it waits to be scheduled again.
    Preempted,
    /// The engine is through, the response is not.
    Delivering,
    /// The response is over, but the engine has not let go of it yet.
    Abandoned,
}

impl JourneyState {
    /// All of them, in the order in which a request passes through them.
    pub const ALL: [JourneyState; 8] = [
        JourneyState::Receiving,
        JourneyState::Preparing,
        JourneyState::Queued,
        JourneyState::Prefill,
        JourneyState::Decode,
        JourneyState::Preempted,
        JourneyState::Delivering,
        JourneyState::Abandoned,
    ];

    /// The state as a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            JourneyState::Receiving => "receiving",
            JourneyState::Preparing => "preparing",
            JourneyState::Queued => "queued",
            JourneyState::Prefill => "prefill",
            JourneyState::Decode => "decode",
            JourneyState::Preempted => "preempted",
            JourneyState::Delivering => "delivering",
            JourneyState::Abandoned => "abandoned",
        }
    }

    /// The state of a request that has come so far on the API side, `since` then, and has these sequences. Says since
    /// when it is in that state, and whether that is inferred, too.
    pub(crate) fn of<'a>(
        api: ApiState,
        since: MonoNs,
        sequences: &(impl Iterator<Item = &'a SequenceView> + Clone),
    ) -> (JourneyState, MonoNs, bool) {
        let first_in = |wanted: &[SequenceState]| {
            let those = sequences.clone().filter(|one| wanted.contains(&one.state));
            those.min_by_key(|one| one.changed)
        };
        let is_seen = sequences.clone().any(|one| one.state != SequenceState::Submitted);
        match api {
            ApiState::Abandoned => return (JourneyState::Abandoned, since, false),
            ApiState::Receiving if !is_seen => return (JourneyState::Receiving, since, false),
            ApiState::Preparing if !is_seen => return (JourneyState::Preparing, since, false),
            _ => {}
        }
        let in_engine = [
            (JourneyState::Decode, &[SequenceState::Decode][..]),
            (JourneyState::Prefill, &[SequenceState::Prefill]),
            (JourneyState::Preempted, &[SequenceState::Preempted]),
            (JourneyState::Queued, &[SequenceState::Queued, SequenceState::Submitted]),
        ];
        let here = in_engine.into_iter().find_map(|(state, those)| Some((state, first_in(those)?)));
        here.map_or_else(
            || {
                let last = sequences.clone().map(|one| one.changed).max();
                (JourneyState::Delivering, last.unwrap_or(since), false)
            },
            |(state, one)| (state, one.changed, one.is_inferred),
        )
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

/// A sequence as it is. Read field by field while it may change, so two fields may belong to two neighbouring
/// steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceView {
    /// Where it is.
    pub state: SequenceState,
    /// How far it has come.
    pub progress: Progress,
    /// Prompt tokens.
    pub prefill_total: u32,
    /// The most output tokens.
    pub decode_max: u32,
    /// Prompt tokens that were found in the prefix cache when it was first scheduled.
    pub cached_tokens: u32,
    /// Preemptions.
    pub num_preemptions: u32,
    /// Since when it is in this state.
    pub changed: MonoNs,
    /// When its first output token existed.
    pub first_token: Option<MonoNs>,
    /// The engine step of its last event; for a queued one the last step that was started before it came.
    pub step: u64,
    /// Whether the state is not what the engine said of it, but what follows from what it said of all of them together.
    pub is_inferred: bool,
}

/// A request as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestView {
    /// Where it is.
    pub state: JourneyState,
    /// Since when.
    pub since: MonoNs,
    /// Whether the state comes from a sequence whose own is inferred.
    pub is_inferred: bool,
    /// Its sequences, in order; none before the engine is to have them.
    pub sequences: Vec<SequenceView>,
}

// Where the fields lie. The first three are the same for every kind of record of the flight recorder.
pub(crate) const KEY: usize = 0;
pub(crate) const KIND: usize = 1;
pub(crate) const CHECK: usize = 2;
const TOTALS: usize = 3;
const OPENED: usize = 4;
const STATE: usize = 5;
const CHANGED: usize = 6;
const PROGRESS: usize = 7;
const FIRST_TOKEN: usize = 8;
const CACHED: usize = 9;
const STEP: usize = 10;
const INFERRED: usize = 11;
pub(crate) const SEQUENCE_WORDS: usize = 16;

/// Marks a record as that of a sequence; its index lies above.
pub(crate) const SEQUENCE_KIND: u64 = 2;

/// What the engine thread shows of one sequence.
#[derive(Clone, Debug)]
pub(crate) struct LiveSequence {
    words: Words<SEQUENCE_WORDS>,
    key: u64,
}

impl LiveSequence {
    /// Begins in `words`, which nobody else uses.
    pub(crate) fn begin(
        words: Words<SEQUENCE_WORDS>,
        key: SequenceKey,
        prefill_total: u32,
        decode_max: u32,
        opened: MonoNs,
    ) -> Self {
        let RequestKey(request) = key.request;
        let kind = SEQUENCE_KIND | u64::from(key.index) << 8;
        let totals = pair(prefill_total, decode_max);
        let put = |index: usize, value: u64| words[index].store(value, Ordering::Relaxed);
        put(KIND, kind);
        put(CHECK, check([request, kind, totals, opened.0]));
        put(TOTALS, totals);
        put(OPENED, opened.0);
        put(STATE, SequenceState::Submitted as u64);
        put(CHANGED, opened.0);
        [PROGRESS, FIRST_TOKEN, CACHED, STEP, INFERRED].into_iter().for_each(|index| put(index, 0));
        // The last one: from now on the record is one.
        words[KEY].store(request, Ordering::Release);
        Self { words, key: request }
    }

    /// Bytes on the heap, allocation included.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self.words {
            Words::Heap(_) => size_of::<[u64; SEQUENCE_WORDS]>() + 2 * size_of::<usize>(),
            Words::Mapped(_) => 0,
        }
    }

    #[inline]
    fn put(&self, index: usize, value: u64) {
        self.words[index].store(value, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn show(&self, event: &CoreEvent) {
        self.put(PROGRESS, pair(event.progress.prefill_done, event.progress.decode_done));
        self.put(STEP, event.step);
        match event.kind {
            CoreEventKind::Scheduled { kind: ScheduleKind::First, cached_tokens, .. } => {
                self.put(CACHED, cached_tokens.into());
            }
            CoreEventKind::FirstToken => self.put(FIRST_TOKEN, event.at.0),
            _ => {}
        }
        self.change(SequenceState::after(event), event.num_preemptions, event.at);
    }

    /// A step has computed something of it; `decodes` when that gave a token.
    #[inline]
    pub(crate) fn advance(&self, progress: Progress, decodes: bool, at: MonoNs) {
        self.put(PROGRESS, pair(progress.prefill_done, progress.decode_done));
        let (state, num_preemptions) = unpair(self.words[STATE].load(Ordering::Relaxed));
        if !decodes || state == SequenceState::Decode as u32 {
            return;
        }
        // What a preemption had thrown away is computed again, or what was inferred is refuted.
        if state == SequenceState::Prefill as u32 || self.words[INFERRED].load(Ordering::Relaxed) != 0 {
            self.change(SequenceState::Decode, num_preemptions, at);
        }
    }

    fn change(&self, state: SequenceState, num_preemptions: u32, at: MonoNs) {
        self.put(CHANGED, at.0);
        self.put(INFERRED, 0);
        self.words[STATE].store(pair(state as u32, num_preemptions), Ordering::Release);
    }

    /// It must be in this state since `at`, though nobody has said so of it.
    pub(crate) fn infer(&self, state: SequenceState, at: MonoNs) {
        let num_preemptions = unpair(self.words[STATE].load(Ordering::Relaxed)).1;
        self.put(CHANGED, at.0);
        self.put(INFERRED, 1);
        self.words[STATE].store(pair(state as u32, num_preemptions), Ordering::Release);
    }

    /// It has ended, and nobody has recorded how.
    pub(crate) fn end(&self, at: MonoNs) {
        let num_preemptions = unpair(self.words[STATE].load(Ordering::Relaxed)).1;
        self.change(SequenceState::Finished, num_preemptions, at);
    }

    /// `None` when the words belong to another sequence by now: this one's journey is complete.
    pub(crate) fn view(&self) -> Option<SequenceView> {
        let is_ours = || self.words[KEY].load(Ordering::Acquire) == self.key;
        if !is_ours() {
            return None;
        }
        self.words[STATE].load(Ordering::Acquire);
        let view = SequenceView::of_words(&self.words.load());
        fence(Ordering::Acquire);
        view.filter(|_| is_ours())
    }
}

impl SequenceView {
    /// `None` when no such words are written.
    pub(crate) fn of_words(words: &[u64; SEQUENCE_WORDS]) -> Option<Self> {
        let (state, num_preemptions) = unpair(words[STATE]);
        let (prefill_total, decode_max) = unpair(words[TOTALS]);
        let (prefill_done, decode_done) = unpair(words[PROGRESS]);
        Some(Self {
            state: SequenceState::ALL.get(state as usize).copied()?,
            progress: Progress { prefill_done, decode_done },
            prefill_total,
            decode_max,
            cached_tokens: u32::try_from(words[CACHED]).ok()?,
            num_preemptions,
            changed: MonoNs(words[CHANGED]),
            first_token: Some(words[FIRST_TOKEN]).filter(|at| *at != 0).map(MonoNs),
            step: words[STEP],
            is_inferred: words[INFERRED] != 0,
        })
    }

    /// The index of the sequence whose record this is; `None` when it is none, or damaged.
    pub(crate) fn index_of_record(words: &[u64; SEQUENCE_WORDS]) -> Option<u32> {
        let whole = check([words[KEY], words[KIND], words[TOTALS], words[OPENED]]);
        let is_whole = words[KIND] & 0xff == SEQUENCE_KIND && words[CHECK] == whole;
        u32::try_from(words[KIND] >> 8).ok().filter(|_| is_whole)
    }

    /// Output tokens per second since the first one; `None` before there are two.
    #[must_use]
    pub fn tokens_per_second(&self, now: MonoNs) -> Option<f64> {
        let seconds = now.seconds_since(self.first_token?);
        let later = self.progress.decode_done.checked_sub(1).filter(|later| *later > 0)?;
        (seconds > 0.0).then(|| f64::from(later) / seconds)
    }
}
