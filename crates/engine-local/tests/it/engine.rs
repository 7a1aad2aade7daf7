//! Submitting, finishing, failing and dying.

use std::num::NonZeroU32;
use std::time::Duration;

use wayfare_engine::{AbortCause, Engine, FinishReason, RequestId, StepOutputs, SubmitError};
use wayfare_engine_local::QueueLimits;

use crate::rig::{Behaviour, Delivered, Rig};

#[test]
fn requests_run_together_and_end_at_their_limits() {
    let rig = Rig::new();
    rig.submit(1, &[5; 4], 3).unwrap();
    rig.permit_steps(3);
    let (tokens, finish) = rig.finish_of(1);
    assert_eq!((tokens, finish.reason), (3, FinishReason::Length));
    let times = finish.times;
    assert!(times.first_scheduled.unwrap() >= times.queued);
    assert!(times.last_token.unwrap() > times.first_token.unwrap());
    assert_eq!(rig.engine.stats().generation_tokens, 3);
    assert_eq!(rig.engine.stats().kv_blocks_used, 0);
    assert_eq!(rig.journeys(), ["r1: QUEUED SCHEDULED FIRST_TOKEN length"]);
}

#[test]
fn what_can_never_be_served_is_refused_at_once_and_leaves_no_core_span() {
    let rig = Rig::new();
    assert!(matches!(rig.submit(1, &[], 3), Err(SubmitError::InvalidPrompt(_))));
    assert!(matches!(rig.submit(2, &[100], 3), Err(SubmitError::InvalidPrompt(_))));
    assert!(matches!(
        rig.submit(3, &[5; 128], 3),
        Err(SubmitError::PromptTooLong { tokens: 128, limit: 128 })
    ));
    // Six usable blocks of 16 tokens.
    assert!(matches!(rig.submit(4, &[5; 90], 7), Err(SubmitError::NeverFits { tokens: 97, capacity: 96 })));
    rig.submit(5, &[5; 90], 6).unwrap();
    assert_eq!(rig.journeys(), ["r1:", "r2:", "r3:", "r4:"]);
    rig.permit_steps(10);
    assert_eq!(rig.finish_of(5).0, 6);
}

#[test]
fn an_abort_and_a_stop_string_end_a_request_within_a_step() {
    let rig = Rig::new();
    rig.submit(1, &[5; 4], 50).unwrap();
    rig.permit_steps(1);
    rig.next();
    rig.engine.abort(RequestId(1), AbortCause::ClientGone);
    rig.permit_steps(1);
    assert_eq!(rig.finish_of(1).1.reason, FinishReason::Abort);

    rig.submit(2, &[5; 4], 50).unwrap();
    rig.permit_steps(1);
    rig.next();
    rig.engine.finish(RequestId(2));
    rig.engine.finish(RequestId(2));
    rig.engine.abort(RequestId(2), AbortCause::ClientGone);
    rig.permit_steps(1);
    assert_eq!(rig.finish_of(2).1.reason, FinishReason::Stop);
    assert_eq!(
        rig.journeys(),
        ["r1: QUEUED SCHEDULED FIRST_TOKEN aborted", "r2: QUEUED SCHEDULED FIRST_TOKEN stopped"]
    );
}

#[test]
fn a_failed_step_ends_its_requests_and_the_engine_goes_on() {
    let rig = Rig::new();
    *rig.behaviour.lock() = Behaviour::Fail;
    rig.submit(1, &[5; 4], 50).unwrap();
    rig.permit_steps(1);
    assert_eq!(rig.finish_of(1).1.reason, FinishReason::Error);
    *rig.behaviour.lock() = Behaviour::Work;
    rig.submit(2, &[5; 4], 1).unwrap();
    rig.permit_steps(1);
    assert_eq!(rig.finish_of(2).1.reason, FinishReason::Length);
    assert!(rig.engine.fault().is_none());
}

