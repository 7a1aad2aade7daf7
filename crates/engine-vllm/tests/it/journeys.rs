//! What the events of an engine core tell of a request's journey.

use serde_json::json;
use wayfare_engine::{AbortCause, Engine as _, RequestId};
use wayfare_journey::{
    ClockSource, CoreEventKind, CoreRecord, FinishedJourney, InferredEvents, Phase, WaitReason,
};

use crate::rig::{Rig, mono};

const QUEUED: u32 = 1;
const SCHEDULED: u32 = 2;
const PREEMPTED: u32 = 3;

pub(crate) fn core(journey: &FinishedJourney) -> &CoreRecord {
    journey.cores().next().unwrap().1
}

/// The kinds of the events in order, as words.
pub(crate) fn kinds(core: &CoreRecord) -> Vec<&'static str> {
    let word = |kind: &CoreEventKind| match kind {
        CoreEventKind::Queued => "QUEUED",
        CoreEventKind::Scheduled { kind, .. } => kind.as_str(),
        CoreEventKind::FirstToken => "FIRST_TOKEN",
        CoreEventKind::Preempted { .. } => "PREEMPTED",
        CoreEventKind::Finished { status } => status.as_str(),
    };
    core.events.iter().map(|event| word(&event.kind)).collect()
}

/// The rules that hold for every core span.
pub(crate) fn check_rules(core: &CoreRecord) {
    let events = &core.events;
    assert!(matches!(events.first().unwrap().kind, CoreEventKind::Queued));
    assert!(matches!(events.last().unwrap().kind, CoreEventKind::Finished { .. }));
    assert!(events.is_sorted_by_key(|event| event.at), "times: {events:?}");
    assert!(events.is_sorted_by_key(|event| event.step), "steps: {events:?}");
    assert!(events.is_sorted_by_key(|event| event.progress.prefill_done), "progress: {events:?}");
    let mut preemptions = 0;
    for event in events {
        preemptions += u32::from(matches!(event.kind, CoreEventKind::Preempted { .. }));
        assert_eq!(event.num_preemptions, preemptions);
    }
    assert_eq!(core.ledger().total_ns(), core.ended().since(core.started()), "the ledger adds up");
}

#[test]
fn a_plain_journey_has_the_times_of_the_engine_core() {
    let mut rig = Rig::new();
    rig.submit(1, &[10; 40]).unwrap();
    let name = rig.peers[0].added();
    let queued = rig.peers[0].now();
    let (scheduled, first, last) = (queued + 0.001, queued + 0.002, queued + 0.003);
    let prefill = json!({ "num_prompt_tokens": 40, "num_computed_tokens": 24, "num_cached_tokens": 16 });
    // Everything is in the past when it is told.
    std::thread::sleep(std::time::Duration::from_millis(10));
    let output = json!({
        "request_id": name, "new_token_ids": [5], "prefill_stats": prefill,
        "events": [[QUEUED, queued], [SCHEDULED, scheduled]],
    });
    rig.peers[0].tell(&json!({ "do": "outputs", "outputs": [output], "timestamp": first }));
    let output = json!({ "request_id": name, "new_token_ids": [6], "finish_reason": 1 });
    rig.peers[0].tell(&json!({ "do": "outputs", "outputs": [output], "timestamp": last }));
    let (tokens, finish) = rig.finish_of(1);
    assert_eq!(tokens, [5, 6]);
    assert_eq!(finish.times.queued, mono(queued));
    assert_eq!(finish.times.first_scheduled, Some(mono(scheduled)));
    assert_eq!((finish.times.first_token, finish.times.last_token), (Some(mono(first)), Some(mono(last))));

    let journey = rig.journey();
    let core = core(&journey);
    check_rules(core);
    assert_eq!(kinds(core), ["QUEUED", "FIRST", "FIRST_TOKEN", "length"]);
    let times: Vec<_> = core.events.iter().map(|event| event.at).collect();
    assert_eq!(times, [queued, scheduled, first, last].map(mono));
    let shown: Vec<_> = core.events.iter().map(|event| (event.step, event.phase)).collect();
    assert_eq!(shown, [(0, Phase::Waiting), (1, Phase::Prefill), (1, Phase::Decode), (2, Phase::Decode)]);
    let CoreEventKind::Scheduled { cached_tokens, scheduled_tokens, .. } = core.events[1].kind else {
        panic!()
    };
    assert_eq!((cached_tokens, scheduled_tokens), (16, 0), "how large the first chunk is, nobody says");
    let ledger = core.ledger();
    assert_eq!(ledger.queue.get(WaitReason::Unknown), mono(scheduled).since(mono(queued)));
    assert_eq!(ledger.prefill_ns, mono(first).since(mono(scheduled)));
    assert_eq!(ledger.decode_ns, mono(last).since(mono(first)));
    assert_eq!(ledger.cached_tokens, 16);
    // From the moment it was handed over to that at which the engine core had it in its queue.
    assert_eq!(
        journey.ledger().admit_ns,
        mono(queued).since(core.opened),
        "the admission is the engine core's own"
    );
    assert_eq!(core.clock_source, Some(ClockSource::EngineSameHost));
    assert_eq!(core.inferred, InferredEvents::default());
}

