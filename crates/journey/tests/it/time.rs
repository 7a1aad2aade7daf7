//! Time only goes forward, whatever the wall clock does.

use proptest::prelude::*;
use wayfare_journey::{ApiEnding, CoreEventKind, MonoNs, ScheduleKind, WallAnchor};

use crate::rig::{Rig, event, finished};

proptest! {
    /// The wall clock is read once. However far it was off then, and wherever it is stepped to later, intervals
    /// in wall time are those of the monotonic clock.
    #[test]
    fn intervals_in_wall_time_are_monotonic_ones(
        anchor_mono in 0_u64..1 << 60,
        anchor_wall in 1_u64 << 61..1 << 62,
        steps in prop::collection::vec(0_u64..1 << 40, 1..20),
    ) {
        let anchor = WallAnchor::new(MonoNs(anchor_mono), anchor_wall);
        let rig = Rig::new(1.0);
        let mut now = 10;
        let span = rig.admit();
        let mut core = span.handle().open_cores(&[(1, 1)], MonoNs(now)).pop().unwrap();
        core.record(event(CoreEventKind::Queued, now));
        for step in &steps {
            now += step;
            rig.clock.set(now);
            let kind = ScheduleKind::First;
            core.record(event(CoreEventKind::Scheduled { kind, cached_tokens: 0, scheduled_tokens: 1, wait: None }, now));
        }
        drop(core);
        drop(span);
        let journey = rig.journey();
        let (_, record) = journey.cores().next().unwrap();
        for pair in record.events.windows(2) {
            let interval = anchor.unix_ns(pair[1].at).checked_sub(anchor.unix_ns(pair[0].at));
            prop_assert_eq!(interval, Some(pair[1].at.since(pair[0].at)), "no negative interval");
        }
        let (arrived, ended) = (journey.cell().arrived(), journey.api().ended);
        let length = anchor.unix_ns(ended).checked_sub(anchor.unix_ns(arrived));
        prop_assert_eq!(length, Some(journey.duration_ns()));
    }
}

#[test]
fn a_span_does_not_end_before_it_began_nor_before_its_last_event() {
    let rig = Rig::new(1.0);
    rig.admit().complete(MonoNs(3));
    assert_eq!(rig.journey().api().ended, MonoNs(10));
    assert_eq!(rig.ending(), ApiEnding::Departed { at: MonoNs(10) });

    let rig = Rig::new(1.0);
    let span = rig.admit();
    span.handle().departed(MonoNs(40));
    span.complete(MonoNs(30));
    assert_eq!(rig.journey().api().ended, MonoNs(40));

    // The clock of whoever drops a sequence may lag behind the last event's.
    let rig = Rig::new(1.0);
    let span = rig.admit();
    let mut core = span.handle().open_cores(&[(1, 1), (1, 1)], MonoNs(50));
    core[0].record(event(CoreEventKind::Queued, 60));
    rig.clock.set(20);
    drop(core);
    span.complete(MonoNs(70));
    let ends: Vec<_> = rig.journey().cores().map(|(_, core)| (core.started(), core.ended())).collect();
    assert_eq!(ends, [(MonoNs(60), MonoNs(60)), (MonoNs(50), MonoNs(50))]);
}

#[test]
fn a_finish_may_come_at_the_moment_of_the_event_before() {
    let rig = Rig::new(1.0);
    let span = rig.admit();
    let mut core = span.handle().open_cores(&[(1, 1)], MonoNs(10)).pop().unwrap();
    core.record(event(CoreEventKind::Queued, 11));
    core.finish(finished(11));
    span.complete(MonoNs(11));
    assert_eq!(rig.journey().duration_ns(), 1);
}
