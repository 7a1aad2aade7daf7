//! The requests in flight, as they can be seen from outside.

use proptest::prelude::*;
use wayfare_journey::{
    CoreEvent, CoreEventKind, IncomingHeaders, JourneyState, MonoNs, Phase, Progress, RequestLabel,
    ScheduleKind, SequenceState,
};

use crate::rig::{Rig, event, finished, preempted};

#[test]
fn a_request_can_be_followed_from_outside() {
    let rig = Rig::new(1.0);
    assert_eq!(rig.tracer.in_flight().count(), 0);
    let span = rig.admit();
    let journey = span.handle();
    let look = || {
        let cells: Vec<_> = rig.tracer.in_flight().collect();
        let [cell] = cells.as_slice() else { panic!("{} requests", cells.len()) };
        (cell.view().state, cell.sequences().map(|one| one.state).collect::<Vec<_>>())
    };
    assert_eq!(look(), (JourneyState::Receiving, vec![]));
    journey.identified(&RequestLabel::new("chatcmpl-1"));
    journey.body_complete(MonoNs(11));
    assert_eq!(look(), (JourneyState::Preparing, vec![]));
    let mut core = journey.open_cores(&[(7, 9)], MonoNs(12)).pop().unwrap();
    assert_eq!(look(), (JourneyState::Preparing, vec![SequenceState::Submitted]));
    journey.handed_to_core(MonoNs(13));
    core.record(event(CoreEventKind::Queued, 14));
    assert_eq!(look(), (JourneyState::Queued, vec![SequenceState::Queued]));
    let scheduled = CoreEventKind::Scheduled {
        kind: ScheduleKind::First,
        cached_tokens: 0,
        scheduled_tokens: 7,
        wait: None,
    };
    core.record(CoreEvent { phase: Phase::Prefill, ..event(scheduled, 15) });
    assert_eq!(look().1, [SequenceState::Prefill]);
    let progress = Progress { prefill_done: 7, decode_done: 1 };
    core.record(CoreEvent { progress, ..event(CoreEventKind::FirstToken, 16) });
    assert_eq!(look().1, [SequenceState::Decode]);
    core.record(CoreEvent { progress, ..preempted(17, 1) });
    assert_eq!(look().1, [SequenceState::Preempted]);

    let cell = rig.tracer.in_flight().next().unwrap();
    assert_eq!((cell.route(), cell.arrived()), ("/v1/test", MonoNs(10)));
    assert_eq!(cell.label().map(RequestLabel::as_str), Some("chatcmpl-1"));
    assert_eq!(cell.context().trace_id, span.context().trace_id);
    let seen = cell.sequences().next().unwrap();
    assert_eq!((seen.progress, seen.num_preemptions, seen.changed), (progress, 1, MonoNs(17)));
    assert_eq!((seen.prefill_total, seen.decode_max), (7, 9));

    core.finish(finished(18));
    assert_eq!(look(), (JourneyState::Delivering, vec![SequenceState::Finished]));
    span.complete(MonoNs(19));
    assert_eq!(rig.tracer.in_flight().count(), 0);
}

#[test]
fn a_request_stays_until_the_engine_has_let_go_of_it() {
    let rig = Rig::new(1.0);
    let span = rig.admit();
    let core = span.handle().open_cores(&[(1, 1)], MonoNs(12)).pop();
    drop(span);
    assert_eq!(rig.tracer.in_flight().next().unwrap().view().state, JourneyState::Abandoned);
    drop(core);
    assert_eq!(rig.tracer.in_flight().count(), 0);
}

proptest! {
    /// Whatever the mix of endings, on however many threads: at the end nobody is left.
    #[test]
    fn nothing_is_left_after_any_mix_of_endings(
        ends in prop::collection::vec((0_u8..4, prop::collection::vec(0_u8..4, 0..4)), 1..60),
        rate in 0.0_f64..=1.0,
        keep in prop::sample::select(vec!["", "preempted", "aborted,rate=0.5", "slow>1ns"]),
    ) {
        let rig = Rig::new(rate);
        rig.tracer.set_policy(wayfare_journey::SamplingPolicy::new(
            rate,
            wayfare_journey::TraceSampler::default(),
            keep.parse().unwrap(),
        ).unwrap());
        let mut waiting = Vec::new();
        for (api_end, core_ends) in &ends {
            let Some(span) = rig.tracer.admit(IncomingHeaders::default(), "/", MonoNs(1)).span else { continue };
            let totals = vec![(1, 1); core_ends.len()];
            for (mut core, end) in span.handle().open_cores(&totals, MonoNs(2)).into_iter().zip(core_ends) {
                core.record(event(CoreEventKind::Queued, 2));
                match end {
                    0 => core.finish(finished(3)),
                    1 => drop(core),
                    2 => core.withdraw(),
                    _ => waiting.push(core),
                }
            }
            match api_end {
                0 => span.complete(MonoNs(4)),
                1 => drop(span),
                2 => span.handle().departed(MonoNs(4)),
                _ => span.handle().failed(wayfare_journey::AbortReason::Timeout, "timeout", "late"),
            }
        }
        prop_assert_eq!(rig.tracer.in_flight().count() as u64, rig.tracer.counters().in_flight());
        std::thread::scope(|scope| { scope.spawn(move || drop(waiting)); });
        prop_assert_eq!(rig.tracer.counters().in_flight(), 0);
        prop_assert_eq!(rig.tracer.in_flight().count(), 0);
        let counters = rig.tracer.counters();
        prop_assert_eq!(rig.journeys().len() as u64, counters.recorded() - counters.discarded());
    }
}

#[test]
fn readers_and_writers_do_not_disturb_each_other() {
    let rig = Rig::new(1.0);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let span = rig.admit();
                        let cores = span.handle().open_cores(&[(1, 1); 2], MonoNs(11));
                        drop((cores, span));
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                for cell in rig.tracer.in_flight() {
                    assert_eq!(cell.route(), "/v1/test");
                    let _ = (cell.view().state, cell.sequences().count());
                }
            }
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(rig.tracer.in_flight().count(), 0);
    assert_eq!(rig.journeys().len(), 10_000);
}

#[test]
fn a_tracer_is_freed_with_its_last_request_and_a_kept_journey_keeps_nothing_else() {
    let rig = Rig::new(1.0);
    let clock = std::sync::Arc::downgrade(&rig.clock);
    let span = rig.admit();
    let cores = span.handle().open_cores(&[(1, 1)], MonoNs(11));
    let seen = rig.tracer.in_flight().next();
    span.complete(MonoNs(12));
    let Rig { tracer, clock: own_clock, .. } = rig;
    drop((tracer, own_clock));
    assert!(clock.upgrade().is_some(), "the open part still needs the tracer");
    drop(cores);
    assert!(clock.upgrade().is_none(), "the cell that is held does not");
    assert!(seen.is_some());
}
