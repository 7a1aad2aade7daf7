//! Pausing, resuming and resetting a running engine.

use std::num::NonZeroU64;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use wayfare_engine::{
    Engine, EngineCommand, EngineControl, EngineReply, FinishReason, PauseMode, SubmitError,
};
use wayfare_engine_local::QueueLimits;

use crate::rig::{Behaviour, Delivered, PATIENCE, Rig};

fn command(rig: &Rig, command: EngineCommand) -> Receiver<EngineReply> {
    let (tx, rx) = channel();
    let done = move |reply| {
        let _ = tx.send(reply);
    };
    rig.engine.command(command, Box::new(done));
    rx
}

fn carry_out(rig: &Rig, what: EngineCommand) -> EngineReply {
    command(rig, what).recv_timeout(PATIENCE).expect("the engine carries it out")
}

/// Submits a request and lets the engine compute its first step.
fn start(rig: &Rig, id: u64, prompt: &[u32], max_tokens: u32) {
    rig.submit(id, prompt, max_tokens).unwrap();
    rig.permit_steps(1);
    loop {
        let Delivered::Step(step) = rig.next() else { panic!("the engine died") };
        if step.stats.running == 1 {
            return;
        }
    }
}

#[test]
fn a_paused_engine_takes_requests_and_computes_nothing() {
    let rig = Rig::new();
    carry_out(&rig, EngineCommand::Pause(PauseMode::Keep));
    assert!(rig.engine.is_paused());
    rig.permit_steps(10);
    rig.submit(1, &[5; 4], 2).unwrap();
    // A command goes through the same inbox, so the request is in the queue when it is answered.
    carry_out(&rig, EngineCommand::ResetPrefixCache { preempt_running: false });
    let stats = rig.engine.stats();
    assert_eq!((stats.waiting, stats.running, stats.steps, stats.paused), (1, 0, 0, 1));
    carry_out(&rig, EngineCommand::Resume);
    assert!(!rig.engine.is_paused());
    assert_eq!(rig.finish_of(1).0, 2);
}

#[test]
fn a_pause_that_waits_is_done_when_nothing_runs() {
    let rig = Rig::new();
    start(&rig, 1, &[5; 4], 4);
    let paused = command(&rig, EngineCommand::Pause(PauseMode::Wait));
    rig.permit_steps(1);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(paused.try_recv(), Err(TryRecvError::Empty), "one is still running");
    rig.submit(2, &[5; 4], 1).unwrap();
    rig.permit_steps(5);
    assert_eq!(rig.finish_of(1).1.reason, FinishReason::Length);
    paused.recv_timeout(PATIENCE).expect("nothing runs any more");
    assert_eq!(rig.engine.stats().waiting, 1, "the second one waits");
    carry_out(&rig, EngineCommand::Resume);
    assert_eq!(rig.finish_of(2).0, 1);
}

#[test]
fn resuming_answers_whoever_waits_for_a_pause() {
    let rig = Rig::new();
    rig.submit(1, &[5; 4], 3).unwrap();
    let paused = command(&rig, EngineCommand::Pause(PauseMode::Wait));
    let resumed = command(&rig, EngineCommand::Resume);
    rig.permit_steps(10);
    paused.recv_timeout(PATIENCE).expect("nobody waits for ever");
    resumed.recv_timeout(PATIENCE).expect("carried out");
    assert_eq!(rig.finish_of(1).0, 3);
}

#[test]
fn a_pause_can_abort_what_is_in_flight() {
    let rig = Rig::new();
    carry_out(&rig, EngineCommand::Pause(PauseMode::Keep));
    rig.submit(1, &[5; 4], 3).unwrap();
    rig.submit(2, &[5; 4], 3).unwrap();
    let reply = carry_out(&rig, EngineCommand::Pause(PauseMode::Abort));
    assert_eq!(reply.aborted, 2);
    assert_eq!(rig.finish_of(1).1.reason, FinishReason::Abort);
    assert_eq!(rig.journeys(), ["r1: QUEUED aborted", "r2: QUEUED aborted"]);
}

#[test]
fn a_reset_can_preempt_what_is_running() {
    let rig = Rig::new();
    start(&rig, 1, &[5; 20], 6);
    let reset = command(&rig, EngineCommand::ResetPrefixCache { preempt_running: true });
    rig.permit_steps(1);
    assert_eq!(reset.recv_timeout(PATIENCE).unwrap().preempted, 1);
    rig.permit_steps(10);
    let (_, finish) = rig.finish_of(1);
    assert_eq!((finish.reason, finish.num_preemptions), (FinishReason::Length, 1));
    assert!(finish.ledger.recomputed_tokens >= 20, "{finish:?}");
}

#[test]
fn a_paused_engine_can_be_stopped_and_a_dead_one_answers_no_command() {
    let rig = Rig::new();
    carry_out(&rig, EngineCommand::Pause(PauseMode::Keep));
    rig.submit(1, &[5; 4], 3).unwrap();
    rig.engine.stop();
    assert_eq!(rig.finish_of(1).1.reason, FinishReason::Abort);
    assert!(command(&rig, EngineCommand::Resume).recv_timeout(PATIENCE).is_err());

    let rig = Rig::new();
    start(&rig, 1, &[5; 4], 3);
    *rig.behaviour.lock() = Behaviour::Panic;
    let waiting = command(&rig, EngineCommand::Pause(PauseMode::Wait));
    rig.permit_steps(1);
    assert!(waiting.recv_timeout(PATIENCE).is_err(), "dropped with the engine");
}

#[test]
fn the_queue_holds_so_many_prompt_tokens() {
    let rig = Rig::with_limits(QueueLimits { requests: None, tokens: NonZeroU64::new(50) });
    carry_out(&rig, EngineCommand::Pause(PauseMode::Keep));
    // An empty queue takes any.
    rig.submit(1, &[5; 60], 1).unwrap();
    let Err(SubmitError::TokensOverloaded { waiting, limit }) = rig.submit(2, &[5; 10], 1) else {
        panic!("there was no room");
    };
    assert_eq!((waiting, limit), (60, 50));
    carry_out(&rig, EngineCommand::Resume);
    rig.permit_steps(1);
    assert_eq!(rig.finish_of(1).0, 1);
    // One that was refused has left nothing behind.
    carry_out(&rig, EngineCommand::Pause(PauseMode::Keep));
    rig.submit(3, &[5; 25], 1).unwrap();
    rig.submit(4, &[5; 25], 1).unwrap();
    assert!(matches!(rig.submit(5, &[5; 1], 1), Err(SubmitError::TokensOverloaded { waiting: 50, .. })));
}
