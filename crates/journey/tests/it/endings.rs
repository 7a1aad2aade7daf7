//! Every way an API span can end.

use wayfare_journey::{AbortReason, ApiEnding, JourneyHandle, MonoNs};

use crate::rig::Rig;

fn reason(ending: &ApiEnding) -> Option<AbortReason> {
    match ending {
        ApiEnding::Departed { .. } => None,
        ApiEnding::Aborted { reason, .. } => Some(*reason),
    }
}

#[test]
fn a_complete_body_departs() {
    let rig = Rig::new(1.0);
    let mut span = rig.admit();
    span.respond(200);
    span.complete(MonoNs(50));
    assert_eq!(rig.ending(), ApiEnding::Departed { at: MonoNs(50) });
    assert_eq!(rig.journey().api().status, Some(200));
    assert_eq!(rig.journey().cell().arrived(), MonoNs(10));
}

#[test]
fn a_client_that_leaves_before_the_last_chunk_aborts_and_one_that_leaves_after_it_does_not() {
    let rig = Rig::new(1.0);
    rig.clock.set(70);
    drop(rig.admit());
    let ApiEnding::Aborted { at, reason, .. } = rig.ending() else { panic!("departed") };
    assert_eq!((at, reason), (MonoNs(70), AbortReason::ClientDisconnect));

    let rig = Rig::new(1.0);
    rig.clock.set(70);
    let span = rig.admit();
    span.handle().departed(MonoNs(60));
    span.handle().departed(MonoNs(65));
    drop(span);
    assert_eq!(rig.ending(), ApiEnding::Departed { at: MonoNs(60) });
    assert_eq!(rig.journey().api().ended, MonoNs(70));
}

#[test]
fn the_first_reported_failure_is_the_reason_even_when_the_body_ends_well() {
    let rig = Rig::new(1.0);
    let mut span = rig.admit();
    span.respond(200);
    span.handle().failed(AbortReason::EngineDead, "engine_dead", "gone");
    span.handle().failed(AbortReason::Timeout, "timeout", "late");
    span.complete(MonoNs(50));
    let ApiEnding::Aborted { reason, error_type, message, .. } = rig.ending() else { panic!("departed") };
    assert_eq!((reason, error_type, &*message), (AbortReason::EngineDead, "engine_dead", "gone"));
}

#[test]
fn an_error_status_that_nobody_explained_is_still_an_abort() {
    for (status, expected) in [
        (404, AbortReason::ValidationError),
        (429, AbortReason::Overloaded),
        (503, AbortReason::Overloaded),
        (504, AbortReason::Timeout),
        (500, AbortReason::Exception),
    ] {
        let rig = Rig::new(1.0);
        let mut span = rig.admit();
        span.respond(status);
        span.complete(MonoNs(50));
        assert_eq!(reason(&rig.ending()), Some(expected), "{status}");
    }
}

#[test]
fn a_handle_that_is_off_does_nothing_and_asks_for_nothing() {
    let handle = JourneyHandle::off();
    handle.described(|| unreachable!("attributes are not prepared for an untraced request"));
    handle.used(|| unreachable!("usage is not prepared for an untraced request"));
    handle.departed(MonoNs(1));
    assert!(!handle.is_on());
    assert!(handle.open_cores(&[(1, 1)], MonoNs(1)).is_empty());
}
