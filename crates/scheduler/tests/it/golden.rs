//! Schedules written out, step by step.

use expect_test::{Expect, expect};
use wayfare_engine::{FinishReason, Terminator};
use wayfare_scheduler::{Scheduler, SchedulerConfigError};

use crate::rig::{END_OF_TEXT, Rig, config};

fn check(actual: &str, expected: &Expect) {
    expected.assert_eq(actual);
}

#[test]
fn a_long_prompt_is_computed_in_chunks_of_the_budget() {
    let mut rig = Rig::new(config(4, 256, 200));
    rig.add(1, 1000, 3);
    check(
        &rig.steps(7),
        &expect![[r#"
            1: 1[0..256]
            2: 1[256..512]
            3: 1[512..768]
            4: 1[768..1000]*
            5: 1[1000..1001]*
            6: 1[1001..1002]*
            7:
        "#]],
    );
}

#[test]
fn running_sequences_go_first_and_the_rest_of_the_budget_admits() {
    let mut rig = Rig::new(config(4, 64, 200));
    rig.add(1, 10, 8);
    rig.step();
    rig.add(2, 100, 8);
    rig.add(3, 5, 8);
    check(
        &rig.steps(3),
        &expect![[r#"
            2: 1[10..11]* 2[0..63]
            3: 1[11..12]* 2[63..100]* 3[0..5]*
            4: 1[12..13]* 2[100..101]* 3[5..6]*
        "#]],
    );
}

#[test]
fn no_more_than_max_num_seqs_run() {
    let mut rig = Rig::new(config(2, 64, 200));
    (1..=3).for_each(|id| rig.add(id, 4, 2));
    check(
        &rig.steps(3),
        &expect![[r#"
            1: 1[0..4]* 2[0..4]*
            2: 1[4..5]* 2[4..5]*
            3: 3[0..4]*
        "#]],
    );
}

#[test]
fn the_last_admitted_is_preempted_and_resumes_at_the_head_of_the_queue() {
    // Four usable blocks of 16 tokens: two sequences of two blocks each, then no room for a third block.
    let mut rig = Rig::new(config(4, 64, 5));
    rig.add(1, 31, 4);
    rig.add(2, 31, 4);
    rig.add(3, 16, 1);
    check(
        &rig.steps(7),
        &expect![[r#"
            1: 1[0..31]* 2[0..31]*
            2: 1[31..32]* 2[31..32]*
            3: 1[32..33]*
            4: 1[33..34]*
            5: 2[0..33]* 3[0..16]*
            6: 2[33..34]*
            7:
        "#]],
    );
    let second = rig.finish_of(2).unwrap();
    assert_eq!((second.num_preemptions, second.ledger.recomputed_tokens), (1, 32));
    assert_eq!(rig.scheduler.stats().preemptions, 1);
    assert_eq!(rig.scheduler.stats().recomputed_tokens, 32);
    assert_eq!(rig.scheduler.stats().prompt_tokens, 31 + 31 + 16);
    assert_eq!(rig.scheduler.stats().kv_blocks_used, 0);
}

#[test]
fn stop_checks_come_in_the_order_end_of_text_stop_token_length() {
    for (token, max_tokens, expected) in [
        (END_OF_TEXT, 1, (FinishReason::Stop, Some(Terminator::EndOfText))),
        (3, 1, (FinishReason::Stop, Some(Terminator::StopToken(3)))),
        (9, 1, (FinishReason::Length, None)),
    ] {
        let mut rig = Rig::new(config(1, 64, 8));
        rig.next_tokens = vec![token];
        rig.add(1, 4, max_tokens);
        rig.step();
        let finish = rig.finish_of(1).unwrap();
        assert_eq!((finish.reason, finish.terminator), expected);
        assert_eq!(rig.outputs[0].tokens.as_slice(), [token], "the terminating token is delivered");
    }
}

#[test]
fn the_model_length_ends_a_sequence() {
    let mut rig = Rig::new(wayfare_scheduler::SchedulerConfig { max_model_len: 6, ..config(1, 64, 8) });
    rig.add(1, 4, 100);
    rig.steps(2);
    assert_eq!(rig.finish_of(1).unwrap().reason, FinishReason::Length);
    assert_eq!(rig.scheduler.stats().generation_tokens, 2);
}

#[test]
fn a_sequence_can_be_ended_in_every_state_and_twice() {
    let mut rig = Rig::new(config(2, 64, 5));
    rig.add(1, 31, 9);
    rig.add(2, 31, 9);
    rig.add(3, 31, 9);
    rig.finish(3, FinishReason::Abort); // queued
    rig.steps(3); // preempts 2
    rig.finish(2, FinishReason::Abort); // preempted
    rig.finish(1, FinishReason::Stop); // running
    rig.finish(1, FinishReason::Abort); // ended
    rig.finish(77, FinishReason::Abort); // unknown
    let finished = rig.outputs.iter().filter(|output| output.finish.is_some()).count();
    assert_eq!(finished, 3);
    assert_eq!(rig.finish_of(1).unwrap().reason, FinishReason::Stop);
    assert!(!rig.scheduler.has_unfinished());
    assert_eq!(rig.scheduler.stats().kv_blocks_used, 0);
}

#[test]
fn a_sequence_ended_between_plan_and_commit_gets_no_token() {
    let mut rig = Rig::new(config(2, 64, 9));
    rig.add(1, 4, 9);
    rig.add(2, 4, 9);
    rig.scheduler.schedule(rig.now);
    rig.finish(1, FinishReason::Abort);
    rig.outputs.clear();
    rig.scheduler.commit(&[50, 60], rig.now, &mut rig.outputs);
    assert_eq!(rig.outputs.len(), 1);
    assert_eq!(rig.outputs[0].tokens.as_slice(), [60]);
}

#[test]
fn a_step_that_failed_ends_its_sequences_and_no_others() {
    let mut rig = Rig::new(config(1, 64, 9));
    rig.add(1, 4, 9);
    rig.add(2, 4, 9);
    rig.scheduler.schedule(rig.now);
    rig.scheduler.fail_step(rig.now, &mut rig.outputs);
    assert_eq!(rig.finish_of(1).unwrap().reason, FinishReason::Error);
    assert_eq!(rig.finish_of(2), None);
    check(&rig.step(), &expect!["2: 2[0..4]*"]);
}

#[test]
fn sizes_that_do_not_fit_together_are_refused() {
    let refused = |config| Scheduler::new(config).err();
    assert_eq!(refused(config(0, 64, 9)), Some(SchedulerConfigError::Zero { name: "max_num_seqs" }));
    assert_eq!(
        refused(config(9, 8, 9)),
        Some(SchedulerConfigError::BudgetBelowSequences { tokens: 8, seqs: 9 })
    );
    assert_eq!(refused(config(1, 8, 1)), Some(SchedulerConfigError::EmptyPool));
}
