//! What is seen of requests while they are in flight: exact as far as outputs tell, and marked where it is concluded.

use serde_json::{Value, json};
use wayfare_engine::{AbortCause, Engine as _, RequestId};
use wayfare_journey::{JourneyState, SequenceState};

use crate::rig::{Delivered, Rig};

const QUEUED: u32 = 1;
const SCHEDULED: u32 = 2;
const PREEMPTED: u32 = 3;

/// A step with these outputs, behind which so many run and wait; seen when this returns.
fn step(rig: &mut Rig, outputs: &Value, running: u64, waiting: u64) {
    let stats = json!({ "num_running_reqs": running, "num_waiting_reqs": waiting });
    rig.peers[0].tell(&json!({ "do": "outputs", "outputs": outputs, "stats": stats }));
    let delivered = rig.next();
    assert!(matches!(delivered, Delivered::Step(_)), "{delivered:?}");
}

fn submit(rig: &Rig, id: u64) -> String {
    rig.submit(id, &[10; 8]).unwrap();
    rig.peers[0].added()
}

/// Where each of these requests is, with a question mark where that is concluded.
fn seen(rig: &Rig, ids: &[u64]) -> Vec<String> {
    let one = |id: &u64| {
        let view = rig.view(*id);
        let [sequence] = &view.sequences[..] else { panic!("{view:?}") };
        // Until something has been computed, the request is where its API side is, which these tests leave out.
        assert_eq!(view.is_inferred, sequence.is_inferred && view.state != JourneyState::Preparing);
        format!("{}{}", sequence.state.as_str(), if sequence.is_inferred { "?" } else { "" })
    };
    ids.iter().map(one).collect()
}

#[test]
fn who_runs_and_who_waits_follows_from_how_many_do() {
    let mut rig = Rig::new();
    let first = submit(&rig, 1);
    assert_eq!(seen(&rig, &[1]), ["submitted?"]);
    let second = submit(&rig, 2);
    submit(&rig, 3);
    // A chunk of the first prompt; the third came too late to be counted.
    step(&mut rig, &json!([]), 1, 1);
    assert_eq!(seen(&rig, &[1, 2, 3]), ["prefill?", "queued?", "submitted?"]);
    // Its token is told, with all that went before it.
    let now = rig.peers[0].now();
    let events = json!([[QUEUED, now - 0.002], [SCHEDULED, now - 0.001]]);
    step(&mut rig, &json!([{ "request_id": first, "new_token_ids": [5], "events": events }]), 2, 1);
    assert_eq!(seen(&rig, &[1, 2, 3]), ["decode", "prefill?", "queued?"]);
    // The second was put back to make room.
    step(&mut rig, &json!([{ "request_id": first, "new_token_ids": [6] }]), 1, 2);
    assert_eq!(seen(&rig, &[1, 2, 3]), ["decode", "queued?", "queued?"]);
    let ended = json!([{ "request_id": first, "new_token_ids": [7], "finish_reason": 1 }]);
    step(&mut rig, &ended, 2, 0);
    assert_eq!(seen(&rig, &[2, 3]), ["prefill?", "prefill?"]);
    // The client of the third has left; the second has its token.
    rig.engine.abort(RequestId(3), AbortCause::ClientGone);
    rig.next_output();
    step(&mut rig, &json!([{ "request_id": second, "new_token_ids": [5] }]), 1, 0);
    assert_eq!(seen(&rig, &[2]), ["decode"]);
    submit(&rig, 4);
    step(&mut rig, &json!([{ "request_id": second, "new_token_ids": [6] }]), 2, 0);
    assert_eq!(seen(&rig, &[2, 4]), ["decode", "prefill?"]);
}

