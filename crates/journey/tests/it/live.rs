//! What the live view sees: every request while it runs, none that has ended, and how far each has come.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use wayfare_journey::{
    CoreEventKind, EngineBoard, JourneyCell, JourneyState, MonoNs, Progress, QueueWaits, RequestKey,
    ScheduleKind, SequenceKey, SequenceState, WaitNow, WaitReason,
};

use crate::rig::{Memory, Rig, event, finished, preempted, scheduled};

fn state_since(cell: &JourneyCell) -> (JourneyState, MonoNs) {
    let view = cell.view();
    (view.state, view.since)
}

#[test]
fn a_request_that_is_sampled_out_is_shown_and_not_recorded() {
    let rig = Rig::live(0.0, None);
    let mut span = rig.admit();
    let journey = span.handle();
    assert!(journey.sampled_trace_id().is_none());
    let cores = journey.open_cores(&[(7, 9), (7, 9)], MonoNs(12));
    let cell = rig.tracer.in_flight().next().unwrap();
    assert!(!cell.head_sampled());
    for (mut core, withdraws) in cores.into_iter().zip([false, true]) {
        core.record(event(CoreEventKind::Queued, 13));
        core.record(scheduled(ScheduleKind::First, 14));
        assert_eq!(cell.view().state, JourneyState::Prefill);
        if withdraws {
            core.withdraw()
        } else {
            drop(core)
        }
        assert_eq!(cell.sequences().next().unwrap().state, SequenceState::Finished);
    }
    span.respond(200);
    span.complete(MonoNs(20));
    assert_eq!(rig.tracer.in_flight().count(), 0);
    let counters = rig.tracer.counters();
    assert_eq!((counters.recorded(), counters.sampled_out(), counters.in_flight()), (0, 1, 0));
    assert_eq!((rig.journeys().len(), counters.discarded()), (0, 0));
    let ends = rig.ends();
    assert_eq!((ends.len(), ends[0].api().status, ends[0].duration_ns()), (1, Some(200), 10));
    assert_eq!(ends[0].cores().count(), 0, "no events are kept of it");
}

#[test]
fn progress_is_seen_after_each_step_and_decoding_again_after_a_recomputation() {
    for recorder in [None, Some(Memory::for_records(4).recorder())] {
        let rig = Rig::live(1.0, recorder);
        let span = rig.admit();
        let mut core = span.handle().open_cores(&[(7, 9)], MonoNs(12)).pop().unwrap();
        let cell = rig.tracer.in_flight().next().unwrap();
        let look = || {
            let seen = cell.sequences().next().unwrap();
            (seen.state, seen.progress.prefill_done, seen.progress.decode_done, seen.changed.0)
        };
        let progress = |prefill_done, decode_done| Progress { prefill_done, decode_done };
        core.record(event(CoreEventKind::Queued, 13));
        core.record(scheduled(ScheduleKind::First, 14));
        core.advance(progress(5, 0), false, MonoNs(15));
        assert_eq!(look(), (SequenceState::Prefill, 5, 0, 14));
        core.record(wayfare_journey::CoreEvent {
            progress: progress(7, 1),
            ..event(CoreEventKind::FirstToken, 1_000_000_016)
        });
        core.advance(progress(7, 1), true, MonoNs(1_000_000_016));
        core.advance(progress(7, 3), true, MonoNs(2_000_000_016));
        assert_eq!(look(), (SequenceState::Decode, 7, 3, 1_000_000_016));
        let seen = cell.sequences().next().unwrap();
        assert_eq!(seen.cached_tokens, 4);
        assert_eq!(seen.tokens_per_second(MonoNs(2_000_000_016)), Some(2.0));
        core.record(preempted(3_000_000_000, 1));
        let resumed = scheduled(ScheduleKind::Resume, 3_000_000_001);
        core.record(wayfare_journey::CoreEvent { num_preemptions: 1, ..resumed });
        core.advance(progress(7, 3), false, MonoNs(3_000_000_002));
        assert_eq!(look(), (SequenceState::Prefill, 7, 3, 3_000_000_001));
        core.advance(progress(7, 4), true, MonoNs(3_000_000_003));
        assert_eq!(look(), (SequenceState::Decode, 7, 4, 3_000_000_003));
        assert_eq!(cell.sequences().next().unwrap().num_preemptions, 1);
        assert_eq!(state_since(&cell), (JourneyState::Decode, MonoNs(3_000_000_003)));
    }
}