#[test]
fn a_preemption_is_told_with_the_token_behind_it() {
    let mut rig = Rig::new();
    rig.submit(1, &[10; 8]).unwrap();
    let name = rig.peers[0].added();
    let start = rig.peers[0].now();
    let at = |tenths: u32| start + f64::from(tenths) * 1e-4;
    std::thread::sleep(std::time::Duration::from_millis(10));
    let steps = [
        (2, json!({ "new_token_ids": [5], "events": [[QUEUED, at(0)], [SCHEDULED, at(1)]] })),
        (3, json!({ "new_token_ids": [6] })),
        (9, json!({ "new_token_ids": [7], "events": [[PREEMPTED, at(4)], [SCHEDULED, at(7)]] })),
        (10, json!({ "new_token_ids": [8], "finish_reason": 0, "stop_reason": 8 })),
    ];
    for (end, mut output) in steps {
        output["request_id"] = json!(name);
        rig.peers[0].tell(&json!({ "do": "outputs", "outputs": [output], "timestamp": at(end) }));
    }
    let (_, finish) = rig.finish_of(1);
    assert_eq!(finish.num_preemptions, 1);
    assert_eq!(rig.engine.stats().preemptions, 1);
    let journey = rig.journey();
    let core = core(&journey);
    check_rules(core);
    assert_eq!(kinds(core), ["QUEUED", "FIRST", "FIRST_TOKEN", "PREEMPTED", "RESUME", "stopped"]);
    let span = |from: u32, to: u32| mono(at(to)).since(mono(at(from)));
    let ledger = core.ledger();
    assert_eq!((ledger.preempted_ns, ledger.recompute_ns), (span(4, 7), span(7, 9)));
    assert_eq!(ledger.prefill_ns, span(1, 2));
}

#[test]
fn the_prompt_of_another_request_in_the_step_is_interference() {
    let mut rig = Rig::new();
    rig.submit(1, &[10; 8]).unwrap();
    let first = rig.peers[0].added();
    let start = rig.peers[0].now();
    let at = |tenths: u32| start + f64::from(tenths) * 1e-4;
    std::thread::sleep(std::time::Duration::from_millis(10));
    let events = json!([[QUEUED, at(0)], [SCHEDULED, at(1)]]);
    let output = json!({ "request_id": first, "new_token_ids": [5], "events": events });
    rig.peers[0].tell(&json!({ "do": "outputs", "outputs": [output], "timestamp": at(2) }));
    rig.next_step();
    rig.submit(2, &[20; 3]).unwrap();
    let second = rig.peers[0].added();
    let outputs = json!([
        { "request_id": first, "new_token_ids": [6], "finish_reason": 1 },
        { "request_id": second, "new_token_ids": [7], "events": [[QUEUED, at(2)], [SCHEDULED, at(2)]] },
    ]);
    rig.peers[0].tell(&json!({ "do": "outputs", "outputs": outputs, "timestamp": at(10) }));
    let (_, finish) = rig.finish_of(1);
    // Three of the step's four tokens were the other's prompt.
    let step_ns = mono(at(10)).since(mono(at(2)));
    assert_eq!(finish.ledger.interference_ns, step_ns * 3 / 4);
    assert_eq!(finish.ledger.decode_ns, step_ns - step_ns * 3 / 4);
}

#[test]
fn an_engine_core_without_events_still_gives_a_complete_journey() {
    let mut rig = Rig::new();
    rig.submit(1, &[10]).unwrap();
    let name = rig.peers[0].added();
    rig.peers[0].step(&json!([{ "request_id": name, "new_token_ids": [5], "finish_reason": 1 }]));
    let (_, finish) = rig.finish_of(1);
    assert_eq!(finish.times.first_scheduled, None, "nobody knows");
    let journey = rig.journey();
    check_rules(core(&journey));
    assert_eq!(core(&journey).inferred, InferredEvents { queued: true, finished: false });
    assert_eq!(kinds(core(&journey)), ["QUEUED", "FIRST_TOKEN", "length"]);
}

#[test]
fn a_request_that_was_aborted_before_anything_was_told_has_waited() {
    let rig = Rig::new();
    rig.submit(1, &[10]).unwrap();
    rig.peers[0].added();
    rig.engine.abort(RequestId(1), AbortCause::ClientGone);
    let finish = rig.next_output().finish.unwrap();
    assert_eq!(finish.times.first_token, None);
    let journey = rig.journey();
    check_rules(core(&journey));
    assert_eq!(core(&journey).inferred, InferredEvents { queued: true, finished: true });
    assert_eq!(kinds(core(&journey)), ["QUEUED", "aborted"]);
    assert_eq!(finish.ledger.queue.get(WaitReason::Unknown), finish.ledger.total_ns());
}

#[test]
fn a_preemption_of_which_only_the_end_is_told_is_a_resumption_all_the_same() {
    let mut rig = Rig::new();
    rig.submit(1, &[10; 8]).unwrap();
    let name = rig.peers[0].added();
    rig.peers[0].step(&json!([{ "request_id": name, "new_token_ids": [5] }]));
    rig.next_step();
    let now = rig.peers[0].now();
    let events = json!([[PREEMPTED, now - 2e-4], [SCHEDULED, now - 1e-4]]);
    let last = json!({ "request_id": name, "new_token_ids": [6], "events": events, "finish_reason": 1 });
    rig.peers[0].step(&json!([last]));
    let (_, finish) = rig.finish_of(1);
    assert_eq!((finish.times.first_scheduled, finish.num_preemptions), (None, 1));
    let journey = rig.journey();
    check_rules(core(&journey));
    assert_eq!(kinds(core(&journey)), ["QUEUED", "FIRST_TOKEN", "PREEMPTED", "RESUME", "length"]);
}
