//! Handing a finished journey to the exporter allocates nothing, whether there is room for it or not.
//!
//! A binary of its own, because it counts the allocations of the thread through the global allocator.

use std::time::Duration;

use wayfare_journey::{IncomingHeaders, MonoNs, WallAnchor};
use wayfare_journey_otlp::{EngineDescription, Exporter, ExporterConfig, Resource};
use wayfare_testkit::{CountingAllocator, JourneyStore, VirtualClock};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

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

    let allocations =
        ALLOCATOR.allocations_of(|| journeys.drain(..).for_each(|journey| sink.accept(journey)));
    assert_eq!(allocations.count, 0);
    let counters = exporter.counters();
    assert_eq!(counters.journeys_accepted(), ROOM as u64);
    assert_eq!(counters.journeys_dropped_queue_full(), ROOM as u64);
    assert!(exporter.shutdown(Duration::from_secs(10)).in_time);
}
