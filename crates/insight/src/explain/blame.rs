//! Who is blamed, and what for.

use std::collections::{HashMap, HashSet};

use wayfare_journey::WaitReason;

use crate::survey::{Name, Record, Survey};

/// Chains of blame are followed so far: whoever waits behind the head of the queue waits for what the head waits for.
const MAX_HOPS: usize = 16;

/// The requests that others waited for, by their id.
#[derive(Debug)]
pub(super) struct Blame<'a> {
    by_id: HashMap<Name, &'a Record>,
}

impl<'a> Blame<'a> {
    /// Looks up all that are blamed anywhere.
    #[must_use]
    pub(super) fn of(survey: &'a Survey) -> Self {
        let mut blamed = HashSet::new();
        for record in survey.records() {
            blamed.extend([record.last.wait_blocker, record.last.preempted_by]);
        }
        blamed.remove(&Name::NONE);
        let mut by_id = HashMap::with_capacity(blamed.len());
        for record in survey.records().filter(|record| blamed.contains(&record.request_id)) {
            by_id.entry(record.request_id).or_insert(record);
        }
        Self { by_id }
    }

    /// The request of that id, when somebody blames it and it is in the files.
    #[must_use]
    pub(super) fn get(&self, id: Name) -> Option<&'a Record> {
        self.by_id.get(&id).copied()
    }

    /// What a request waited for in the end: not the head of the queue, but what the head waited for. `None` when that
    /// is not known.
    #[must_use]
    pub(super) fn root_reason(&self, record: &Record) -> Option<WaitReason> {
        let mut reason = record.last.wait_reason?;
        let mut blocker = record.last.wait_blocker;
        for _ in 0..MAX_HOPS {
            if reason != WaitReason::HeadOfLine {
                return Some(reason);
            }
            let head = self.get(blocker)?;
            // The head may have been scheduled before: then it waits for the blocks to go on.
            let Some(its_reason) = head.last.wait_reason else {
                return (head.preemptions > 0).then_some(WaitReason::KvBlocks);
            };
            (reason, blocker) = (its_reason, head.last.wait_blocker);
        }
        None
    }
}
