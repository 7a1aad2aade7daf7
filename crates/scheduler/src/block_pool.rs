//! The pool of KV blocks.
//!
//! HOT PATH: taking and giving back blocks moves ids between preallocated queues.

use std::collections::VecDeque;

/// A block of the paged KV cache. Block 0 is reserved and never handed out.
pub type BlockId = u32;

/// Hands out KV blocks. The free queue is in eviction order: taken from the front, given back at the end.
#[derive(Debug)]
pub(crate) struct BlockPool {
    free: VecDeque<BlockId>,
    usable: u32,
}

impl BlockPool {
    /// A pool of the blocks `1..num_blocks`.
    pub(crate) fn new(num_blocks: u32) -> Self {
        Self { free: (1..num_blocks).collect(), usable: num_blocks.saturating_sub(1) }
    }

    pub(crate) fn num_free(&self) -> u32 {
        // The queue never holds more than the `u32` number of usable blocks.
        self.free.len() as u32
    }

    pub(crate) fn num_usable(&self) -> u32 {
        self.usable
    }

    /// Appends `count` blocks to `table`, or none at all when fewer are free.
    #[must_use]
    pub(crate) fn allocate(&mut self, count: u32, table: &mut Vec<BlockId>) -> bool {
        if count > self.num_free() {
            return false;
        }
        table.extend(self.free.drain(..count as usize));
        true
    }

    /// Takes all blocks of `table` back, the last one first, so that the tail of a sequence is reused before
    /// its beginning. Returns how many there were.
    pub(crate) fn release(&mut self, table: &mut Vec<BlockId>) -> u32 {
        let count = table.len() as u32;
        self.free.extend(table.drain(..).rev());
        count
    }

    pub(crate) fn free_blocks(&self) -> impl Iterator<Item = BlockId> {
        self.free.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_reused_tail_first_and_never_block_zero() {
        let mut pool = BlockPool::new(5);
        let mut table = Vec::new();
        assert!(pool.allocate(3, &mut table));
        assert_eq!(table, [1, 2, 3]);
        assert_eq!(pool.release(&mut table), 3);
        assert!(pool.allocate(4, &mut table));
        assert_eq!(table, [4, 3, 2, 1]);
    }

    #[test]
    fn a_request_beyond_the_pool_takes_nothing() {
        let mut pool = BlockPool::new(3);
        let mut table = Vec::new();
        assert!(!pool.allocate(3, &mut table));
        assert!(table.is_empty());
        assert_eq!(pool.num_free(), 2);
    }
}
