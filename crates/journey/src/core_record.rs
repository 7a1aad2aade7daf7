//! What is recorded about one sequence, and how a long life stays small.
//!
//! HOT PATH: [`CoreRecord::push`] runs on the engine thread.

use smallvec::SmallVec;

use crate::event::{CoreEvent, CoreEventKind, FinishStatus};
use crate::{CoreLedger, MonoNs, SpanId};

/// Events of a sequence that is preempted at most once.
const USUAL_EVENTS: usize = 6;
/// Most events that are kept of one sequence, FINISHED included.
pub const MAX_CORE_EVENTS: usize = 64;
/// The first so many are kept as they were; of a long life the middle is folded.
const KEPT_AT_THE_START: usize = 32;

/// Everything recorded about one sequence in the engine.
#[derive(Debug)]
pub struct CoreRecord {
    /// The id of the `llm_core` span.
    pub span_id: SpanId,
    /// When the sequence was made ready for the engine.
    pub opened: MonoNs,
    /// Which engine of the server has the sequence.
    pub engine_id: u32,
    /// How the times of its events were had, when the engine is in another process.
    pub clock_source: Option<ClockSource>,
    /// Events that the engine did not tell of.
    pub inferred: InferredEvents,
    /// Prompt tokens of the sequence.
    pub prefill_total: u32,
    /// The most output tokens the sequence may generate.
    pub decode_max: u32,
    /// What happened, in order. At most [`MAX_CORE_EVENTS`]; a PREEMPTED among them may stand for several,
    /// see [`CoreRecord::folded`].
    pub events: SmallVec<[CoreEvent; USUAL_EVENTS]>,
    /// Events that are neither among [`CoreRecord::events`] nor folded into one of them. Always 0 for an engine
    /// that keeps to the rules of a core span.
    pub dropped_events: u32,
    /// The account that the engine kept, if it did.
    pub(crate) account: Option<CoreLedger>,
    /// In the order of the events. FIRST_TOKEN may part them, so there are at most two.
    folded: SmallVec<[(u32, FoldedPairs); 2]>,
}

/// How the times of an engine in another process become ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockSource {
    /// It reads the same clock.
    EngineSameHost,
    /// The difference of the clocks is estimated from the delivery of its messages.
    Estimated,
}

impl ClockSource {
    /// The value of the `clock.source` attribute.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ClockSource::EngineSameHost => "engine_same_host",
            ClockSource::Estimated => "estimated",
        }
    }
}

/// Which events of a sequence the engine did not tell of: the server knows them, or assumes them for want of anything
/// better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InferredEvents {
    /// QUEUED is the moment at which the request was sent.
    pub queued: bool,
    /// FINISHED is the moment at which the server gave the request up, or lost its engine.
    pub finished: bool,
}

/// What a PREEMPTED event stands for that takes the place of several pairs of PREEMPTED and SCHEDULED(RESUME),
/// together with the SCHEDULED(RESUME) behind it.
///
/// The event has the time, the step and the progress of the first of them, its count of preemptions is that
/// of the last, and its lost tokens and freed blocks are those of all. The SCHEDULED(RESUME) behind it is the
/// last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoldedPairs {
    /// How many pairs.
    pub pairs: u32,
    /// Time between PREEMPTED and SCHEDULED(RESUME) of all of them together, in nanoseconds. The rest of the
    /// time between the two events the sequence was running.
    pub preempted_ns: u64,
}

impl CoreRecord {
    pub(crate) fn new(prefill_total: u32, decode_max: u32, opened: MonoNs) -> Self {
        Self {
            span_id: SpanId::random(),
            opened,
            engine_id: 0,
            clock_source: None,
            inferred: InferredEvents::default(),
            prefill_total,
            decode_max,
            events: SmallVec::new(),
            dropped_events: 0,
            account: None,
            folded: SmallVec::new(),
        }
    }

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

    /// How long it waited to be scheduled for the first time, in nanoseconds; to its end when it never was.
    #[must_use]
    pub fn queue_ns(&self) -> u64 {
        let scheduled = self.first_time(|kind| matches!(kind, CoreEventKind::Scheduled { .. }));
        scheduled.unwrap_or_else(|| self.ended()).since(self.started())
    }

    /// When its first output token existed.
    #[must_use]
    pub fn first_token(&self) -> Option<MonoNs> {
        self.first_time(|kind| matches!(kind, CoreEventKind::FirstToken))
    }