#[test]
fn a_preemption_is_seen_before_it_is_told() {
    let mut rig = Rig::new();
    let (first, second) = (submit(&rig, 1), submit(&rig, 2));
    let both = |first_token: u32, second_token: u32| {
        json!([
            { "request_id": first, "new_token_ids": [first_token] },
            { "request_id": second, "new_token_ids": [second_token] },
        ])
    };
    let alone = |token: u32| json!([{ "request_id": first, "new_token_ids": [token] }]);
    step(&mut rig, &both(5, 6), 2, 0);
    step(&mut rig, &alone(7), 1, 1);
    assert_eq!(seen(&rig, &[1, 2]), ["decode", "preempted?"]);
    assert_eq!(rig.view(2).sequences[0].num_preemptions, 0, "the engine has said nothing of it");
    step(&mut rig, &alone(8), 1, 1);
    assert_eq!(seen(&rig, &[1, 2]), ["decode", "preempted?"]);
    // It is computed again, in chunks.
    step(&mut rig, &alone(9), 2, 0);
    assert_eq!(seen(&rig, &[1, 2]), ["decode", "prefill?"]);
    let now = rig.peers[0].now();
    let events = json!([[PREEMPTED, now - 0.002], [SCHEDULED, now - 0.001]]);
    let outputs = json!([{ "request_id": second, "new_token_ids": [7], "events": events }]);
    step(&mut rig, &outputs, 2, 0);
    assert_eq!(seen(&rig, &[1, 2]), ["decode", "decode"]);
    assert_eq!(rig.view(2).sequences[0].num_preemptions, 1);
    // And once more, with nobody else silent: the other one this time.
    let outputs = json!([{ "request_id": second, "new_token_ids": [8] }]);
    step(&mut rig, &outputs, 1, 1);
    assert_eq!(seen(&rig, &[1, 2]), ["preempted?", "decode"]);
}

#[test]
fn what_was_concluded_wrongly_is_refuted_by_the_next_token() {
    let mut rig = Rig::new();
    let names: Vec<String> = (1..=3).map(|id| submit(&rig, id)).collect();
    let outputs = |ids: &[usize]| {
        Value::from_iter(ids.iter().map(|id| json!({ "request_id": names[id - 1], "new_token_ids": [5] })))
    };
    step(&mut rig, &outputs(&[1, 2, 3]), 3, 0);
    // One of two was preempted, and the other has had nothing to say: the later one is taken for it.
    step(&mut rig, &outputs(&[1]), 2, 1);
    assert_eq!(seen(&rig, &[1, 2, 3]), ["decode", "decode", "preempted?"]);
    step(&mut rig, &outputs(&[1, 3]), 2, 1);
    assert_eq!(seen(&rig, &[1, 2, 3]), ["decode", "preempted?", "decode"]);
    assert_eq!(rig.view(3).sequences[0].state, SequenceState::Decode);
}

#[test]
fn nobody_is_taken_to_run_where_priorities_decide() {
    let mut rig = Rig::new();
    submit(&rig, 1);
    let mut urgent = rig.request(2, &[10; 8]);
    urgent.priority = -1;
    rig.engine.submit(urgent).unwrap();
    rig.peers[0].added();
    step(&mut rig, &json!([]), 1, 1);
    assert_eq!(seen(&rig, &[1, 2]), ["queued?", "queued?"], "one of them is computed");
    step(&mut rig, &json!([]), 2, 0);
    assert_eq!(seen(&rig, &[1, 2]), ["prefill?", "prefill?"]);
}

#[test]
fn numbers_that_cannot_be_are_no_harm() {
    let mut rig = Rig::new();
    let name = submit(&rig, 1);
    step(&mut rig, &json!([]), u64::MAX, u64::MAX);
    assert_eq!(seen(&rig, &[1]), ["prefill?"]);
    step(&mut rig, &json!([{ "request_id": name, "new_token_ids": [5] }]), 0, 7);
    assert_eq!(seen(&rig, &[1]), ["decode"], "it was heard in this step");
    step(&mut rig, &json!([{ "request_id": name, "new_token_ids": [6], "finish_reason": 1 }]), 9, 9);
}

#[test]
fn without_numbers_nothing_is_concluded() {
    let mut rig = Rig::new();
    let (first, _) = (submit(&rig, 1), submit(&rig, 2));
    rig.peers[0].step(&json!([{ "request_id": first, "new_token_ids": [5] }]));
    rig.next_output();
    assert_eq!(seen(&rig, &[1, 2]), ["decode", "submitted?"]);
}
