//! Why those in the waiting queue wait, and for how long.
//!
//! HOT PATH: the cost of a step does not depend on how many wait. What is true of all of them alike is added up
//! once; each sequence remembers how far that had come when it joined, and only the first in the queue has a
//! reason of its own.

use wayfare_engine::RequestId;
use wayfare_journey::{MonoNs, RequestLabel, Wait, WaitReason, WaitTimes};

use crate::scheduler::Slot;

/// Why the last step let nobody else in.
#[derive(Clone, Debug)]
pub(crate) struct Obstacle {
    /// For the first in the queue.
    pub(crate) head: WaitReason,
    /// For all others.
    pub(crate) rest: WaitReason,
}

/// A request to blame, and the step in which it was.
#[derive(Clone, Debug)]
struct Blame {
    id: RequestId,
    label: RequestLabel,
    step: u64,
}

/// The last two requests that were to blame for waits of one reason. Two, because the last one may be the one that asks:
/// whoever is first in the queue is to blame for those behind it, and was behind another one before.
#[derive(Debug, Default)]
struct Blamed {
    last: Option<Blame>,
    before: Option<Blame>,
}

impl Blamed {
    fn add(&mut self, id: RequestId, label: &RequestLabel, step: u64) {
        match &mut self.last {
            Some(last) if last.id == id => last.step = step,
            last => self.before = last.replace(Blame { id, label: label.clone(), step }),
        }
    }

    /// Whom `id` can blame, for what was since a step.
    fn by(&self, id: RequestId, since_step: u64) -> Option<&Blame> {
        let blames = [&self.last, &self.before].into_iter().flatten();
        blames.filter(|blame| blame.step > since_step).find(|blame| blame.id != id)
    }
}

/// Time that the waiting queue has spent, by reason.
#[derive(Debug)]
pub(crate) struct QueueClock {
    /// Up to here the time is accounted for.
    since: MonoNs,
    /// What those behind the first in the queue have waited, ever.
    shared: WaitTimes,
    obstacle: Obstacle,
    /// The first in the queue when the obstacle was met.
    pub(crate) head: Option<(Slot, RequestId)>,
    /// By reason.
    blamed: [Blamed; WaitReason::COUNT],
}

/// What one sequence in the queue remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct WaitMeter {
    /// How far the shared time had come when it joined. `None` until a step has seen it.
    joined: Option<WaitTimes>,
    /// What it waited for reasons of its own.
    own: WaitTimes,
    /// The last step that was started before it joined.
    joined_step: u64,
}

impl QueueClock {
    pub(crate) fn new() -> Self {
        let obstacle = Obstacle { head: WaitReason::NextStep, rest: WaitReason::NextStep };
        Self {
            since: MonoNs::default(),
            shared: WaitTimes::default(),
            obstacle,
            head: None,
            blamed: Default::default(),
        }
    }

    /// Accounts for the time up to `now` with the reasons in force. `head` is the meter of [`QueueClock::head`],
    /// when that sequence still waits.
    pub(crate) fn advance(&mut self, now: MonoNs, head: Option<&mut WaitMeter>) {
        let ns = now.since(self.since);
        self.since = now;
        self.shared.add(self.obstacle.rest, ns);
        if let Some(meter) = head {
            meter.exempt(self.obstacle.rest, ns);
            meter.own.add(self.obstacle.head, ns);
        }
    }

    /// Puts other reasons in force. The time before must have been accounted for.
    pub(crate) fn set_obstacle(&mut self, obstacle: Obstacle, head: Option<(Slot, RequestId)>) {
        self.obstacle = obstacle;
        self.head = head;
    }

    /// One request is to blame for waits of this reason.
    pub(crate) fn blame(&mut self, reason: WaitReason, id: RequestId, label: &RequestLabel, step: u64) {
        self.blamed[reason as usize].add(id, label, step);
    }

    /// Why the sequence waits at this moment.
    pub(crate) fn reason(&self, slot: Slot, meter: &WaitMeter) -> WaitReason {
        match (meter.joined, self.head) {
            (None, _) => WaitReason::NextStep,
            (Some(_), Some((head, _))) if head == slot => self.obstacle.head,
            (Some(_), _) => self.obstacle.rest,
        }
    }

    /// Who was to blame in step `step` for waits of this reason.
    pub(crate) fn blamed_in(&self, reason: WaitReason, step: u64) -> Option<&RequestLabel> {
        let last = self.blamed[reason as usize].last.as_ref();
        last.filter(|blame| blame.step == step).map(|blame| &blame.label)
    }

    /// A sequence that is new in the queue has been seen by its first step, having waited `ns` for it.
    pub(crate) fn join(&self, meter: &mut WaitMeter, ns: u64) {
        if meter.joined.is_none() {
            meter.own.add(WaitReason::NextStep, ns);
            meter.joined = Some(self.shared);
        }
    }

    /// What the sequence has waited since it joined, at `now`; `since_queued` is the time since it was queued.
    pub(crate) fn waits(&self, slot: Slot, meter: &WaitMeter, now: MonoNs, since_queued: u64) -> WaitTimes {
        let mut waits = meter.own;
        let Some(joined) = &meter.joined else {
            waits.add(WaitReason::NextStep, since_queued);
            return waits;
        };
        for (reason, shared) in self.shared.iter() {
            waits.add(reason, shared - joined.get(reason));
        }
        waits.add(self.reason(slot, meter), now.since(self.since));
        waits
    }

    /// What the sequence `id`, which leaves the queue, had waited for, when anything but the next step.
    pub(crate) fn wait(&self, id: RequestId, meter: &WaitMeter, waits: &WaitTimes) -> Option<Wait> {
        let reason = waits.main_reason()?;
        let blame = self.blamed[reason as usize].by(id, meter.joined_step);
        Some(Wait { reason, blocker: blame.map(|blame| blame.label.clone()) })
    }
}

impl WaitMeter {
    pub(crate) fn new(last_step: u64) -> Self {
        Self { joined_step: last_step, ..Self::default() }
    }

    /// Time that is in the shared account but not this sequence's.
    fn exempt(&mut self, reason: WaitReason, ns: u64) {
        if let Some(joined) = &mut self.joined {
            joined.add(reason, ns);
        }
    }
}
