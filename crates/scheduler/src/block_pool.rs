//! The pool of KV blocks, and which of them hold which cached prefix.
//!
//! HOT PATH: blocks are numbers in preallocated lists; nothing here allocates after the start.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU32;

use wayfare_engine::BlockLife;
use wayfare_journey::MonoNs;

use crate::prefix::BlockHash;
use crate::residency::Residency;

/// A block of the paged KV cache. Block 0 is reserved and never handed out.
pub type BlockId = u32;

/// The reserved block, which stands for "none" and joins both ends of the free queue.
const NONE: BlockId = 0;

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Sequences that have it in their table.
    owners: u32,
    /// What it holds, if others may use it. Kept while the block is free, until it is handed out again.
    hash: Option<BlockHash>,
    /// Neighbours in the free queue, while nobody owns it.
    previous_free: BlockId,
    next_free: BlockId,
    /// Neighbours among the blocks with the same content.
    previous_twin: BlockId,
    next_twin: BlockId,
}

/// Hands out KV blocks. The free queue is in eviction order: taken from the front, given back at the end.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    free: u32,
    /// The latest of the blocks with some content. Empty when prefixes are not cached.
    cached: HashMap<BlockHash, BlockId, BuildHasherDefault<HashIsKey>>,
    /// The time of the step that blocks are handed out for.
    now: MonoNs,
    /// `None` when no block is followed.
    residency: Option<Residency>,
}

impl BlockPool {
    /// A pool of the blocks `1..num_blocks`.
    pub(crate) fn new(num_blocks: u32, caches_prefixes: bool, follow_blocks: Option<NonZeroU32>) -> Self {
        let mut pool = Self {
            blocks: vec![Block::default(); num_blocks.max(1) as usize],
            free: 0,
            // Twice as many places as entries, so that the table never has to grow.
            cached: HashMap::with_capacity_and_hasher(
                if caches_prefixes { 2 * num_blocks as usize } else { 0 },
                BuildHasherDefault::default(),
            ),
            now: MonoNs::default(),
            residency: follow_blocks.map(|every| Residency::new(every, num_blocks)),
        };
        (1..num_blocks).for_each(|block| pool.put_free(block));
        pool
    }

    /// A step begins, and blocks may be handed out for it.
    pub(crate) fn begin_step(&mut self, now: MonoNs) {
        self.now = now;
    }

    /// The lives of followed blocks that have ended since the last call.
    pub(crate) fn take_block_lives(&mut self) -> Vec<BlockLife> {
        self.residency.as_mut().map(Residency::take_ended).unwrap_or_default()
    }

    pub(crate) fn num_free(&self) -> u32 {
        self.free
    }

    pub(crate) fn num_usable(&self) -> u32 {
        // As many as the `u32` number of blocks it was made with.
        self.blocks.len() as u32 - 1
    }

    /// Appends `count` blocks to `table`, or none at all when fewer are free.
    #[must_use]
    pub(crate) fn allocate(&mut self, count: u32, table: &mut Vec<BlockId>) -> bool {
        if count > self.free {
            return false;
        }
        for _ in 0..count {
            let block = self.blocks[NONE as usize].next_free;
            self.take_free(block);
            let was_cached = self.forget(block);
            if let Some(residency) = &mut self.residency {
                residency.hand_out(block, was_cached, self.now);
            }
            self.blocks[block as usize].owners = 1;
            table.push(block);
        }
        true
    }

    /// Makes cached blocks those of one more sequence.
    pub(crate) fn share(&mut self, cached: &[BlockId], table: &mut Vec<BlockId>) {
        for &block in cached {
            if self.blocks[block as usize].owners == 0 {
                self.take_free(block);
            }
            if let Some(residency) = &mut self.residency {
                residency.reuse(block, self.now);
            }
            self.blocks[block as usize].owners += 1;
            table.push(block);
        }
    }

    /// Takes all blocks of `table` back, the last one first, so that the tail of a sequence is reused before
    /// its beginning. Returns how many became free.
    pub(crate) fn release(&mut self, table: &mut Vec<BlockId>) -> u32 {
        let free_before = self.free;
        while let Some(block) = table.pop() {
            let owners = &mut self.blocks[block as usize].owners;
            *owners -= 1;
            if *owners == 0 {
                self.put_free(block);
            }
        }
        self.free - free_before
    }

    /// How many of these blocks nobody owns.
    pub(crate) fn count_free(&self, blocks: &[BlockId]) -> u32 {
        blocks.iter().filter(|block| self.blocks[**block as usize].owners == 0).count() as u32
    }

    /// A block with this content, if there is one; of several the one registered last.
    pub(crate) fn find(&self, hash: BlockHash) -> Option<BlockId> {
        self.cached.get(&hash).copied()
    }

    /// Says what an owned block holds, or will hold after the coming step. Several blocks may hold the same.
    pub(crate) fn register(&mut self, block: BlockId, hash: BlockHash) {
        debug_assert!(self.blocks[block as usize].hash.is_none());
        self.blocks[block as usize].hash = Some(hash);
        if let Some(twin) = self.cached.insert(hash, block) {
            self.blocks[block as usize].next_twin = twin;
            self.blocks[twin as usize].previous_twin = block;
        }
    }

