//! The steps of one engine core, as far as its messages show them.
//!
//! A message with outputs or with a state stands for one step; its time is the end of the step. Steps without either
//! are not seen, so the numbers count those that are.

use std::collections::VecDeque;

use wayfare_journey::MonoNs;

/// Steps that are remembered, to find the one in which something happened that is told later: with the next output of
/// the request, which for one that waits in the queue can be many steps away.
const REMEMBERED: usize = 4096;

/// One step, and its place between its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Counted from 1.
    pub(crate) number: u64,
    /// The end of the one before.
    pub(crate) previous_end: MonoNs,
    pub(crate) end: MonoNs,
    /// Prompt tokens it computed. Said by the engine core or, where that is not so, the prompts that were completed.
    pub(crate) prefill_tokens: u32,
    /// All tokens it computed.
    pub(crate) total_tokens: u32,
}

/// The steps of one engine core.
#[derive(Debug, Default)]
pub(crate) struct StepHistory {
    ends: VecDeque<MonoNs>,
    /// Steps in all.
    count: u64,
}

impl StepHistory {
    /// A step has ended. Times do not decrease.
    pub(crate) fn add(&mut self, end: MonoNs) -> Step {
        let previous_end = self.ends.back().copied().unwrap_or(end);
        let end = end.max(previous_end);
        if self.ends.len() == REMEMBERED {
            self.ends.pop_front();
        }
        self.ends.push_back(end);
        self.count += 1;
        Step { number: self.count, previous_end, end, prefill_tokens: 0, total_tokens: 0 }
    }

    /// How many there have been.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// How many had ended at a time: before the ones that are remembered, as many as are not.
    pub(crate) fn ended_at(&self, at: MonoNs) -> u64 {
        let remembered = self.ends.partition_point(|end| *end <= at) as u64;
        self.count - self.ends.len() as u64 + remembered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_finds_the_steps_around_it() {
        let mut history = StepHistory::default();
        assert_eq!(history.ended_at(MonoNs(5)), 0);
        for end in [10, 20, 30] {
            history.add(MonoNs(end));
        }
        let found = [9, 10, 25, 30, 99].map(|at| history.ended_at(MonoNs(at)));
        assert_eq!(found, [0, 1, 2, 3, 3]);
        // A clock that is only estimated may seem to go back; steps do not.
        let step = history.add(MonoNs(28));
        assert_eq!((step.number, step.previous_end, step.end), (4, MonoNs(30), MonoNs(30)));
    }

    #[test]
    fn old_steps_are_forgotten_and_still_counted() {
        let mut history = StepHistory::default();
        for end in 1..=REMEMBERED as u64 + 100 {
            history.add(MonoNs(end));
        }
        assert_eq!(history.count(), REMEMBERED as u64 + 100);
        assert_eq!(history.ended_at(MonoNs(50)), 100);
        assert_eq!(history.ended_at(MonoNs(150)), 150);
    }
}
