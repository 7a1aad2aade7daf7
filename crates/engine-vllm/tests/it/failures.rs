//! Engine cores that end, in every way they can.

use serde_json::json;
use wayfare_engine::{Engine as _, FinishReason, SubmitError};

use crate::peer::Peer;
use crate::rig::{Delivered, Rig};

/// A request in flight ends with an error and a complete journey, the engine is known to be gone and why, and later
/// requests are refused.
fn check_death(end: impl FnOnce(&mut Peer), reason: &str) {
    let mut rig = Rig::new();
    rig.submit(1, &[10]).unwrap();
    let name = rig.peers[0].added();
    rig.peers[0].step(&json!([{ "request_id": name, "new_token_ids": [5] }]));
    assert_eq!(rig.next_output().tokens.to_vec(), [5]);
    end(&mut rig.peers[0]);
    let output = rig.next_output();
    assert_eq!(output.finish.unwrap().reason, FinishReason::Error);
    let Delivered::Died(fault) = rig.next() else { panic!("it lives") };
    assert!(fault.message.contains(reason), "{fault}");
    assert_eq!(rig.engine.fault().unwrap().message, fault.message);
    let refusal = rig.submit(2, &[10]);
    assert!(matches!(refusal, Err(SubmitError::EngineDead(_))), "{refusal:?}");
    let journey = rig.journey();
    let (_, core) = journey.cores().next().unwrap();
    assert_eq!(core.finish_status().unwrap().as_str(), "error");
    rig.engine.stop();
}

#[test]
fn a_crash_ends_its_requests() {
    check_death(Peer::kill, "its connection was closed");
}

#[test]
fn an_engine_that_says_it_is_dead_ends_its_requests_at_once() {
    check_death(|peer| peer.raw(b"ENGINE_CORE_DEAD"), "it says that it has failed");
}

#[test]
fn a_message_that_cannot_be_read_ends_its_requests() {
    check_death(|peer| peer.raw(&[0x98, 0x00, 0x91]), "a message of it cannot be read");
}

#[test]
fn fields_in_unknown_places_are_no_message() {
    // An output of 19 fields whose events are a number.
    let mut frame = vec![0x98, 0x00, 0x91, 0xdc, 0x00, 19];
    frame.extend([0xa1, b'x', 0x90, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0x05]);
    check_death(|peer| peer.raw(&frame), "events is a number and not an array");
}

#[test]
fn a_request_that_the_engine_fails_ends_alone() {
    let mut rig = Rig::with(1, &["--version", "0.33.0"]);
    rig.submit(1, &[10]).unwrap();
    rig.submit(2, &[20]).unwrap();
    let (first, second) = (rig.peers[0].added(), rig.peers[0].added());
    let error = json!({ "code": "validation_error", "message": "no such grammar", "retryable": false });
    rig.peers[0]
        .step(&json!([{ "request_id": first, "new_token_ids": [], "finish_reason": 3, "error": error }]));
    assert_eq!(rig.finish_of(1).1.reason, FinishReason::Error);
    rig.peers[0].step(&json!([{ "request_id": second, "new_token_ids": [5] }]));
    assert_eq!(rig.next_output().tokens.to_vec(), [5]);
    assert!(rig.engine.fault().is_none());
}

#[test]
fn a_stopped_engine_aborts_what_is_in_flight_and_says_so_to_the_engine_core() {
    let rig = Rig::new();
    rig.submit(1, &[10]).unwrap();
    let name = rig.peers[0].added();
    rig.engine.stop();
    assert_eq!(rig.next_output().finish.unwrap().reason, FinishReason::Abort);
    assert_eq!(rig.peers[0].expect("abort")["ids"], json!([name]));
    assert!(matches!(rig.submit(2, &[10]), Err(SubmitError::ShuttingDown)));
}