#[test]
fn a_panic_ends_every_request_and_refuses_later_ones() {
    let rig = Rig::new();
    *rig.behaviour.lock() = Behaviour::Panic;
    // The first fills the step that panics; the others are queued behind it or still in the inbox.
    rig.submit(1, &[5; 64], 10).unwrap();
    rig.submit(2, &[5; 60], 10).unwrap();
    rig.submit(3, &[5; 60], 10).unwrap();
    rig.permit_steps(1);
    let mut ended = Vec::new();
    let fault = loop {
        match rig.next() {
            Delivered::Step(step) => {
                ended.extend(step.outputs.into_iter().map(|o| (o.id.0, o.finish.unwrap().reason)))
            }
            Delivered::Died(fault) => break fault,
        }
    };
    assert_eq!(ended, [(1, FinishReason::Error), (2, FinishReason::Error), (3, FinishReason::Error)]);
    assert_eq!(fault.message, "scripted panic");
    assert!(matches!(rig.submit(4, &[5], 1), Err(SubmitError::EngineDead(_))));
    assert!(rig.engine.fault().is_some());
    assert_eq!(rig.journeys(), ["r1: QUEUED SCHEDULED error", "r2: QUEUED error", "r3: QUEUED error", "r4:"]);
}

#[test]
fn stopping_aborts_what_is_in_flight_and_refuses_what_comes() {
    let rig = Rig::new();
    rig.submit(1, &[5; 4], 90).unwrap();
    rig.permit_steps(1);
    rig.next();
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| rig.engine.stop());
        // The engine is in a step; it reads that it is to stop when that step is done.
        while !stopping.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
            rig.permit_steps(1);
        }
    });
    assert_eq!(rig.finish_of(1).1.reason, FinishReason::Abort);
    assert!(matches!(rig.submit(2, &[5], 1), Err(SubmitError::ShuttingDown)));
    rig.engine.stop();
}

#[test]
fn a_burst_gets_exactly_as_many_places_as_the_queue_has() {
    const LIMIT: u64 = 3;
    let rig = Rig::with_limits(QueueLimits { requests: NonZeroU32::new(LIMIT as u32), tokens: None });
    for id in 1..=4 {
        // All run, one at a time out of the queue.
        rig.submit(id, &[5; 4], 12).unwrap();
        let is_running = |step: &StepOutputs| step.outputs.iter().any(|output| output.id == RequestId(id));
        loop {
            rig.permit_steps(1);
            match rig.next() {
                Delivered::Step(step) if is_running(&step) => break,
                Delivered::Step(_) => {}
                Delivered::Died(fault) => panic!("{fault}"),
            }
        }
    }
    // The engine stands still in a step of four, the most that run.
    let accepted: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (10..30_u64)
            .map(|id| {
                let rig = &rig;
                scope.spawn(move || match rig.submit(id, &[5; 4], 1) {
                    Ok(()) => Some(id),
                    Err(SubmitError::Overloaded { waiting }) => {
                        assert_eq!(waiting, LIMIT);
                        None
                    }
                    Err(other) => panic!("{other}"),
                })
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(accepted.len() as u64, LIMIT);
    // One that leaves the queue gives its place free; refused ones have taken none.
    rig.engine.abort(RequestId(accepted[0]), AbortCause::ClientGone);
    // One ends, and the abort is read before the other.
    rig.permit_steps(2);
    assert_eq!(rig.finish_of(accepted[0]).1.reason, FinishReason::Abort);
    rig.submit(50, &[5; 4], 1).unwrap();
    assert!(matches!(rig.submit(51, &[5; 4], 1), Err(SubmitError::Overloaded { waiting: LIMIT })));
    rig.permit_steps(40);
    assert_eq!(rig.finish_of(50).1.reason, FinishReason::Length);
    (60..60 + LIMIT).for_each(|id| rig.submit(id, &[5; 4], 1).unwrap());
}
