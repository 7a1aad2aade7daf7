//! What a flight recorder leaves behind.

use proptest::prelude::*;
use wayfare_journey::{
    BadRecording, CoreEventKind, EngineTotals, FlightRecorder, IncomingHeaders, JourneyState, MonoNs,
    Progress, QueueWaits, RecordedWait, Recording, RequestAttributes, RequestLabel, ScheduleKind,
    SequenceState, WaitNow, WaitReason, WallAnchor,
};

use crate::rig::{Memory, Rig, event, finished, scheduled};

#[test]
fn the_recording_tells_what_the_live_view_told() {
    let memory = Memory::for_records(8);
    let rig = Rig::live(1.0, Some(memory.recorder()));
    let span = rig.admit();
    let journey = span.handle();
    let look = || {
        let (recording, cells) = (memory.recording(), rig.tracer.in_flight().collect::<Vec<_>>());
        assert_eq!((recording.requests.len(), cells.len()), (1, 1));
        let request = recording.requests[0].clone();
        let view = cells[0].view();
        assert_eq!((request.state, request.since), (view.state, view.since));
        let views: Vec<_> = request.sequences.iter().map(|sequence| sequence.view).collect();
        assert_eq!(views, view.sequences);
        request
    };
    let request = look();
    assert_eq!((request.state, request.request_id, request.model), (JourneyState::Receiving, None, None));
    assert_eq!((request.trace_id, request.span_id), (span.context().trace_id, span.span_id()));
    assert_eq!((request.route.as_deref(), request.arrived), (Some("/v1/test"), MonoNs(10)));
    journey.identified(&RequestLabel::new("chatcmpl-ä1"));
    journey.body_complete(MonoNs(4_000));
    journey.described(|| RequestAttributes { request_model: "tiny".into(), ..RequestAttributes::default() });
    let request = look_at_state(&memory);
    assert_eq!(
        (request.state, request.since),
        (JourneyState::Preparing, MonoNs(3_010)),
        "whole microseconds"
    );
    assert_eq!(request.request_id.as_deref(), Some("chatcmpl-ä1"));
    assert_eq!(request.model.as_deref(), Some("tiny"));
    let mut cores = journey.open_cores(&[(7, 9), (7, 9)], MonoNs(5_000));
    journey.handed_to_core(MonoNs(6_000));
    assert_eq!(look().state, JourneyState::Queued);
    for core in &mut cores {
        core.record(event(CoreEventKind::Queued, 7_000));
        core.record(scheduled(ScheduleKind::First, 8_000));
    }
    cores[1].advance(Progress { prefill_done: 3, decode_done: 0 }, false, MonoNs(9_000));
    let request = look();
    assert_eq!(request.state, JourneyState::Prefill);
    assert_eq!(request.sequences[1].view.progress.prefill_done, 3);
    cores.into_iter().for_each(|core| core.finish(finished(10_000)));
    assert_eq!(look().state, JourneyState::Delivering);
    span.complete(MonoNs(11_000));
    assert_eq!(memory.recording().requests, []);
}

fn look_at_state(memory: &Memory) -> wayfare_journey::RecordedRequest {
    memory.recording().requests[0].clone()
}

#[test]
fn the_recording_tells_what_the_engine_did_and_why_others_waited() {
    let memory = Memory::for_records(8);
    let rig = Rig::live(0.0, Some(memory.recorder()));
    let spans = [rig.admit(), rig.admit()];
    let mut cores: Vec<_> = spans
        .iter()
        .zip(["cmpl-a", "cmpl-b"])
        .map(|(span, id)| {
            span.handle().identified(&RequestLabel::new(id));
            span.handle().open_cores(&[(7, 9)], MonoNs(12)).pop().unwrap()
        })
        .collect();
    cores.iter_mut().for_each(|core| core.record(event(CoreEventKind::Queued, 20)));
    cores[0].record(scheduled(ScheduleKind::First, 30));
    let board = rig.tracer.board();
    board.begin_step(4, MonoNs(40));
    let blocker = Some(cores[0].key().request);
    board.show_waits(&QueueWaits {
        step: 4,
        head: Some(cores[1].key()),
        head_wait: WaitNow { reason: WaitReason::KvBlocks, blocker },
        rest_wait: WaitNow { reason: WaitReason::HeadOfLine, blocker: None },
    });
    let totals = EngineTotals { running: 1, waiting: 1, kv_blocks_used: 5, ..EngineTotals::default() };
    board.show_totals(&totals);
    rig.tracer.recorder().unwrap().alive(MonoNs(1_000));

    let recording = memory.recording();
    assert_eq!(recording.process_id, 77);
    assert_eq!((recording.started, recording.last_alive), (MonoNs(5), MonoNs(1_000)));
    assert_eq!(recording.anchor, WallAnchor::new(MonoNs(5), 1_000));
    assert_eq!(recording.engine, totals);
    assert_eq!((recording.step.number, recording.step.started, recording.step.ended), (4, MonoNs(40), None));
    let [running, waiting] = &recording.requests[..] else { panic!("{recording:?}") };
    assert_eq!((running.state, running.sequences[0].wait.clone()), (JourneyState::Prefill, None));
    let because = RecordedWait { reason: WaitReason::KvBlocks, blocker: Some("cmpl-a".to_owned()) };
    assert_eq!(waiting.sequences[0].wait, Some(because));
    assert!(!recording.has_ended_in_order);
    rig.tracer.recorder().unwrap().end(MonoNs(2_000));
    assert!(memory.recording().has_ended_in_order);
}

