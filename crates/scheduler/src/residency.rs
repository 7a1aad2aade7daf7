//! How long cached prefixes stay, and how long they lie unused: the basis for choosing the size of the pool.
//!
//! HOT PATH when it is on: a few stores when a block is handed out or shared. Exists only when it is asked for.

use std::num::NonZeroU32;

use smallvec::SmallVec;
use wayfare_engine::BlockLife;
use wayfare_journey::MonoNs;

use crate::BlockId;

/// Uses that are remembered of a block, as many as vLLM remembers.
const REMEMBERED_USES: usize = 4;

/// Follows a share of the blocks.
#[derive(Debug)]
pub(crate) struct Residency {
    /// Every n-th block that is handed out is followed.
    every: NonZeroU32,
    handed_out: u64,
    /// By block; the block's uses, the first one its birth. Empty when it is not followed.
    uses: Vec<SmallVec<[MonoNs; REMEMBERED_USES + 1]>>,
    ended: Vec<BlockLife>,
}

impl Residency {
    /// Follows one of `every` blocks of a pool.
    pub(crate) fn new(every: NonZeroU32, num_blocks: u32) -> Self {
        let uses = (0..num_blocks).map(|_| SmallVec::new()).collect();
        Self { every, handed_out: 0, uses, ended: Vec::new() }
    }

    /// The block is handed out at `now`; what it held is gone, if it `was_cached`.
    pub(crate) fn hand_out(&mut self, block: BlockId, was_cached: bool, now: MonoNs) {
        let uses = &mut self.uses[block as usize];
        if let (true, Some(born), Some(last)) = (was_cached, uses.first(), uses.last()) {
            let gaps = uses[1..].windows(2).map(|pair| pair[1].since(pair[0]));
            self.ended.push(BlockLife {
                lifetime_ns: now.since(*born),
                idle_ns: now.since(*last),
                reuse_gaps_ns: gaps.collect(),
            });
        }
        uses.clear();
        if self.handed_out.is_multiple_of(self.every.get().into()) {
            uses.push(now);
        }
        self.handed_out += 1;
    }

    /// Another sequence has found the block's content.
    pub(crate) fn reuse(&mut self, block: BlockId, now: MonoNs) {
        let uses = &mut self.uses[block as usize];
        if uses.is_empty() {
            return;
        }
        if uses.len() > REMEMBERED_USES {
            // The birth stays.
            uses.remove(1);
        }
        uses.push(now);
    }

    /// The lives that have ended since the last call.
    pub(crate) fn take_ended(&mut self) -> Vec<BlockLife> {
        std::mem::take(&mut self.ended)
    }
}
