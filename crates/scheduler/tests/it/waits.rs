//! Why requests wait, whom they wait for, and what that comes to in the ledger.

use expect_test::expect;
use wayfare_engine::{FinishReason, SchedulingPolicy};
use wayfare_journey::WaitReason;
use wayfare_scheduler::SchedulerConfig;

use crate::rig::{Asked, Rig, config};

const MS: u64 = 1_000_000;

/// What a finished request waited, in milliseconds by reason.
fn waits(rig: &Rig, id: u64) -> Vec<(&'static str, u64)> {
    let ledger = &rig.finish_of(id).unwrap().ledger;
    ledger.queue.iter().map(|(reason, ns)| (reason.as_str(), ns / MS)).collect()
}

#[test]
fn behind_a_long_prompt_it_is_the_token_budget() {
    let mut rig = Rig::new(config(4, 64, 300));
    rig.add(1, 4000, 1);
    rig.add(2, 10, 1);
    rig.step();
    assert_eq!(rig.waiting(), "2 token_budget by r1");
    rig.steps(62);
    expect![[r#"
        step 0 WAITING prefill 0/10 decode 0/1 preemptions 0 QUEUED
        step 63 PREFILL prefill 0/10 decode 0/1 preemptions 0 SCHEDULED FIRST 10 waited for token_budget by r1
        step 63 DECODE prefill 10/10 decode 1/1 preemptions 0 FIRST_TOKEN
        step 63 DECODE prefill 10/10 decode 1/1 preemptions 0 FINISHED length
    "#]]
    .assert_eq(&rig.journey(2));
    // A step and the time before it take 1 ms each.
    assert_eq!(waits(&rig, 2), [("next_step", 1), ("token_budget", 2 * 62)]);
    assert_eq!(waits(&rig, 1), [("next_step", 1)]);
}

#[test]
fn decodes_are_nobody_s_fault() {
    let mut rig = Rig::new(config(4, 4, 40));
    (1..=4).for_each(|id| rig.add(id, 1, 9));
    rig.step();
    rig.add(5, 1, 1);
    rig.step();
    assert_eq!(rig.waiting(), "5 max_num_seqs");
}

#[test]
fn when_one_may_run_it_is_to_blame() {
    let mut rig = Rig::new(config(1, 64, 40));
    rig.add(1, 10, 3);
    rig.add(2, 10, 1);
    rig.add(3, 10, 1);
    rig.step();
    assert_eq!(rig.waiting(), "2 max_num_seqs by r1, 3 max_num_seqs by r1");
}

#[test]
fn the_first_in_the_queue_waits_for_blocks_and_the_others_for_it() {
    // Eight usable blocks, of which the first request takes six.
    let mut rig = Rig::new(config(4, 256, 9));
    rig.add(1, 90, 3);
    rig.step();
    rig.add(2, 48, 1);
    rig.add(3, 8, 1);
    assert_eq!(rig.waiting(), "2 next_step, 3 next_step");
    rig.step();
    assert_eq!(rig.waiting(), "2 kv_blocks by r1, 3 head_of_line by r2");
    rig.steps(2);
    assert_eq!(waits(&rig, 2), [("next_step", 1), ("kv_blocks", 2 * 2)]);
    assert_eq!(waits(&rig, 3), [("next_step", 1), ("head_of_line", 2 * 2)]);
}

/// The one SCHEDULED of a request, from where its wait is told.
fn waited_for(rig: &Rig, id: u64) -> String {
    let journey = rig.journey(id);
    let line = journey.lines().find(|line| line.contains("SCHEDULED")).unwrap();
    line.split_once(" waited for ").map_or_else(String::new, |(_, wait)| wait.to_owned())
}

#[test]
fn nobody_has_waited_for_itself() {
    // Eight usable blocks. The second waits long for those of the first, the third behind it, and then as the first in
    // the queue for those of the second.
    let mut rig = Rig::new(config(4, 256, 9));
    rig.add(1, 90, 5);
    rig.step();
    rig.add(2, 60, 3);
    rig.add(3, 80, 1);
    rig.steps(3);
    assert_eq!(rig.waiting(), "2 kv_blocks by r1, 3 head_of_line by r2");
    rig.steps(2);
    assert_eq!(rig.waiting(), "3 kv_blocks by r2");
    rig.steps(5);
    assert_eq!(waited_for(&rig, 2), "kv_blocks by r1");
    assert!(waits(&rig, 3).contains(&("head_of_line", 8)), "{:?}", waits(&rig, 3));
    assert_eq!(waited_for(&rig, 3), "head_of_line by r2");
}

#[test]
fn whoever_moves_up_has_the_reasons_of_its_place() {
    let mut rig = Rig::new(config(4, 256, 9));
    rig.add(1, 90, 9);
    rig.step();
    rig.add(2, 48, 1);
    rig.add(3, 48, 1);
    rig.steps(2);
    rig.finish(2, FinishReason::Abort);
    rig.steps(2);
    assert_eq!(rig.waiting(), "3 kv_blocks by r1");
    rig.finish(3, FinishReason::Abort);
    assert_eq!(waits(&rig, 2), [("next_step", 1), ("kv_blocks", 3)]);
    // Second for two steps and the time up to the third.
    assert_eq!(waits(&rig, 3), [("next_step", 1), ("kv_blocks", 3), ("head_of_line", 4)]);
}

#[test]
fn without_chunks_a_prompt_waits_for_a_step_with_room_for_it() {
    let whole = SchedulerConfig { chunked_prefill: false, max_model_len: 64, ..config(4, 64, 40) };
    let mut rig = Rig::new(whole);
    rig.add(1, 40, 1);
    rig.add(2, 30, 1);
    rig.add(3, 10, 1);
    assert_eq!(rig.step(), "1: 1[0..40]*");
    assert_eq!(rig.waiting(), "2 token_budget by r1, 3 head_of_line by r2");
    assert_eq!(rig.step(), "2: 2[0..30]* 3[0..10]*");
}

#[test]
fn the_threshold_leaves_room_beside_a_long_prompt() {
    let mut rig = Rig::new(SchedulerConfig { long_prefill_token_threshold: 40, ..config(4, 64, 40) });
    rig.add(1, 100, 2);
    rig.add(2, 50, 1);
    expect![[r#"
        1: 1[0..40] 2[0..24]
        2: 1[40..80] 2[24..48]
        3: 1[80..100]* 2[48..50]*
        4: 1[100..101]*
    "#]]
    .assert_eq(&rig.steps(4));
}

#[test]
fn the_smallest_priority_goes_first_and_the_least_important_is_preempted() {
    // Four usable blocks.
    let mut rig = Rig::new(SchedulerConfig { policy: SchedulingPolicy::Priority, ..config(4, 64, 5) });
    let asked = |prompt, max_tokens, priority| Asked { max_tokens, priority, ..Asked::of(vec![5; prompt]) };
    rig.add_asked(1, asked(31, 4, 5));
    rig.add_asked(2, asked(31, 4, -1));
    rig.add_asked(3, asked(16, 1, 0));
    expect![[r#"
        1: 2[0..31]* 3[0..16]*
        2: 2[31..32]* 1[0..31]*
        3: 2[32..33]*
        4: 2[33..34]*
        5: 1[0..32]*
        6: 1[32..33]*
        7: 1[33..34]*
    "#]]
    .assert_eq(&rig.steps(7));
    assert_eq!(rig.finish_of(1).unwrap().num_preemptions, 1);
}

#[test]
fn a_victim_that_had_its_tokens_in_this_step_gives_them_back() {
    // Four usable blocks, and the unimportant request is the first in the running list.
    let mut rig = Rig::new(SchedulerConfig { policy: SchedulingPolicy::Priority, ..config(4, 64, 5) });
    let asked = |prompt, max_tokens, priority| Asked { max_tokens, priority, ..Asked::of(vec![5; prompt]) };
    rig.add_asked(1, asked(30, 9, 5));
    rig.step();
    rig.add_asked(2, asked(32, 9, 0));
    expect![[r#"
        2: 1[30..31]* 2[0..32]*
        3: 2[32..33]*
        4: 2[33..34]*
    "#]]
    .assert_eq(&rig.steps(3));
    assert_eq!(rig.waiting(), "1 kv_blocks by r2");
}

#[test]
fn a_pause_stops_everything_and_is_the_reason() {
    let mut rig = Rig::new(config(4, 64, 40));
    rig.add(1, 10, 3);
    rig.step();
    rig.scheduler.pause(true, rig.now);
    rig.add(2, 10, 1);
    assert!(!rig.scheduler.can_step());
    assert_eq!(rig.waiting(), "2 paused", "it needs no step to be known");
    rig.now.0 += 300_000 * MS;
    assert_eq!(rig.step(), "2:");
    rig.scheduler.resume(rig.now);
    assert_eq!(rig.step(), "3: 1[10..11]* 2[0..10]*");
    rig.step();
    assert_eq!(waits(&rig, 2), [("next_step", 1), ("paused", 300_002)]);
    // The running one was held all the time, the step in it included.
    let first = &rig.finish_of(1).unwrap().ledger;
    assert_eq!(first.queue.get(WaitReason::Paused), 300_002 * MS);
    // Two steps, and the time before each.
    assert_eq!(first.decode_ns + first.interference_ns, 4 * MS);
}

#[test]
fn a_pause_can_let_the_running_finish() {
    let mut rig = Rig::new(config(4, 64, 40));
    rig.add(1, 10, 2);
    rig.step();
    rig.scheduler.pause(false, rig.now);
    rig.add(2, 10, 1);
    assert_eq!(rig.step(), "2: 1[10..11]*");
    assert!(!rig.scheduler.can_step(), "only the queue is left");
    rig.scheduler.resume(rig.now);
    assert!(rig.scheduler.can_step());
    assert_eq!(rig.step(), "3: 2[0..10]*");
}

#[test]
fn a_long_prefill_shows_as_interference_to_those_who_decode() {
    let mut rig = Rig::new(config(4, 64, 300));
    rig.add(1, 10, 9);
    rig.step();
    rig.add(2, 630, 1);
    rig.steps(8);
    let ledger = &rig.finish_of(1).unwrap().ledger;
    // Eight steps of 1 ms, in each of which 63 of 64 tokens were the other's; the time before is decode.
    assert_eq!(ledger.interference_ns, 8 * (MS * 63 / 64));
    assert_eq!(ledger.decode_ns + ledger.interference_ns, 16 * MS);
}
