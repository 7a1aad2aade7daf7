use super::*;

const DECODE: StepWork = StepWork { tokens: 1, prompt_tokens: 0, recomputed_tokens: 0 };

fn prefill(tokens: u32) -> StepWork {
    StepWork { tokens, prompt_tokens: tokens, recomputed_tokens: 0 }
}

/// A step of `total` tokens, `prefill` of them for prompts.
fn step(previous_end: u64, start: u64, end: u64, prefill: u32, total: u32) -> StepTimes {
    StepTimes::new(MonoNs(previous_end), MonoNs(start), MonoNs(end), prefill, total)
}

/// Queued at 100, scheduled at 130.
fn scheduled() -> LedgerMeter {
    let mut meter = LedgerMeter::start(MonoNs(100));
    let mut waits = WaitTimes::default();
    waits.add(WaitReason::TokenBudget, 20);
    waits.add(WaitReason::NextStep, 10);
    meter.scheduled_first(&waits, 0, MonoNs(130));
    meter
}

#[test]
fn a_plain_life_is_queue_prefill_and_decode() {
    let mut meter = scheduled();
    meter.stepped(&step(120, 130, 180, 10, 10), prefill(10));
    meter.stepped(&step(180, 185, 200, 0, 4), DECODE);
    let ledger = meter.ledger();
    assert_eq!(ledger.queue.get(WaitReason::TokenBudget), 20);
    assert_eq!(ledger.queue.main_reason(), Some(WaitReason::TokenBudget));
    assert_eq!((ledger.prefill_ns, ledger.decode_ns, ledger.interference_ns), (50, 20, 0));
    assert_eq!(ledger.total_ns(), 100);
}

#[test]
fn interference_is_the_share_of_the_step_that_was_prefill_of_others() {
    let mut meter = scheduled();
    meter.stepped(&step(120, 130, 180, 10, 10), prefill(10));
    // 20 ns of step, 3 of 4 tokens prefill; the 5 ns before it are decode.
    meter.stepped(&step(180, 185, 205, 3, 4), DECODE);
    let ledger = meter.ledger();
    assert_eq!((ledger.decode_ns, ledger.interference_ns), (10, 15));
    assert_eq!(ledger.total_ns(), 105);
}

#[test]
fn steps_that_leave_a_running_sequence_out_are_waits_or_interference() {
    let mut meter = scheduled();
    meter.stepped(&step(120, 130, 180, 10, 10), prefill(10));
    // The step that ended at 300 had nothing for it.
    meter.stepped(&step(300, 310, 330, 10, 10), prefill(10));
    assert_eq!((meter.ledger().prefill_ns, meter.ledger().prefill_wait_ns), (50 + 30, 120));
    meter.stepped(&step(400, 400, 410, 0, 1), DECODE);
    assert_eq!((meter.ledger().decode_ns, meter.ledger().interference_ns), (10, 70));
    assert_eq!(meter.ledger().total_ns(), 310);
}

#[test]
fn what_was_computed_before_is_recompute_by_its_share_of_the_tokens() {
    let mut meter = scheduled();
    meter.stepped(&step(120, 130, 180, 10, 10), prefill(10));
    meter.idled(MonoNs(185), false);
    meter.resumed(MonoNs(285));
    let again = StepWork { tokens: 12, prompt_tokens: 3, recomputed_tokens: 9 };
    meter.stepped(&step(280, 285, 325, 12, 12), again);
    meter.recomputed(9);
    let ledger = meter.ledger();
    assert_eq!((ledger.preempted_ns, ledger.recompute_ns), (100, 30));
    assert_eq!((ledger.prefill_ns, ledger.prefill_wait_ns), (50 + 10, 5));
    assert_eq!((ledger.recomputed_tokens, ledger.total_ns()), (9, 225));
}

#[test]
fn the_time_of_a_pause_is_named_so() {
    let mut meter = scheduled();
    meter.stepped(&step(120, 130, 180, 10, 10), prefill(10));
    meter.held(1_000);
    meter.stepped(&step(1_180, 1_190, 1_200, 0, 1), DECODE);
    let ledger = meter.ledger();
    assert_eq!((ledger.queue.get(WaitReason::Paused), ledger.decode_ns), (1_000, 20));
    assert_eq!(ledger.total_ns(), 1_100);
}

#[test]
fn a_cut_takes_from_the_end() {
    let mut meter = scheduled();
    meter.stepped(&step(120, 130, 180, 10, 10), prefill(10));
    meter.stepped(&step(180, 180, 220, 3, 4), DECODE);
    let ledger = *meter.ledger();
    assert_eq!((ledger.decode_ns, ledger.interference_ns), (10, 30));
    let cut = ledger.without_last(20);
    assert_eq!((cut.decode_ns, cut.interference_ns, cut.prefill_ns), (5, 15, 50));
    let cut = ledger.without_last(60);
    assert_eq!((cut.decode_ns, cut.interference_ns, cut.prefill_ns), (0, 0, 30));
    for ns in 0..200 {
        assert_eq!(ledger.without_last(ns).total_ns(), 120_u64.saturating_sub(ns), "{ns} cut off");
    }
}

#[test]
fn the_moments_of_a_request_cut_its_whole_life() {
    let mut meter = scheduled();
    meter.stepped(&step(120, 130, 180, 10, 10), prefill(10));
    let moments = |ended| RequestMoments {
        arrived: MonoNs(10),
        body_complete: Some(MonoNs(30)),
        submitted: Some(MonoNs(90)),
        ended: MonoNs(ended),
    };
    let ledger = |ended| Ledger::new(&moments(ended), Some((MonoNs(100), MonoNs(180), meter.ledger())));
    let whole = ledger(200);
    assert_eq!((whole.receive_ns, whole.prepare_ns, whole.admit_ns, whole.deliver_ns), (20, 60, 10, 20));
    assert_eq!(whole.core, *meter.ledger());
    // The client left while the prompt was computed, in the queue, before it was queued, before the body was in.
    assert_eq!(ledger(150).core.prefill_ns, 20);
    assert_eq!(ledger(110).core.queue.total(), 10);
    assert_eq!((ledger(95).admit_ns, ledger(95).core.total_ns()), (5, 0));
    assert_eq!((ledger(20).receive_ns, ledger(20).prepare_ns), (10, 0));
    for ended in 0..250 {
        assert_eq!(ledger(ended).total_ns(), ended.max(10) - 10, "ended at {ended}");
    }
}

#[test]
fn a_request_that_the_engine_never_had_was_received_and_prepared() {
    let moments = RequestMoments {
        arrived: MonoNs(10),
        body_complete: Some(MonoNs(30)),
        submitted: None,
        ended: MonoNs(50),
    };
    let refused = Ledger::new(&moments, None);
    assert_eq!((refused.receive_ns, refused.prepare_ns, refused.total_ns()), (20, 20, 40));
    let unread = Ledger::new(&RequestMoments { body_complete: None, ..moments }, None);
    assert_eq!((unread.receive_ns, unread.total_ns()), (40, 40));
}
