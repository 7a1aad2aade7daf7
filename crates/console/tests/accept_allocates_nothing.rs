//! Handing a finished journey to the store allocates nothing, whether there is room for it or not.
//!
//! A binary of its own, because it counts the allocations of the thread through the global allocator.
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use wayfare_console::{RecentJourneys, StoreLimits};
use wayfare_journey::{IncomingHeaders, MonoNs};
use wayfare_testkit::{JourneyStore, VirtualClock};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes unchanged to the system's allocator; the counter is a plain thread-local number
// that needs neither initialisation nor destruction.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

fn allocations_of(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn accept_allocates_nothing() {
    /// More than the store's queue has room for.
    const JOURNEYS: usize = 6_000;
    let source = JourneyStore::default();
    let tracer = source.tracer(VirtualClock::at(MonoNs(1)));
    for _ in 0..JOURNEYS {
        let span = tracer.admit(IncomingHeaders::default(), "/v1/completions", MonoNs(1)).span.unwrap();
        drop(span.handle().open_cores(&[(1, 1)], MonoNs(1)));
        span.complete(MonoNs(2));
    }
    let mut journeys = source.take();
    let store = RecentJourneys::start(StoreLimits::default()).unwrap();
    let sink = store.sink();

    assert!(allocations_of(|| drop(std::hint::black_box(Box::new(1)))) > 0, "the counter counts");
    let allocations = allocations_of(|| journeys.drain(..).for_each(|journey| sink.accept(journey)));
    assert_eq!(allocations, 0);
    let in_use = store.reader().usage();
    assert_eq!(in_use.journeys as u64 + in_use.lost, JOURNEYS as u64);
}