#[test]
fn a_request_of_several_sequences_is_where_the_furthest_of_them_is() {
    let rig = Rig::live(1.0, None);
    let span = rig.admit();
    let journey = span.handle();
    let mut cores = journey.open_cores(&[(7, 9); 3], MonoNs(12));
    journey.handed_to_core(MonoNs(13));
    let cell = rig.tracer.in_flight().next().unwrap();
    assert_eq!(state_since(&cell), (JourneyState::Queued, MonoNs(12)));
    cores[2].record(event(CoreEventKind::Queued, 14));
    cores[2].record(scheduled(ScheduleKind::First, 15));
    assert_eq!(state_since(&cell), (JourneyState::Prefill, MonoNs(15)));
    cores[2].record(event(CoreEventKind::FirstToken, 16));
    cores[1].record(event(CoreEventKind::FirstToken, 17));
    assert_eq!(state_since(&cell), (JourneyState::Decode, MonoNs(16)));
    cores[2].record(preempted(18, 1));
    assert_eq!(state_since(&cell), (JourneyState::Decode, MonoNs(17)));
    cores.into_iter().zip(20..).for_each(|(core, at)| core.finish(finished(at)));
    assert_eq!(state_since(&cell), (JourneyState::Delivering, MonoNs(22)));
}

#[test]
fn what_is_inferred_is_marked_until_the_engine_says_more() {
    let recorder = Memory::for_records(4);
    for recorder in [None, Some(recorder.recorder())] {
        let rig = Rig::live(1.0, recorder);
        let span = rig.admit();
        let journey = span.handle();
        let mut core = journey.open_cores(&[(7, 9)], MonoNs(12)).pop().unwrap();
        journey.handed_to_core(MonoNs(13));
        let cell = rig.tracer.in_flight().next().unwrap();
        let look = || {
            let view = cell.view();
            (view.state, view.since.0, view.is_inferred, view.sequences[0].is_inferred)
        };
        assert_eq!(look(), (JourneyState::Queued, 12, false, false));
        core.infer_state(SequenceState::Prefill, MonoNs(14));
        assert_eq!(look(), (JourneyState::Prefill, 14, true, true));
        core.record(event(CoreEventKind::Queued, 13));
        core.record(scheduled(ScheduleKind::First, 14));
        core.record(event(CoreEventKind::FirstToken, 15));
        assert_eq!(look(), (JourneyState::Decode, 15, false, false));
        let progress = Progress { prefill_done: 7, decode_done: 2 };
        core.advance(progress, true, MonoNs(16));
        assert_eq!(look(), (JourneyState::Decode, 15, false, false));
        core.infer_state(SequenceState::Preempted, MonoNs(17));
        assert_eq!(look(), (JourneyState::Preempted, 17, true, true));
        // A token refutes it.
        core.advance(progress, true, MonoNs(18));
        assert_eq!(look(), (JourneyState::Decode, 18, false, false));
        core.finish(finished(20));
        assert_eq!(rig.tracer.in_flight().next().unwrap().view().sequences[0].num_preemptions, 0);
    }
    // What died with the process can tell as much.
    let memory = Memory::for_records(4);
    let rig = Rig::live(1.0, Some(memory.recorder()));
    let span = rig.admit();
    let core = span.handle().open_cores(&[(7, 9)], MonoNs(12)).pop().unwrap();
    span.handle().handed_to_core(MonoNs(13));
    core.infer_state(SequenceState::Prefill, MonoNs(14));
    let recorded = memory.recording().requests;
    assert_eq!((recorded[0].state, recorded[0].is_inferred), (JourneyState::Prefill, true));
}