    /// Preemptions in its whole life.
    #[must_use]
    pub fn num_preemptions(&self) -> u32 {
        self.events.last().map_or(0, |event| event.num_preemptions)
    }

    /// Where the time from QUEUED to FINISHED went: the engine's account, or what the events tell.
    #[must_use]
    pub fn ledger(&self) -> CoreLedger {
        self.account.unwrap_or_else(|| CoreLedger::of_events(self))
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn finish_status(&self) -> Option<FinishStatus> {
        match self.events.last()?.kind {
            CoreEventKind::Finished { status } => Some(status),
            _ => None,
        }
    }

    /// What the event at `index` stands for, when it stands for more than itself.
    #[must_use]
    pub fn folded(&self, index: usize) -> Option<FoldedPairs> {
        self.folded.iter().find(|(place, _)| *place as usize == index).map(|(_, folded)| *folded)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let blamed = self.events.iter().map(|event| match &event.kind {
            CoreEventKind::Preempted { by: Some(by), .. } => by.as_str().len(),
            CoreEventKind::Scheduled { wait: Some(wait), .. } => {
                wait.blocker.as_ref().map_or(0, |blocker| blocker.as_str().len())
            }
            _ => 0,
        });
        let on_the_heap = if self.events.spilled() { self.events.capacity() } else { 0 };
        size_of::<Self>() + on_the_heap * size_of::<CoreEvent>() + blamed.sum::<usize>()
    }

    /// Appends an event. When there are too many, the oldest preemptions that are not among the first events
    /// are folded; FINISHED always has room, and nothing follows it.
    #[inline]
    pub(crate) fn push(&mut self, event: CoreEvent) {
        let is_last = matches!(event.kind, CoreEventKind::Finished { .. });
        let is_full = !is_last && self.events.len() + 1 >= MAX_CORE_EVENTS;
        if self.finish_status().is_some() || (is_full && !self.fold()) {
            self.dropped_events = self.dropped_events.saturating_add(1);
            return;
        }
        self.events.push(event);
    }

    /// Makes one pair of two that follow each other. False when there are no such.
    #[cold]
    fn fold(&mut self) -> bool {
        let is_two_pairs = |events: &[CoreEvent]| {
            events.iter().enumerate().all(|(index, event)| match event.kind {
                CoreEventKind::Preempted { .. } => index % 2 == 0,
                CoreEventKind::Scheduled { .. } => index % 2 == 1,
                _ => false,
            })
        };
        let tail = self.events.get(KEPT_AT_THE_START..).unwrap_or_default();
        let Some(offset) = tail.windows(4).position(is_two_pairs) else { return false };
        let first = KEPT_AT_THE_START + offset;
        let (one, other) = (self.pairs_at(first), self.pairs_at(first + 2));
        let later = self.events[first + 2].clone();
        let kept = &mut self.events[first];
        kept.num_preemptions = later.num_preemptions;
        if let (
            CoreEventKind::Preempted { by, tokens_lost, blocks_freed },
            CoreEventKind::Preempted { by: later_by, tokens_lost: later_lost, blocks_freed: later_freed },
        ) = (&mut kept.kind, later.kind)
        {
            // Only where one request is to blame for all of them.
            if *by != later_by {
                *by = None;
            }
            *tokens_lost = tokens_lost.saturating_add(later_lost);
            *blocks_freed = blocks_freed.saturating_add(later_freed);
        }
        self.events.drain(first + 1..first + 3);

        let both = FoldedPairs {
            pairs: one.pairs.saturating_add(other.pairs),
            preempted_ns: one.preempted_ns.saturating_add(other.preempted_ns),
        };
        let place = first as u32;
        self.folded.retain(|(at, _)| *at != place && *at != place + 2);
        for (at, _) in self.folded.iter_mut().filter(|(at, _)| *at > place) {
            *at -= 2;
        }
        let index = self.folded.iter().take_while(|(at, _)| *at < place).count();
        self.folded.insert(index, (place, both));
        true
    }

    fn pairs_at(&self, index: usize) -> FoldedPairs {
        self.folded(index).unwrap_or_else(|| FoldedPairs {
            pairs: 1,
            preempted_ns: self.events[index + 1].at.since(self.events[index].at),
        })
    }
}
