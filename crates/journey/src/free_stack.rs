//! Numbers that are free to be taken: a stack without a lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The top of the stack, as its number plus one, below a count of changes that makes an exchange fail when the
/// stack has changed and changed back in between. The owner keeps, for each number, a place for what lies below.
#[derive(Debug, Default)]
pub(crate) struct FreeStack(AtomicU64);

impl FreeStack {
    /// Puts a number on the stack that is not on it. `below` is its place.
    pub(crate) fn push(&self, number: u32, below: &AtomicU32) {
        let mut head = self.0.load(Ordering::Acquire);
        loop {
            below.store(top(head), Ordering::Relaxed);
            let new = changed(head, number + 1);
            match self.0.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(current) => head = current,
            }
        }
    }

    /// Takes a number off the stack. `below` gives the place of a number.
    pub(crate) fn pop<'a>(&self, below: impl Fn(u32) -> Option<&'a AtomicU32>) -> Option<u32> {
        let mut head = self.0.load(Ordering::Acquire);
        loop {
            let number = top(head).checked_sub(1)?;
            let next = below(number)?.load(Ordering::Relaxed);
            let new = changed(head, next);
            match self.0.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(number),
                Err(current) => head = current,
            }
        }
    }
}

fn top(head: u64) -> u32 {
    head as u32
}

fn changed(head: u64, top: u32) -> u64 {
    ((head >> 32).wrapping_add(1) << 32) | u64::from(top)
}
