//! The events that a sequence leaves in its core span.

use expect_test::expect;
use wayfare_engine::FinishReason;

use crate::rig::{Rig, config};

#[test]
fn a_plain_request() {
    let mut rig = Rig::new(config(4, 64, 20));
    rig.steps(2); // empty steps count
    rig.add(1, 10, 2);
    rig.steps(2);
    expect![[r#"
        step 2 WAITING prefill 0/10 decode 0/2 preemptions 0 QUEUED
        step 3 PREFILL prefill 0/10 decode 0/2 preemptions 0 SCHEDULED FIRST 10
        step 3 DECODE prefill 10/10 decode 1/2 preemptions 0 FIRST_TOKEN
        step 4 DECODE prefill 10/10 decode 2/2 preemptions 0 FINISHED length
    "#]]
    .assert_eq(&rig.journey(1));
}

#[test]
fn preempted_in_decode_and_resumed() {
    let mut rig = Rig::new(config(4, 64, 5));
    rig.add(1, 31, 4);
    rig.add(2, 31, 4);
    rig.steps(6);
    expect![[r#"
        step 0 WAITING prefill 0/31 decode 0/4 preemptions 0 QUEUED
        step 1 PREFILL prefill 0/31 decode 0/4 preemptions 0 SCHEDULED FIRST 31
        step 1 DECODE prefill 31/31 decode 1/4 preemptions 0 FIRST_TOKEN
        step 3 DECODE prefill 31/31 decode 2/4 preemptions 1 PREEMPTED by r1 lost 32 freed 2
        step 5 PREFILL prefill 31/31 decode 2/4 preemptions 1 SCHEDULED RESUME 33 waited for kv_blocks by r1
        step 6 DECODE prefill 31/31 decode 4/4 preemptions 1 FINISHED length
    "#]]
    .assert_eq(&rig.journey(2));
}

#[test]
fn preempted_in_prefill_keeps_its_high_water_mark() {
    // Nine usable blocks. The second prompt needs eight, and comes in chunks while the first one grows.
    let mut rig = Rig::new(config(4, 33, 10));
    rig.add(1, 31, 40);
    rig.step();
    rig.add(2, 128, 1);
    rig.steps(5);
    rig.finish(1, FinishReason::Abort);
    rig.steps(4);
    expect![[r#"
        step 1 WAITING prefill 0/128 decode 0/1 preemptions 0 QUEUED
        step 2 PREFILL prefill 0/128 decode 0/1 preemptions 0 SCHEDULED FIRST 32
        step 5 PREFILL prefill 96/128 decode 0/1 preemptions 1 PREEMPTED by itself lost 96 freed 6
        step 7 PREFILL prefill 96/128 decode 0/1 preemptions 1 SCHEDULED RESUME 33 waited for kv_blocks by r1
        step 10 DECODE prefill 128/128 decode 1/1 preemptions 1 FIRST_TOKEN
        step 10 DECODE prefill 128/128 decode 1/1 preemptions 1 FINISHED length
    "#]]
    .assert_eq(&rig.journey(2));
    assert_eq!(rig.finish_of(2).unwrap().ledger.recomputed_tokens, 96);
}

#[test]
fn aborted_before_it_was_scheduled() {
    let mut rig = Rig::new(config(4, 64, 5));
    rig.add(1, 31, 4);
    rig.finish(1, FinishReason::Abort);
    expect![[r#"
        step 0 WAITING prefill 0/31 decode 0/4 preemptions 0 QUEUED
        step 0 WAITING prefill 0/31 decode 0/4 preemptions 0 FINISHED aborted
    "#]]
    .assert_eq(&rig.journey(1));
}
