//! Who of a rank's requests runs and who waits, as far as that follows from what is heard.
//!
//! HOT PATH: a step in which nobody's standing changes costs a few comparisons, however many are in flight.
//!
//! An engine core says with every step how many of its requests run and how many wait, and of a single one only with its
//! next token. That is enough to tell how many of those without a token are computed, and since vLLM takes them in the
//! order in which they came, which. Likewise it tells how many of those with tokens were preempted; those that a step
//! brought nothing for are they.

use std::collections::VecDeque;

use wayfare_journey::{MonoNs, SequenceState};

use crate::table::Table;
use crate::wire::{SchedulerStats, WireId};

/// What is concluded of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// It was sent, and the engine core has not counted it yet.
    Sent,
    /// It waits and has had no token.
    Queued,
    /// It runs and has had no token.
    Prefill,
    /// It has had a token, and runs.
    Decode,
    /// It has had a token, and waits.
    Preempted,
    /// It was preempted, and runs again, and nothing has been heard of it since.
    Resumed,
}

impl Stand {
    const COUNT: usize = 6;

    fn state(self) -> SequenceState {
        match self {
            Stand::Sent => SequenceState::Submitted,
            Stand::Queued => SequenceState::Queued,
            Stand::Prefill | Stand::Resumed => SequenceState::Prefill,
            Stand::Decode => SequenceState::Decode,
            Stand::Preempted => SequenceState::Preempted,
        }
    }
}

/// What is concluded of all requests of a rank.
#[derive(Debug, Default)]
pub(crate) struct Standings {
    /// How many have each standing.
    counts: [u64; Stand::COUNT],
    // Those of that standing in the order in which they came. Who has left it is found when its turn comes.
    sent: VecDeque<WireId>,
    queued: VecDeque<WireId>,
    prefill: VecDeque<WireId>,
    preempted: Vec<WireId>,
    /// Whether requests may overtake each other.
    has_priorities: bool,
}

impl Standings {
    /// A request is being sent.
    pub(crate) fn sent(&mut self, id: WireId, has_priority: bool) {
        let is_idle = self.counts.iter().all(|count| *count == 0);
        self.has_priorities = has_priority || self.has_priorities && !is_idle;
        self.counts[Stand::Sent as usize] += 1;
        self.sent.push_back(id);
    }

    /// A request is in flight no more.
    pub(crate) fn gone(&mut self, was: Stand) {
        self.moved(was, None);
    }

    /// A request has had a token.
    pub(crate) fn heard(&mut self, was: Stand) {
        if was != Stand::Decode {
            self.moved(was, Some(Stand::Decode));
        }
    }

    fn moved(&mut self, from: Stand, to: Option<Stand>) {
        let count = &mut self.counts[from as usize];
        *count = count.saturating_sub(1);
        if let Some(to) = to {
            self.counts[to as usize] += 1;
        }
    }

    fn count(&self, stand: Stand) -> u64 {
        self.counts[stand as usize]
    }

    /// A step of this number has ended, and its outputs have been taken: concludes, and shows, what is new.
    pub(crate) fn settle(
        &mut self,
        rank: u16,
        stats: &SchedulerStats,
        step: u64,
        at: MonoNs,
        table: &mut Table,
    ) {
        let begun = self.count(Stand::Decode) + self.count(Stand::Preempted) + self.count(Stand::Resumed);
        let known = stats.running.saturating_add(stats.waiting).saturating_sub(begun);
        while self.count(Stand::Queued) + self.count(Stand::Prefill) < known {
            let Some(id) = first(&mut self.sent, Stand::Sent, table) else { break };
            self.change(id, Stand::Queued, at, table);
            self.queued.push_back(id);
        }
        // Whoever has begun was taken before whoever has not.
        let computed = stats.running.saturating_sub(begun);
        let order_is_known = !self.has_priorities || computed >= known;
        while order_is_known && self.count(Stand::Prefill) < computed {
            let Some(id) = first(&mut self.queued, Stand::Queued, table) else { break };
            self.change(id, Stand::Prefill, at, table);
            self.prefill.push_back(id);
        }
        while self.count(Stand::Prefill) > computed {
            let Some(id) = last(&mut self.prefill, table) else { break };
            self.change(id, Stand::Queued, at, table);
            self.queued.push_front(id);
        }
        self.preempt(rank, begun.saturating_sub(stats.running).min(stats.waiting), step, at, table);
        self.forget(table);
    }

    /// So many of those that have begun wait.
    fn preempt(&mut self, rank: u16, waiting: u64, step: u64, at: MonoNs, table: &mut Table) {
        if waiting == 0 {
            while let Some(id) = self.preempted.pop() {
                if is(id, Stand::Preempted, table) {
                    self.change(id, Stand::Resumed, at, table);
                }
            }
            return;
        }
        let missing = waiting.saturating_sub(self.count(Stand::Preempted));
        if missing == 0 {
            // Fewer than before, perhaps, but nobody says which of them go on.
            return;
        }
        let is_silent = |one: &crate::sequence::Sequence| {
            one.rank == rank && matches!(one.stand, Stand::Decode | Stand::Resumed) && one.heard_step < step
        };
        let mut silent = table.select(is_silent);
        // The longest without a word first, and of those the one that came last, whom vLLM preempts first.
        silent.sort_by_cached_key(|id| {
            let one = table.get_mut(*id);
            one.map(|one| (one.heard_step, std::cmp::Reverse(one.id)))
        });
        silent.truncate(usize::try_from(missing).unwrap_or(usize::MAX));
        for id in silent {
            self.change(id, Stand::Preempted, at, table);
            self.preempted.push(id);
        }
    }

    fn change(&mut self, id: WireId, to: Stand, at: MonoNs, table: &mut Table) {
        let Some(sequence) = table.get_mut(id) else { return };
        self.moved(sequence.stand, Some(to));
        sequence.concluded(to, to.state(), at);
    }

    /// Keeps the lists as long as what they are for, about.
    fn forget(&mut self, table: &mut Table) {
        const SLACK: u64 = 64;
        for (list, stand) in [
            (&mut self.sent, Stand::Sent),
            (&mut self.queued, Stand::Queued),
            (&mut self.prefill, Stand::Prefill),
        ] {
            if list.len() as u64 > 2 * self.counts[stand as usize] + SLACK {
                list.retain(|id| is(*id, stand, table));
            }
        }
        if self.preempted.len() as u64 > 2 * self.count(Stand::Preempted) + SLACK {
            self.preempted.retain(|id| is(*id, Stand::Preempted, table));
        }
    }
}

fn is(id: WireId, stand: Stand, table: &mut Table) -> bool {
    table.get_mut(id).is_some_and(|sequence| sequence.stand == stand)
}

/// The first of a list that still has the standing.
fn first(list: &mut VecDeque<WireId>, stand: Stand, table: &mut Table) -> Option<WireId> {
    std::iter::from_fn(|| list.pop_front()).find(|id| is(*id, stand, table))
}

fn last(list: &mut VecDeque<WireId>, table: &mut Table) -> Option<WireId> {
    std::iter::from_fn(|| list.pop_back()).find(|id| is(*id, Stand::Prefill, table))
}
