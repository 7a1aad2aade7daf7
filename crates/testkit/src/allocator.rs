//! An allocator that counts, for tests of what does not allocate.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    /// Per thread, because a test process has other threads.
    static ALLOCATIONS: Cell<Allocations> = const { Cell::new(Allocations { count: 0, bytes: 0 }) };
}

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

/// What was asked of the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocations {
    /// Calls that got memory, a larger place for something included.
    pub count: u64,
    /// Bytes that they got.
    pub bytes: u64,
}

/// The system's allocator, counting. A test binary installs it with `#[global_allocator]`.
#[derive(Clone, Copy, Debug)]
pub struct CountingAllocator;

impl CountingAllocator {
    /// What `work` asks for on this thread.
    ///
    /// # Panics
    /// When the allocator is not installed, and so counts nothing.
    #[must_use]
    pub fn allocations_of(self, work: impl FnOnce()) -> Allocations {
        let before = ALLOCATIONS.get();
        drop(std::hint::black_box(Box::new(1_u8)));
        let start = ALLOCATIONS.get();
        assert!(start.count > before.count, "install the allocator with #[global_allocator]");
        work();
        let end = ALLOCATIONS.get();
        Allocations { count: end.count - start.count, bytes: end.bytes - start.bytes }
    }

    /// What this thread has asked for so far.
    #[must_use]
    pub fn made(self) -> Allocations {
        ALLOCATIONS.get()
    }

    /// Bytes that the process has got and not given back.
    #[must_use]
    pub fn live_bytes(self) -> usize {
        LIVE_BYTES.load(Ordering::Relaxed)
    }
}

fn count(bytes: usize) {
    // A thread that is ending has no counter any more.
    let _ = ALLOCATIONS.try_with(|allocations| {
        let Allocations { count, bytes: so_far } = allocations.get();
        allocations.set(Allocations { count: count + 1, bytes: so_far + bytes as u64 });
    });
}

// SAFETY: every call goes unchanged to the system's allocator; the counters need neither initialisation nor
// destruction.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        LIVE_BYTES.fetch_add(new_size, Ordering::Relaxed);
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(place, layout, new_size) }
    }
}
