//! What must hold between any two calls; checked by the property tests and, in debug builds, by the engine.

use std::collections::HashSet;

use crate::scheduler::Scheduler;
use crate::sequence::Place;

/// A broken invariant, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("scheduler invariant broken: {0}")]
pub struct Violation(pub String);

impl Scheduler {
    /// Checks that no KV block is leaked, owned twice or out of range, that every sequence is in exactly one
    /// list, and that blocks and budgets agree. Cost: linear in blocks and sequences.
    ///
    /// # Errors
    /// When anything does not hold.
    pub fn check_invariants(&self) -> Result<(), Violation> {
        let violation = |message: String| Err(Violation(message));
        let mut seen = HashSet::new();
        let owned = self.sequences.iter().flat_map(|(_, sequence)| sequence.blocks.iter().copied());
        for block in self.pool.free_blocks().chain(owned) {
            if block == 0 || block >= self.config.num_kv_blocks {
                return violation(format!("block {block} is not in the pool"));
            }
            if !seen.insert(block) {
                return violation(format!("block {block} is owned twice"));
            }
        }
        if seen.len() != self.config.usable_kv_blocks() as usize {
            return violation(format!("{} of {} blocks left", seen.len(), self.config.usable_kv_blocks()));
        }
        if self.running.len() > self.config.max_num_seqs as usize {
            return violation(format!("{} sequences are running", self.running.len()));
        }
        let lists = self.running.iter().chain(&self.waiting).copied();
        let listed: HashSet<_> = lists.clone().collect();
        if lists.count() != self.sequences.len() || listed.len() != self.sequences.len() {
            return violation("a sequence is in no list or in two".into());
        }
        for (slot, sequence) in &self.sequences {
            let is_running = self.running.contains(&slot);
            let (id, blocks) = (sequence.id, sequence.blocks.len() as u32);
            if is_running != (sequence.place == Place::Running) {
                return violation(format!("sequence {id} is not where it says"));
            }
            if !is_running && (blocks > 0 || sequence.computed > 0) {
                return violation(format!("waiting sequence {id} holds {blocks} blocks"));
            }
            if sequence.computed >= sequence.len() {
                return violation(format!("sequence {id} has nothing left to compute"));
            }
            if is_running && blocks < sequence.computed.div_ceil(self.config.block_size) {
                return violation(format!("sequence {id} has computed more than its blocks hold"));
            }
        }
        Ok(())
    }
}
