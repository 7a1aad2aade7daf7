//! Handing a finished journey to the exporter allocates nothing, whether there is room for it or not.
//!
//! A binary of its own, because it counts the allocations of the thread through the global allocator.
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use wayfare_journey::{IncomingHeaders, MonoNs, WallAnchor};
use wayfare_journey_otlp::{EngineDescription, Exporter, ExporterConfig, Resource};
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
    const ROOM: usize = 64;
    let store = JourneyStore::default();
    let tracer = store.tracer(VirtualClock::at(MonoNs(1)));
    for _ in 0..2 * ROOM {
        let span = tracer.admit(IncomingHeaders::default(), "/v1/completions", MonoNs(1)).span.unwrap();
        drop(span.handle().open_cores(&[(1, 1)], MonoNs(1)));
        span.complete(MonoNs(2));
    }
    let mut journeys = store.take();

    let resource = Resource::of_this_process("0", EngineDescription::default());
    let mut config = ExporterConfig::new(Vec::new(), resource);
    config.queue_capacity = ROOM;
    config.schedule_delay = Duration::from_secs(3600);
    let exporter = Exporter::start(config, WallAnchor::capture()).unwrap();
    let sink = exporter.sink();

    assert!(allocations_of(|| drop(std::hint::black_box(Box::new(1)))) > 0, "the counter counts");
    let allocations = allocations_of(|| journeys.drain(..).for_each(|journey| sink.accept(journey)));
    assert_eq!(allocations, 0);
    let counters = exporter.counters();
    assert_eq!(counters.journeys_accepted(), ROOM as u64);
    assert_eq!(counters.journeys_dropped_queue_full(), ROOM as u64);
    assert!(exporter.shutdown(Duration::from_secs(10)).in_time);
}
