//! A file as words of memory. The only unsafe code of the crate.

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapMut, MmapOptions};

/// Maps a file for as long as the process lives.
#[expect(unsafe_code, reason = "a mapped file is memory that others can change")]
pub(crate) fn map(file: &File) -> io::Result<&'static [AtomicU64]> {
    // SAFETY: the memory is only ever used as atomics, for which any change by others is a value like any other. The
    // file is this process's own: it was just made, is locked, and every byte of it is allocated, so that a store
    // finds room. Whoever cuts it off all the same ends the process by SIGBUS, which is no undefined behaviour.
    let mapping: MmapMut = unsafe { MmapOptions::new().map_mut(file)? };
    let mapping: &'static mut MmapMut = Box::leak(Box::new(mapping));
    let memory: &'static mut [u8] = mapping;
    // SAFETY: any bits are an AtomicU64; it has no invariants. The exclusive borrow of the bytes ends here, and the
    // mapping is never undone.
    let (before, words, _) = unsafe { memory.align_to::<AtomicU64>() };
    if before.is_empty() { Ok(words) } else { Err(io::Error::other("a mapping does not begin at a page")) }
}
