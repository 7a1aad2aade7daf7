//! Pausing, and forgetting what is cached.

use wayfare_journey::{MonoNs, WaitReason};

use crate::scheduler::Scheduler;

/// That nothing new is scheduled, and since when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    pub(crate) since: MonoNs,
    /// Running sequences do not go on, either.
    pub(crate) holds_running: bool,
}

/// What [`Scheduler::reset_prefix_cache`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResetOutcome {
    /// Sequences that were preempted.
    pub preempted: u64,
    /// KV blocks whose content was forgotten.
    pub forgotten_blocks: u64,
}

impl Scheduler {
    /// Admits nobody until [`Scheduler::resume`]; with `holds_running` sequences that are running stand still as
    /// well. Those in the queue wait for reason [`WaitReason::Paused`] from now on.
    pub fn pause(&mut self, holds_running: bool, now: MonoNs) {
        let now = self.observe(now);
        self.resume(now);
        self.settle_waits(now);
        self.pause = Some(Pause { since: now, holds_running });
        self.meet_obstacle(WaitReason::Paused);
    }

    /// Goes on. Nothing happens when it is not paused.
    pub fn resume(&mut self, now: MonoNs) {
        let now = self.observe(now);
        let Some(pause) = self.pause.take() else { return };
        self.settle_waits(now);
        self.meet_obstacle(WaitReason::NextStep);
        if pause.holds_running {
            let held_ns = now.since(pause.since);
            for slot in &self.running {
                self.sequences[*slot].meter.held(held_ns);
            }
            self.previous_end.0 += held_ns;
        }
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// Whether a step could compute anything: something is running that is not held, or something waits that
    /// may be admitted.
    #[must_use]
    pub fn can_step(&self) -> bool {
        match &self.pause {
            None => self.has_unfinished(),
            Some(pause) => !pause.holds_running && !self.running.is_empty(),
        }
    }

    /// Makes everything that was computed unfindable, so that later sequences compute it anew. Between steps
    /// only. With `preempt_running` all running sequences are preempted, the last one first, so that their order
    /// stays, and compute everything anew as well; otherwise they go on with what they have, and share nothing
    /// any more.
    pub fn reset_prefix_cache(&mut self, preempt_running: bool, now: MonoNs) -> ResetOutcome {
        let now = self.observe(now);
        let mut outcome = ResetOutcome::default();
        if preempt_running {
            // Held sequences are not accounted for up to now.
            let pause = self.pause;
            self.resume(now);
            self.settle_waits(now);
            while let Some(slot) = self.running.pop() {
                self.preempt(slot, None, now);
                outcome.preempted += 1;
            }
            self.plan.clear();
            match pause {
                Some(pause) => self.pause(pause.holds_running, now),
                None => self.meet_obstacle(WaitReason::NextStep),
            }
        }
        for slot in &self.running {
            self.sequences[*slot].stop_sharing();
        }
        outcome.forgotten_blocks = self.pool.forget_all();
        outcome
    }
}
