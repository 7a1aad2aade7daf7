//! What is kept, how much of it, and that it is let go of.

use std::sync::{Arc, Weak};

use wayfare_console::{RecentJourneys, StoreLimits};
use wayfare_journey::{Clock, FanOut, HeadSampler, IncomingHeaders, MonoNs, Tracer};
use wayfare_testkit::{JourneyStore, VirtualClock};

use crate::rig::{Made, Rig};

fn kept(rig: &Rig) -> Vec<u64> {
    let newest = rig.store.reader().newest(usize::MAX, |_| true);
    newest.iter().map(|one| one.made().unwrap().cell().arrived().0 / 1_000_000).collect()
}

#[test]
fn the_last_journeys_are_kept_newest_first() {
    let rig = Rig::with_limits(StoreLimits { max_journeys: 3, max_bytes: usize::MAX });
    for arrived_ms in 1..=5 {
        rig.make(Made { arrived_ms, ..Made::default() });
    }
    assert_eq!(kept(&rig), [5, 4, 3]);
    assert_eq!(rig.store.reader().usage().journeys, 3);
}

#[test]
fn bytes_are_bounded_whatever_the_number() {
    let rig = Rig::new();
    rig.make(Made::default());
    let (one, count) = (rig.store.reader().usage().bytes, 20);
    assert!((500..4_000).contains(&one), "{one} bytes for a plain journey");

    let rig = Rig::with_limits(StoreLimits { max_journeys: 1_000, max_bytes: one * count + one / 2 });
    for arrived_ms in 1..=50 {
        rig.make(Made { arrived_ms, ..Made::default() });
    }
    let in_use = rig.store.reader().usage();
    assert_eq!((in_use.journeys, in_use.bytes), (count, one * count));
    assert_eq!(kept(&rig), (31..=50).rev().collect::<Vec<_>>());
    // A long journey takes the place of several plain ones.
    rig.make(Made { arrived_ms: 51, preemptions: 1_000, ..Made::default() });
    let in_use = rig.store.reader().usage();
    assert!(in_use.journeys < count && in_use.bytes <= one * count + one / 2, "{in_use:?}");
    assert_eq!(kept(&rig)[0], 51);
}

#[test]
fn one_journey_that_is_larger_than_the_store_is_not_kept() {
    let rig = Rig::with_limits(StoreLimits { max_journeys: 10, max_bytes: 100 });
    rig.make(Made::default());
    let usage = rig.store.reader().usage();
    assert_eq!((usage.journeys, usage.bytes, usage.lost, usage.newest_serial), (0, 0, 0, 1));
}

#[test]
fn a_full_queue_loses_new_journeys_and_counts_them() {
    let rig = Rig::with_limits(StoreLimits { max_journeys: usize::MAX, max_bytes: usize::MAX });
    let span = rig.tracer.admit(IncomingHeaders::default(), "/", MonoNs(1)).span.unwrap();
    drop(span);
    let journey = rig.store.reader().newest(1, |_| true).remove(0).made().unwrap().clone();
    let sink = rig.store.sink();
    (0..100_000).for_each(|_| sink.accept(journey.clone()));
    let in_use = rig.store.reader().usage();
    assert_eq!(in_use.journeys as u64 + in_use.lost, 100_001);
}

#[test]
fn what_arrives_is_taken_in_even_if_nobody_reads() {
    let rig = Rig::with_limits(StoreLimits { max_journeys: 2, max_bytes: usize::MAX });
    let clocks: Vec<Weak<VirtualClock>> = (0..5)
        .map(|_| {
            // The clock tells whether the journey's tracer is still held.
            let clock = Arc::new(VirtualClock::at(MonoNs(1)));
            let all = HeadSampler::new(1.0).unwrap();
            let tracer = Tracer::new(clock.clone(), all, rig.store.sink());
            drop(tracer.admit(IncomingHeaders::default(), "/", MonoNs(1)).span);
            Arc::downgrade(&clock)
        })
        .collect();
    assert!(clocks.iter().all(|clock| clock.upgrade().is_none()), "a kept journey keeps no tracer");
    assert_eq!(rig.store.reader().newest(usize::MAX, |_| true).len(), 2);
}

#[test]
fn everything_is_freed_when_the_server_ends() {
    let rig = Rig::new();
    let clock = Arc::new(VirtualClock::at(MonoNs(1)));
    let all = HeadSampler::new(1.0).unwrap();
    let tracer = Tracer::new(clock.clone(), all, Arc::new(FanOut::new([rig.store.sink()])));
    let routes = rig.routes();
    let admit = || tracer.admit(IncomingHeaders::default(), "/", MonoNs(1)).span.unwrap();
    drop(admit());
    let late = admit();
    let reader = rig.store.reader();
    assert_eq!(reader.usage().journeys, 1);
    drop(rig);
    assert_eq!(reader.usage().journeys, 0, "freed, whoever still has a reader");
    drop(late);
    assert_eq!(reader.usage().journeys, 0, "nothing is taken in any more");
    let weak = Arc::downgrade(&(clock as Arc<dyn Clock>));
    assert!(weak.upgrade().is_some());
    drop((tracer, routes, reader));
    assert!(weak.upgrade().is_none(), "no cycle keeps the tracer");
}

#[test]
fn journeys_end_on_many_threads_while_others_read() {
    let rig = Rig::with_limits(StoreLimits { max_journeys: 100, max_bytes: usize::MAX });
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..500).for_each(|_| rig.make(Made::default())));
        }
        for _ in 0..200 {
            let newest = rig.store.reader().newest(10, |_| true);
            assert!(newest.len() <= 10);
            assert!(newest.iter().all(|one| one.made().unwrap().cores().count() == 1));
        }
    });
    let in_use = rig.store.reader().usage();
    assert_eq!((in_use.journeys, in_use.lost), (100, 0));
}

#[test]
fn every_sink_behind_a_fan_out_gets_every_journey() {
    let (store, other) = (RecentJourneys::start(StoreLimits::default()).unwrap(), JourneyStore::default());
    let all = HeadSampler::new(1.0).unwrap();
    let sinks = FanOut::new([store.sink(), Arc::new(other.clone()) as _]);
    let tracer = Tracer::new(Arc::new(VirtualClock::at(MonoNs(1))), all, Arc::new(sinks));
    (0..10).for_each(|_| drop(tracer.admit(IncomingHeaders::default(), "/", MonoNs(1)).span));
    assert_eq!((store.reader().usage().journeys, other.len()), (10, 10));
}