#[test]
fn why_a_sequence_waits_follows_from_the_board() {
    let board = EngineBoard::default();
    let key = |request| SequenceKey { request: RequestKey(request), index: 0 };
    let wait = |reason, blocker: Option<u64>| WaitNow { reason, blocker: blocker.map(RequestKey) };
    let waits = QueueWaits {
        step: 3,
        head: Some(key(2)),
        head_wait: wait(WaitReason::KvBlocks, Some(1)),
        rest_wait: wait(WaitReason::HeadOfLine, Some(2)),
    };
    board.show_waits(&waits);
    assert_eq!(board.waits(), waits);

    let rig = Rig::live(1.0, None);
    let span = rig.admit();
    let mut core = span.handle().open_cores(&[(7, 9)], MonoNs(12)).pop().unwrap();
    let cell = rig.tracer.in_flight().next().unwrap();
    let of = |request, waits: QueueWaits| waits.of(key(request), &cell.sequences().next().unwrap());
    let next_step = Some(wait(WaitReason::NextStep, None));
    assert_eq!(of(2, waits), next_step, "it lies in the inbox");
    let unknown = wait(WaitReason::Unknown, None);
    let silent = QueueWaits { step: 0, head: None, head_wait: unknown, rest_wait: unknown };
    assert_eq!(of(2, silent), Some(unknown), "the engine gives no reasons");
    core.record(event(CoreEventKind::Queued, 14));
    assert_eq!(of(3, waits), next_step, "no step has seen it");
    let paused = wait(WaitReason::Paused, None);
    assert_eq!(of(3, QueueWaits { rest_wait: paused, ..waits }), Some(paused), "a pause needs no step");
    let later = QueueWaits { step: 4, ..waits };
    assert_eq!(of(2, later), Some(waits.head_wait));
    assert_eq!(of(3, later), Some(waits.rest_wait));
    core.record(scheduled(ScheduleKind::First, 15));
    assert_eq!(of(3, later), None);
    core.record(preempted(16, 1));
    assert_eq!(of(3, waits), Some(waits.rest_wait));
}

/// Requests that come and go on several threads, while another looks at them in two ways.
#[test]
fn no_running_request_is_ever_forgotten_and_no_finished_one_ever_shown() {
    let memory = Memory::for_records(64);
    let rig = Rig::live(0.5, Some(memory.recorder()));
    let (running, ended) = (Mutex::new(HashSet::new()), Mutex::new(HashSet::new()));
    let is_over = AtomicBool::new(false);
    let one_life = |round: u64| {
        let mut span = rig.admit();
        let journey = span.handle();
        let mut cores = journey.open_cores(&vec![(7, 9); 1 + round as usize % 3], MonoNs(12));
        let key = cores[0].key().request;
        running.lock().insert(key);
        for core in &mut cores {
            core.record(event(CoreEventKind::Queued, 13));
            core.advance(Progress { prefill_done: 7, decode_done: 1 }, true, MonoNs(14));
        }
        span.respond(200);
        running.lock().remove(&key);
        if round.is_multiple_of(2) {
            span.complete(MonoNs(20));
            drop(cores);
        } else {
            drop(cores);
            drop(span);
        }
        ended.lock().insert(key);
        // A report that comes too late must not meet whoever has the place by now.
        journey.body_complete(MonoNs(30));
        journey.handed_to_core(MonoNs(30));
    };
    let mut looks = 0;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3).map(|_| scope.spawn(|| (0..4_000).for_each(one_life))).collect();
        let looking = scope.spawn(|| {
            let mut looks = 0;
            while !is_over.load(Ordering::Relaxed) {
                let ended_before = ended.lock().clone();
                let running_before = running.lock().clone();
                let listed: HashSet<_> = rig.tracer.in_flight().map(|cell| cell.key()).collect();
                let recorded: HashSet<_> =
                    memory.recording().requests.iter().map(|request| request.key).collect();
                let running_after = running.lock().clone();
                for key in running_before.intersection(&running_after) {
                    assert!(listed.contains(key) && recorded.contains(key), "{key:?} is forgotten");
                }
                let dead: Vec<_> = ended_before.iter().filter(|key| listed.contains(*key)).collect();
                assert!(dead.is_empty(), "{dead:?} have ended");
                let dead: Vec<_> = ended_before.iter().filter(|key| recorded.contains(*key)).collect();
                assert!(dead.is_empty(), "{dead:?} have ended and are recorded");
                looks += 1;
            }
            looks
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        is_over.store(true, Ordering::Relaxed);
        looks = looking.join().unwrap();
    });
    assert!(looks > 10, "{looks}");
    assert_eq!(rig.tracer.in_flight().count(), 0);
    let left = memory.recording();
    assert_eq!((left.requests.len(), left.damaged_records, left.without_room), (0, 0, 0));
    assert_eq!(rig.ends().len(), 12_000);
}