#[test]
fn who_finds_no_room_is_counted_and_still_shown_live() {
    let memory = Memory::for_records(3);
    let rig = Rig::live(1.0, Some(memory.recorder()));
    let mut open = Vec::new();
    for _ in 0..4 {
        let span = rig.admit();
        let core = span.handle().open_cores(&[(7, 9)], MonoNs(12)).pop().unwrap();
        open.push((span, core));
    }
    // Two records for the first, one for the second, none for its sequence, none for the others.
    let recording = memory.recording();
    assert_eq!((recording.requests.len(), recording.without_room), (2, 5));
    assert_eq!(rig.tracer.in_flight().count(), 4);
    for (_, core) in &mut open {
        core.record(event(CoreEventKind::Queued, 13));
    }
    let states = rig.tracer.in_flight().map(|cell| cell.sequences().next().unwrap().state);
    assert_eq!(states.collect::<Vec<_>>(), [SequenceState::Queued; 4]);
    drop(open);
    assert_eq!(memory.recording().requests, []);
    let again = rig.admit();
    assert_eq!(memory.recording().requests.len(), 1);
    drop(again);
}

#[test]
fn a_long_id_is_cut_and_says_so() {
    let memory = Memory::for_records(2);
    let rig = Rig::live(1.0, Some(memory.recorder()));
    let span = rig.admit();
    span.handle().identified(&RequestLabel::new(&format!("cmpl-{}", "é".repeat(200))));
    let request = look_at_state(&memory);
    assert!(request.is_request_id_cut);
    assert!(request.request_id.unwrap().starts_with("cmpl-éééé"));
}

#[test]
fn what_is_no_recording_is_refused() {
    let memory = Memory::for_records(2);
    let _recorder = memory.recorder();
    let whole = memory.bytes();
    assert!(Recording::read(&whole).is_ok());
    assert_eq!(Recording::read(b""), Err(BadRecording::Foreign));
    assert_eq!(Recording::read(b"{\"resourceSpans\": []}"), Err(BadRecording::Foreign));
    let expected = FlightRecorder::bytes(2) as u64;
    let found = expected - 1;
    assert_eq!(Recording::read(&whole[..found as usize]), Err(BadRecording::CutOff { expected, found }));
    assert!(matches!(Recording::read(&whole[..100]), Err(BadRecording::CutOff { .. })));
    assert!(Recording::read(&whole[..8]).is_err());
    let mut other = whole.clone();
    other[8..12].copy_from_slice(&9_u32.to_ne_bytes());
    assert_eq!(Recording::read(&other), Err(BadRecording::OtherVersion { found: 9 }));
    let mut damaged = whole;
    damaged[24] ^= 1;
    assert_eq!(Recording::read(&damaged), Err(BadRecording::Damaged));
}

/// A recording of requests in several states.
fn busy() -> Vec<u8> {
    let memory = Memory::for_records(12);
    let rig = Rig::live(1.0, Some(memory.recorder()));
    let mut open = Vec::new();
    for number in 0..4 {
        let span =
            rig.tracer.admit(IncomingHeaders::default(), "/v1/test", MonoNs(10 + number)).span.unwrap();
        span.handle().identified(&RequestLabel::new("cmpl-1"));
        let mut cores = span.handle().open_cores(&[(7, 9); 2][..number as usize % 3], MonoNs(12));
        cores.iter_mut().for_each(|core| core.record(scheduled(ScheduleKind::First, 20)));
        open.push((span, cores));
    }
    let bytes = memory.bytes();
    drop(open);
    bytes
}

proptest! {
    #[test]
    fn no_bytes_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40), cut: prop::sample::Index) {
        let mut bytes = busy();
        let length = bytes.len();
        for (index, value) in changes {
            bytes[index.index(length)] = value;
        }
        let _ = Recording::read(&bytes);
        let _ = Recording::read(&bytes[..cut.index(length)]);
    }

    /// Damage behind the head costs what it met, and is noticed or harmless.
    #[test]
    fn damage_to_a_record_costs_no_other(place in 0_usize..12 * 320) {
        let mut bytes = busy();
        let whole = Recording::read(&bytes).unwrap();
        let record = 4096 + place / 320 * 320;
        bytes[4096 + place] ^= 0x55;
        let read = Recording::read(&bytes).unwrap();
        let changed = whole.requests.iter().filter(|request| !read.requests.contains(request)).count();
        prop_assert!(changed <= 1, "{changed} changed by byte {place} of record at {record}");
    }
}
