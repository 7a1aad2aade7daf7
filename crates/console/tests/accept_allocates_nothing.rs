//! Handing a finished journey to the store allocates nothing, whether there is room for it or not.
//!
//! A binary of its own, because it counts the allocations of the thread through the global allocator.

use wayfare_console::{RecentJourneys, StoreLimits};
use wayfare_journey::{IncomingHeaders, MonoNs};
use wayfare_testkit::{CountingAllocator, JourneyStore, VirtualClock};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

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

    let allocations =
        ALLOCATOR.allocations_of(|| journeys.drain(..).for_each(|journey| sink.accept(journey)));
    assert_eq!(allocations.count, 0);
    let in_use = store.reader().usage();
    assert_eq!(in_use.journeys as u64 + in_use.lost, JOURNEYS as u64);
}
