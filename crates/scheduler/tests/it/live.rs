//! What the live view sees of the scheduler. That it sees the reasons of waiting is checked after every step of every
//! other test, see [`Rig::check_shown`].

use wayfare_journey::{MonoNs, SequenceState};

use crate::rig::{Rig, config};

/// State, prompt tokens computed and tokens generated.
fn shown(rig: &Rig, id: u64) -> (SequenceState, u32, u32) {
    let view = rig.view(id);
    (view.state, view.progress.prefill_done, view.progress.decode_done)
}

#[test]
fn progress_is_seen_after_every_step() {
    let mut rig = Rig::new(config(4, 64, 40));
    rig.add(1, 100, 9);
    assert_eq!(shown(&rig, 1), (SequenceState::Queued, 0, 0));
    rig.step();
    assert_eq!(shown(&rig, 1), (SequenceState::Prefill, 64, 0));
    rig.step();
    assert_eq!(shown(&rig, 1), (SequenceState::Decode, 100, 1));
    rig.steps(3);
    assert_eq!(shown(&rig, 1), (SequenceState::Decode, 100, 4));
}

#[test]
fn a_preempted_sequence_is_seen_to_decode_again() {
    // Four usable blocks: the second sequence has to go, and comes back when the first has ended.
    let mut rig = Rig::new(config(4, 64, 5));
    rig.add(1, 30, 6);
    rig.add(2, 30, 9);
    rig.steps(3);
    assert_eq!(shown(&rig, 2), (SequenceState::Decode, 30, 3));
    rig.step();
    assert_eq!(shown(&rig, 2), (SequenceState::Preempted, 30, 3));
    rig.steps(3);
    assert_eq!(shown(&rig, 2), (SequenceState::Decode, 30, 4), "33 tokens were computed again in one step");
    assert_eq!(rig.view(2).num_preemptions, 1);
}

#[test]
fn the_board_tells_of_the_step_that_is_being_computed() {
    let mut rig = Rig::new(config(4, 64, 40));
    rig.add(1, 10, 9);
    let board = rig.board();
    assert_eq!(board.step().number, 0);
    rig.step();
    let step = board.step();
    assert_eq!((step.number, step.ended), (1, Some(rig.now)));
    let started = MonoNs(rig.now.0 + 5);
    rig.scheduler.schedule(started);
    let step = board.step();
    assert_eq!((step.number, step.started, step.ended), (2, started, None));
}
