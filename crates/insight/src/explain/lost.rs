//! What a request lost, and to what.

use wayfare_journey::WaitReason;

use super::blame::Blame;
use super::findings::Cause;
use crate::bucket::{Bucket, Buckets};
use crate::survey::Record;

/// Nanoseconds lost, by cause.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost(Vec<(Cause, f64)>);

/// What holds for all of a survey.
pub(super) struct Circumstances<'a> {
    pub(super) blame: &'a Blame<'a>,
    /// The share of the computed prompt tokens that were computed again: so much of the waiting for others' prompts
    /// is preemption's doing.
    pub(super) recomputed_share: f64,
    /// Where the writer does not say why requests wait: whether the KV cache was full while they did.
    pub(super) cache_was_full: bool,
}

impl Lost {
    pub(super) fn get(&self, cause: Cause) -> f64 {
        self.0.iter().find(|(one, _)| *one == cause).map_or(0.0, |(_, ns)| *ns)
    }

    pub(super) fn add(&mut self, cause: Cause, ns: f64) {
        if ns <= 0.0 {
            return;
        }
        match self.0.iter_mut().find(|(one, _)| *one == cause) {
            Some((_, sum)) => *sum += ns,
            None => self.0.push((cause, ns)),
        }
    }

    pub(super) fn total(&self) -> f64 {
        self.0.iter().map(|(_, ns)| ns).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Cause, f64)> + '_ {
        self.0.iter().copied()
    }

    /// Of one request.
    pub(super) fn of(record: &Record, account: &Buckets, circumstances: &Circumstances<'_>) -> Self {
        let mut lost = Self::default();
        let ns = |bucket| account.get(bucket) as f64;
        let queue = |reason| ns(Bucket::Queue(reason));
        lost.add(Cause::KvPool, queue(WaitReason::KvBlocks) + ns(Bucket::Preempted) + ns(Bucket::Recompute));
        lost.add(Cause::MaxNumSeqs, queue(WaitReason::MaxNumSeqs));
        lost.add(Cause::Paused, queue(WaitReason::Paused));
        lost.add(Cause::SlowUpload, ns(Bucket::Receive));
        lost.add(Cause::Frontend, ns(Bucket::Prepare));
        lost.add(Cause::LongSteps, ns(Bucket::Admit));
        let of_head = match circumstances.blame.root_reason(record) {
            Some(WaitReason::MaxNumSeqs) => Cause::MaxNumSeqs,
            Some(WaitReason::TokenBudget) => Cause::PromptLoad,
            Some(WaitReason::Paused) => Cause::Paused,
            _ => Cause::KvPool,
        };
        lost.add(of_head, queue(WaitReason::HeadOfLine));
        let of_prompts = queue(WaitReason::TokenBudget) + ns(Bucket::PrefillWait) + ns(Bucket::Interference);
        lost.add(Cause::KvPool, of_prompts * circumstances.recomputed_share);
        lost.add(Cause::PromptLoad, of_prompts * (1.0 - circumstances.recomputed_share));
        let of_nobody = if circumstances.cache_was_full { Cause::KvPool } else { Cause::UnknownQueue };
        lost.add(of_nobody, queue(WaitReason::Unknown));
        let deliver = ns(Bucket::Deliver);
        let is_the_client = record.blocked_ns as f64 >= 0.5 * deliver && record.blocked_ns > 0;
        lost.add(if is_the_client { Cause::SlowClient } else { Cause::Frontend }, deliver);
        lost
    }
}