    /// Makes the content of a block unfindable. Returns whether there was any.
    pub(crate) fn forget(&mut self, block: BlockId) -> bool {
        let Some(hash) = self.blocks[block as usize].hash.take() else { return false };
        let Block { previous_twin, next_twin, .. } = self.blocks[block as usize];
        self.blocks[block as usize].previous_twin = NONE;
        self.blocks[block as usize].next_twin = NONE;
        if next_twin != NONE {
            self.blocks[next_twin as usize].previous_twin = previous_twin;
        }
        if previous_twin != NONE {
            self.blocks[previous_twin as usize].next_twin = next_twin;
        } else if next_twin != NONE {
            self.cached.insert(hash, next_twin);
        } else {
            self.cached.remove(&hash);
        }
        true
    }

    /// Makes the contents of all blocks unfindable. Returns how many had any.
    pub(crate) fn forget_all(&mut self) -> u64 {
        (1..=self.num_usable()).map(|block| u64::from(self.forget(block))).sum()
    }

    /// How many blocks of `table` hold content that others may use.
    pub(crate) fn count_cached(&self, table: &[BlockId]) -> u32 {
        table.iter().filter(|block| self.blocks[**block as usize].hash.is_some()).count() as u32
    }

    fn put_free(&mut self, block: BlockId) {
        let last = std::mem::replace(&mut self.blocks[NONE as usize].previous_free, block);
        self.blocks[last as usize].next_free = block;
        self.blocks[block as usize].previous_free = last;
        self.blocks[block as usize].next_free = NONE;
        self.free += 1;
    }

    fn take_free(&mut self, block: BlockId) {
        let Block { previous_free, next_free, .. } = self.blocks[block as usize];
        self.blocks[previous_free as usize].next_free = next_free;
        self.blocks[next_free as usize].previous_free = previous_free;
        self.free -= 1;
    }

    /// The free blocks in eviction order.
    pub(crate) fn free_blocks(&self) -> impl Iterator<Item = BlockId> {
        let next = |block: &BlockId| Some(self.blocks[*block as usize].next_free);
        std::iter::successors(next(&NONE), next).take_while(|block| *block != NONE)
    }

    /// The content and the number of owners of every block but the reserved one.
    pub(crate) fn contents(&self) -> impl Iterator<Item = (BlockId, Option<BlockHash>, u32)> {
        (0..).zip(&self.blocks).skip(1).map(|(id, block)| (id, block.hash, block.owners))
    }

    /// How many different contents can be found.
    pub(crate) fn num_contents(&self) -> usize {
        self.cached.len()
    }
}

/// A block's hash is as good as random already.
#[derive(Default)]
struct HashIsKey(u64);

impl Hasher for HashIsKey {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Not reached: a block's hash is written as one integer. Correct all the same.
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u128(&mut self, hash: u128) {
        // The lower half; the key is compared as a whole.
        self.0 = hash as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::PrefixHasher;

    fn pool(num_blocks: u32) -> BlockPool {
        BlockPool::new(num_blocks, true, None)
    }

    fn hash(token: u32) -> BlockHash {
        let hasher = PrefixHasher::new([1, 2]);
        hasher.block(hasher.root(None), &[token])
    }

    #[test]
    fn blocks_are_reused_tail_first_and_never_block_zero() {
        let mut pool = pool(5);
        let mut table = Vec::new();
        assert!(pool.allocate(3, &mut table));
        assert_eq!(table, [1, 2, 3]);
        assert_eq!(pool.release(&mut table), 3);
        assert!(pool.allocate(4, &mut table));
        assert_eq!(table, [4, 3, 2, 1]);
    }

    #[test]
    fn a_request_beyond_the_pool_takes_nothing() {
        let mut pool = pool(3);
        let mut table = Vec::new();
        assert!(!pool.allocate(3, &mut table));
        assert!(table.is_empty());
        assert_eq!(pool.num_free(), 2);
    }

    #[test]
    fn a_free_block_keeps_its_content_until_it_is_handed_out() {
        let mut pool = pool(4);
        let mut table = Vec::new();
        assert!(pool.allocate(2, &mut table));
        pool.register(1, hash(10));
        pool.register(2, hash(20));
        pool.release(&mut table);
        assert_eq!((pool.find(hash(10)), pool.find(hash(20))), (Some(1), Some(2)));
        // The order of eviction: 3 was never used, 2 was the tail.
        assert_eq!(pool.free_blocks().collect::<Vec<_>>(), [3, 2, 1]);
        assert!(pool.allocate(2, &mut table));
        assert_eq!((pool.find(hash(10)), pool.find(hash(20))), (Some(1), None));
    }

    #[test]
    fn a_shared_block_is_free_when_its_last_owner_lets_go() {
        let mut pool = pool(3);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        assert!(pool.allocate(1, &mut first));
        pool.register(1, hash(10));
        pool.share(&[1], &mut second);
        assert_eq!(pool.release(&mut first), 0);
        assert_eq!(pool.release(&mut second), 1);
        assert_eq!(pool.count_free(&[1]), 1);
        pool.share(&[1], &mut second);
        assert_eq!(pool.free_blocks().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn of_twins_each_can_be_forgotten_first() {
        for order in [[1, 2, 3], [3, 2, 1], [2, 1, 3], [2, 3, 1]] {
            let mut pool = pool(4);
            let mut table = Vec::new();
            assert!(pool.allocate(3, &mut table));
            (1..=3).for_each(|block| pool.register(block, hash(10)));
            for (forgotten, block) in order.into_iter().enumerate() {
                assert!(pool.find(hash(10)).is_some(), "{order:?}, {forgotten} forgotten");
                assert!(pool.forget(block));
                assert_ne!(pool.find(hash(10)), Some(block));
            }
            assert_eq!((pool.find(hash(10)), pool.num_contents()), (None, 0));
        }
    }
}
