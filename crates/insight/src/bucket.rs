//! The buckets of the ledger, those of the queue by reason.

use wayfare_journey::WaitReason;

/// Where time goes. The order is that of a request's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    /// Head read to body complete.
    Receive,
    /// Parse, validate, template, tokenise.
    Prepare,
    /// Handed to the engine until it is in its queue.
    Admit,
    /// In the queue, for this reason.
    Queue(WaitReason),
    /// Computing the prompt for the first time.
    Prefill,
    /// Between the chunks of the prompt.
    PrefillWait,
    /// Generating.
    Decode,
    /// The part of generating that others' prompts took.
    Interference,
    /// Back in the queue.
    Preempted,
    /// Computing again.
    Recompute,
    /// From the engine to the client.
    Deliver,
}

impl Bucket {
    /// How many there are.
    pub const COUNT: usize = 10 + WaitReason::COUNT;

    /// All of them.
    pub const ALL: [Bucket; Self::COUNT] = [
        Bucket::Receive,
        Bucket::Prepare,
        Bucket::Admit,
        Bucket::Queue(WaitReason::NextStep),
        Bucket::Queue(WaitReason::TokenBudget),
        Bucket::Queue(WaitReason::MaxNumSeqs),
        Bucket::Queue(WaitReason::KvBlocks),
        Bucket::Queue(WaitReason::HeadOfLine),
        Bucket::Queue(WaitReason::Paused),
        Bucket::Queue(WaitReason::Unknown),
        Bucket::Prefill,
        Bucket::PrefillWait,
        Bucket::Decode,
        Bucket::Interference,
        Bucket::Preempted,
        Bucket::Recompute,
        Bucket::Deliver,
    ];

    fn index(self) -> usize {
        const AFTER_QUEUE: usize = 3 + WaitReason::COUNT;
        match self {
            Bucket::Receive => 0,
            Bucket::Prepare => 1,
            Bucket::Admit => 2,
            Bucket::Queue(reason) => 3 + reason as usize,
            Bucket::Prefill => AFTER_QUEUE,
            Bucket::PrefillWait => AFTER_QUEUE + 1,
            Bucket::Decode => AFTER_QUEUE + 2,
            Bucket::Interference => AFTER_QUEUE + 3,
            Bucket::Preempted => AFTER_QUEUE + 4,
            Bucket::Recompute => AFTER_QUEUE + 5,
            Bucket::Deliver => AFTER_QUEUE + 6,
        }
    }

    /// Its name, as in `journey.ledger.NAME_ns`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Bucket::Receive => "receive",
            Bucket::Prepare => "prepare",
            Bucket::Admit => "admit",
            Bucket::Queue(WaitReason::NextStep) => "queue.next_step",
            Bucket::Queue(WaitReason::TokenBudget) => "queue.token_budget",
            Bucket::Queue(WaitReason::MaxNumSeqs) => "queue.max_num_seqs",
            Bucket::Queue(WaitReason::KvBlocks) => "queue.kv_blocks",
            Bucket::Queue(WaitReason::HeadOfLine) => "queue.head_of_line",
            Bucket::Queue(WaitReason::Paused) => "queue.paused",
            Bucket::Queue(WaitReason::Unknown) => "queue.unknown",
            Bucket::Prefill => "prefill",
            Bucket::PrefillWait => "prefill_wait",
            Bucket::Decode => "decode",
            Bucket::Interference => "interference",
            Bucket::Preempted => "preempted",
            Bucket::Recompute => "recompute",
            Bucket::Deliver => "deliver",
        }
    }

    /// The bucket of that name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bucket| bucket.name() == name)
    }
}

/// Nanoseconds by bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buckets([u64; Bucket::COUNT]);

impl Buckets {
    /// What is in one.
    #[must_use]
    pub fn get(&self, bucket: Bucket) -> u64 {
        self.0[bucket.index()]
    }

    /// Replaces what is in one.
    pub fn set(&mut self, bucket: Bucket, ns: u64) {
        self.0[bucket.index()] = ns;
    }

    /// Adds to one.
    pub fn add(&mut self, bucket: Bucket, ns: u64) {
        let place = &mut self.0[bucket.index()];
        *place = place.saturating_add(ns);
    }

    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, ns| sum.saturating_add(*ns))
    }

    /// Those of the queue together.
    #[must_use]
    pub fn queue(&self) -> u64 {
        WaitReason::ALL.iter().fold(0, |sum, reason| sum.saturating_add(self.get(Bucket::Queue(*reason))))
    }

    /// Each with its nanoseconds.
    pub fn iter(&self) -> impl Iterator<Item = (Bucket, u64)> + '_ {
        Bucket::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_has_a_place_and_a_name_of_its_own() {
        for (place, bucket) in Bucket::ALL.into_iter().enumerate() {
            assert_eq!(bucket.index(), place);
            assert_eq!(Bucket::of_name(bucket.name()), Some(bucket));
        }
        assert_eq!(Bucket::of_name("queue"), None);
    }

    #[test]
    fn buckets_names_are_those_of_the_schema() {
        let schema = wayfare_journey::schema::span_attribute::ALL;
        for bucket in Bucket::ALL {
            let key = format!("journey.ledger.{}_ns", bucket.name());
            assert!(schema.iter().any(|attribute| attribute.key == key), "{key}");
        }
    }
}
