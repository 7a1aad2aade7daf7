//! The waiting queue, in order of service.

use std::collections::{BTreeMap, VecDeque};

use wayfare_engine::{RequestId, SchedulingPolicy};
use wayfare_journey::MonoNs;

use crate::scheduler::Slot;

/// The place of a sequence under the priority policy: the smallest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) priority: i32,
    pub(crate) arrived: MonoNs,
    pub(crate) id: RequestId,
}

/// Sequences that wait to be scheduled, preempted ones included.
#[derive(Debug)]
pub(crate) enum WaitingQueue {
    /// In order of arrival; preempted sequences come back to the front.
    Fcfs(VecDeque<Slot>),
    /// In order of rank, preempted ones as well.
    Priority(BTreeMap<Rank, Slot>),
}

impl WaitingQueue {
    pub(crate) fn new(policy: SchedulingPolicy) -> Self {
        match policy {
            SchedulingPolicy::Fcfs => Self::Fcfs(VecDeque::new()),
            SchedulingPolicy::Priority => Self::Priority(BTreeMap::new()),
        }
    }

    /// Lets a new sequence in.
    pub(crate) fn push(&mut self, rank: Rank, slot: Slot) {
        match self {
            Self::Fcfs(queue) => queue.push_back(slot),
            Self::Priority(queue) => {
                queue.insert(rank, slot);
            }
        }
    }

    /// Lets a sequence in again that has been preempted.
    pub(crate) fn push_preempted(&mut self, rank: Rank, slot: Slot) {
        match self {
            Self::Fcfs(queue) => queue.push_front(slot),
            Self::Priority(queue) => {
                queue.insert(rank, slot);
            }
        }
    }

    /// Whose turn it is.
    pub(crate) fn first(&self) -> Option<Slot> {
        match self {
            Self::Fcfs(queue) => queue.front().copied(),
            Self::Priority(queue) => queue.first_key_value().map(|(_, slot)| *slot),
        }
    }

    pub(crate) fn remove_first(&mut self) {
        match self {
            Self::Fcfs(queue) => {
                queue.pop_front();
            }
            Self::Priority(queue) => {
                queue.pop_first();
            }
        }
    }

    pub(crate) fn remove(&mut self, rank: Rank, slot: Slot) {
        match self {
            Self::Fcfs(queue) => {
                if let Some(position) = queue.iter().position(|waiting| *waiting == slot) {
                    queue.remove(position);
                }
            }
            Self::Priority(queue) => {
                queue.remove(&rank);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Fcfs(queue) => queue.len(),
            Self::Priority(queue) => queue.len(),
        }
    }

    /// All that wait, in order of service.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Slot> {
        let (fcfs, priority) = match self {
            Self::Fcfs(queue) => (Some(queue), None),
            Self::Priority(queue) => (None, Some(queue)),
        };
        fcfs.into_iter().flatten().copied().chain(priority.into_iter().flat_map(BTreeMap::values).copied())
    }
}
