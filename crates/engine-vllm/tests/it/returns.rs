//! Engine cores that are lost, and started again by whoever started them.

use serde_json::json;
use wayfare_engine::{Engine as _, EngineCommand, EngineControl as _, FinishReason, PauseMode, SubmitError};
use wayfare_engine_vllm::AttachOptions;
use wayfare_testkit::wait_until;

use crate::peer::{Peer, free_ports};
use crate::rig::{PATIENCE, Rig, options};

/// So many ranks that are taken back, and the port at which they say hello.
fn ranks(count: u16) -> (Rig, u16) {
    let port = free_ports();
    let peers = (0..count).map(|rank| start(port, rank, count, &[])).collect();
    (Rig::over(AttachOptions { takes_back: true, ..options(port, count) }, peers), port)
}

fn start(port: u16, rank: u16, count: u16, arguments: &[&str]) -> Peer {
    let (rank, count) = (rank.to_string(), count.to_string());
    Peer::start(port, &[&["--rank", &rank, "--ranks", &count], arguments].concat())
}

#[test]
fn a_rank_that_is_started_again_gets_requests_again() {
    let (mut rig, port) = ranks(2);
    rig.submit(1, &[10]).unwrap();
    rig.submit(2, &[20]).unwrap();
    let other = rig.peers[1].added();
    rig.peers[0].kill();
    assert_eq!(rig.next_output().finish.unwrap().reason, FinishReason::Error);
    assert_eq!(rig.engine.stats().kv_blocks_total, 64);
    // Larger than before, in another version.
    rig.peers[0] = start(port, 0, 2, &["--num-gpu-blocks", "129", "--version", "0.33.0"]);
    wait_until(PATIENCE, || rig.engine.stats().kv_blocks_total == 64 + 128);
    // It has nothing to do, so the next is its.
    rig.submit(3, &[30]).unwrap();
    let name = rig.peers[0].added();
    rig.peers[0].step(&json!([{ "request_id": name, "new_token_ids": [5], "finish_reason": 1 }]));
    let output = rig.next_output();
    assert_eq!((output.id.0, output.finish.unwrap().reason), (3, FinishReason::Length));
    // The other one has gone on all the time.
    rig.peers[1].step(&json!([{ "request_id": other, "new_token_ids": [6], "finish_reason": 1 }]));
    assert_eq!(rig.next_output().finish.unwrap().reason, FinishReason::Length);
    assert_eq!(rig.engine.stats().steps, 2);
}

#[test]
fn when_all_are_lost_there_is_a_fault_until_one_is_back() {
    let (mut rig, port) = ranks(1);
    rig.submit(1, &[10]).unwrap();
    rig.peers[0].added();
    rig.peers[0].kill();
    assert_eq!(rig.next_output().finish.unwrap().reason, FinishReason::Error);
    let fault = rig.engine.fault().unwrap();
    assert!(fault.message.contains("its connection was closed"), "{fault}");
    assert!(matches!(rig.submit(2, &[10]), Err(SubmitError::EngineDead(_))));
    rig.peers[0] = start(port, 0, 1, &[]);
    wait_until(PATIENCE, || rig.engine.fault().is_none());
    rig.submit(3, &[10]).unwrap();
    let name = rig.peers[0].added();
    rig.peers[0].step(&json!([{ "request_id": name, "new_token_ids": [5] }]));
    assert_eq!(rig.next_output().tokens.to_vec(), [5]);
    // And again.
    rig.peers[0].raw(b"ENGINE_CORE_DEAD");
    assert_eq!(rig.next_output().finish.unwrap().reason, FinishReason::Error);
    rig.peers[0].kill();
    rig.peers[0] = start(port, 0, 1, &[]);
    wait_until(PATIENCE, || rig.engine.fault().is_none());
    rig.submit(4, &[10]).unwrap();
    rig.peers[0].added();
}

#[test]
fn a_rank_that_comes_back_with_other_settings_gets_nothing() {
    let (mut rig, port) = ranks(1);
    rig.peers[0].kill();
    wait_until(PATIENCE, || rig.engine.fault().is_some());
    for other in
        [&["--max-model-len", "128"][..], &["--ready", r#"{"block_size": 32}"#], &["--version", "0.99.0"]]
    {
        rig.peers[0] = start(port, 0, 1, other);
        rig.peers[0].expect("ready");
        // As long as one that is taken needs by far.
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(rig.engine.fault().is_some(), "{other:?}");
        rig.peers[0].kill();
    }
    rig.peers[0] = start(port, 0, 1, &[]);
    wait_until(PATIENCE, || rig.engine.fault().is_none());
}

#[test]
fn a_rank_that_comes_back_to_a_paused_server_is_paused() {
    let (mut rig, port) = ranks(1);
    let (tx, done) = std::sync::mpsc::channel();
    rig.engine.command(EngineCommand::Pause(PauseMode::Keep), Box::new(move |reply| tx.send(reply).unwrap()));
    let call = rig.peers[0].expect("utility");
    rig.peers[0].tell(&json!({ "do": "answer", "call_id": call["call_id"] }));
    done.recv_timeout(PATIENCE).unwrap();
    rig.peers[0].kill();
    wait_until(PATIENCE, || rig.engine.fault().is_some());
    rig.peers[0] = start(port, 0, 1, &[]);
    let call = rig.peers[0].expect("utility");
    assert_eq!((&call["method"], &call["args"]), (&json!("pause_scheduler"), &json!(["keep", false])));
}
