//! What must hold between any two calls; checked by the property tests and, in debug builds, by the engine.

use std::collections::{HashMap, HashSet};

use crate::scheduler::Scheduler;
use crate::sequence::Place;

/// A broken invariant, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("scheduler invariant broken: {0}")]
pub struct Violation(pub String);

impl Scheduler {
    /// Checks that no KV block is leaked, owned by nobody who has it, or out of range; that every sequence is in
    /// exactly one list; and that blocks, cached contents and budgets agree. Cost: linear in blocks and
    /// sequences.
    ///
    /// # Errors
    /// When anything does not hold.
    pub fn check_invariants(&self) -> Result<(), Violation> {
        self.check_blocks()?;
        self.check_lists()?;
        self.sequences.iter().try_for_each(|(slot, sequence)| {
            let is_running = self.running.contains(&slot);
            let (id, blocks) = (sequence.id, sequence.blocks.len() as u32);
            ensure(is_running == (sequence.place == Place::Running), || {
                format!("sequence {id} is not where it says")
            })?;
            ensure(is_running || (blocks == 0 && sequence.computed == 0), || {
                format!("waiting sequence {id} holds {blocks} blocks")
            })?;
            ensure(sequence.computed < sequence.len(), || {
                format!("sequence {id} has nothing left to compute")
            })?;
            ensure(!is_running || blocks >= sequence.computed.div_ceil(self.config.block_size), || {
                format!("sequence {id} has computed more than its blocks hold")
            })?;
            ensure(sequence.cached <= sequence.prompt_len, || {
                format!("sequence {id} found more in the cache than it asked for")
            })
        })
    }

    fn check_blocks(&self) -> Result<(), Violation> {
        let mut owners: HashMap<u32, u32> = HashMap::new();
        for (_, sequence) in &self.sequences {
            let distinct: HashSet<_> = sequence.blocks.iter().collect();
            ensure(distinct.len() == sequence.blocks.len(), || {
                format!("sequence {} has a block twice", sequence.id)
            })?;
            sequence.blocks.iter().for_each(|block| *owners.entry(*block).or_default() += 1);
        }
        let free: HashSet<u32> = self.pool.free_blocks().collect();
        ensure(free.len() == self.pool.num_free() as usize, || "the free queue is miscounted".into())?;
        let mut contents = HashSet::new();
        for (block, content, owned) in self.pool.contents() {
            let in_tables = owners.remove(&block).unwrap_or(0);
            ensure(owned == in_tables, || {
                format!("block {block} is in {in_tables} tables and has {owned} owners")
            })?;
            ensure(free.contains(&block) == (owned == 0), || {
                format!("block {block} with {owned} owners is on the wrong side of the free queue")
            })?;
            if let Some(content) = content {
                contents.insert(content);
                ensure(self.pool.find(content).is_some(), || {
                    format!("the content of block {block} is lost")
                })?;
            }
        }
        ensure(owners.is_empty(), || format!("blocks {owners:?} are not in the pool"))?;
        ensure(contents.len() == self.pool.num_contents(), || {
            "contents can be found that no block has".into()
        })
    }

    fn check_lists(&self) -> Result<(), Violation> {
        ensure(self.running.len() <= self.config.max_num_seqs as usize, || {
            format!("{} sequences are running", self.running.len())
        })?;
        let lists: Vec<_> = self.running.iter().copied().chain(self.waiting.iter()).collect();
        let listed: HashSet<_> = lists.iter().collect();
        ensure(lists.len() == self.sequences.len() && listed.len() == self.sequences.len(), || {
            "a sequence is in no list or in two".into()
        })?;
        let waiting = self.waiting.iter().map(|slot| u64::from(self.sequences[slot].prompt_len));
        ensure(waiting.sum::<u64>() == self.waiting_tokens, || "the waiting tokens are miscounted".into())
    }
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation(otherwise())) }
}
