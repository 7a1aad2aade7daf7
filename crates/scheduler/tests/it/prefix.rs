//! Prefix caching: who finds what, what is evicted first, and what counts as found.

use std::num::NonZeroU32;

use expect_test::expect;
use wayfare_engine::{FinishReason, TokenId};
use wayfare_scheduler::SchedulerConfig;

use crate::rig::{Asked, Rig, config};

fn caching(seqs: u32, budget: u32, blocks: u32) -> SchedulerConfig {
    SchedulerConfig { prefix_caching: Some([1, 2]), ..config(seqs, budget, blocks) }
}

/// `shared` tokens that all such prompts begin with, and `own` tokens of this one.
fn prompt(shared: usize, own: usize, which: TokenId) -> Vec<TokenId> {
    let mut tokens: Vec<TokenId> = (0..shared as TokenId).map(|index| 1_000 + index).collect();
    tokens.extend((0..own as TokenId).map(|index| 10_000 * (which + 1) + index));
    tokens
}

fn cached(rig: &Rig, id: u64) -> u32 {
    rig.finish_of(id).unwrap().ledger.cached_tokens
}

#[test]
fn a_later_request_computes_only_what_is_new() {
    let mut rig = Rig::new(caching(4, 256, 40));
    rig.add_asked(1, Asked::of(prompt(64, 20, 1)));
    rig.step();
    rig.add_asked(2, Asked::of(prompt(64, 10, 2)));
    assert_eq!(rig.step(), "2: 2[64..74]*");
    expect![[r#"
        step 1 WAITING prefill 0/74 decode 0/1 preemptions 0 QUEUED
        step 2 PREFILL prefill 64/74 decode 0/1 preemptions 0 SCHEDULED FIRST 10 cached 64
        step 2 DECODE prefill 74/74 decode 1/1 preemptions 0 FIRST_TOKEN
        step 2 DECODE prefill 74/74 decode 1/1 preemptions 0 FINISHED length
    "#]]
    .assert_eq(&rig.journey(2));
    let stats = rig.scheduler.stats();
    assert_eq!((stats.prefix_cache_queries, stats.prefix_cache_hits), (84 + 74, 64));
    assert_eq!(stats.prompt_tokens, 84 + 74, "found or computed");
    assert_eq!(rig.outputs.iter().find(|output| output.id.0 == 2).unwrap().first.unwrap().cached_tokens, 64);
    assert_eq!(stats.kv_blocks_used, 0, "cached blocks count as free");
}

#[test]
fn a_prompt_that_is_known_as_a_whole_still_computes_its_last_block() {
    let mut rig = Rig::new(caching(4, 256, 40));
    rig.add_asked(1, Asked::of(prompt(64, 0, 1)));
    rig.step();
    rig.add_asked(2, Asked::of(prompt(64, 0, 1)));
    assert_eq!(rig.step(), "2: 2[48..64]*");
}

#[test]
fn requests_of_one_step_share_their_prefix() {
    let mut rig = Rig::new(caching(4, 256, 40));
    (1..=3).for_each(|id| rig.add_asked(id, Asked { max_tokens: 4, ..Asked::of(prompt(64, 4, 1)) }));
    assert_eq!(rig.step(), "1: 1[0..68]* 2[64..68]* 3[64..68]*");
    // Four shared blocks and one of each.
    assert_eq!(rig.scheduler.stats().kv_blocks_used, 4 + 3);
}

#[test]
fn blocks_filled_by_output_are_found_as_well() {
    let mut rig = Rig::new(caching(4, 256, 40));
    rig.add_asked(1, Asked { max_tokens: 20, ..Asked::of(prompt(30, 0, 1)) });
    rig.steps(20);
    let mut conversation = prompt(30, 0, 1);
    conversation.extend([7; 20]);
    conversation.extend([8; 5]);
    rig.add_asked(2, Asked::of(conversation));
    assert_eq!(rig.step(), "21: 2[48..55]*");
}

#[test]
fn a_salt_keeps_prefixes_apart() {
    let mut rig = Rig::new(caching(4, 256, 60));
    let asked = |salt| Asked { salt, ..Asked::of(prompt(64, 4, 1)) };
    rig.add_asked(1, asked(None));
    rig.add_asked(2, asked(Some("a")));
    rig.add_asked(3, asked(Some("b")));
    rig.step();
    rig.add_asked(4, asked(Some("a")));
    rig.step();
    assert_eq!([1, 2, 3, 4].map(|id| cached(&rig, id)), [0, 0, 0, 64]);
}

#[test]
fn the_tail_of_the_least_recently_used_prefix_is_evicted_first() {
    // Eight usable blocks, four per prompt.
    let mut rig = Rig::new(caching(1, 256, 9));
    rig.add_asked(1, Asked::of(prompt(0, 63, 1)));
    rig.step();
    rig.add_asked(2, Asked::of(prompt(0, 63, 2)));
    rig.step();
    // Takes the block of the first prompt that was never full, and its tail.
    rig.add_asked(3, Asked::of(prompt(0, 40, 3)));
    rig.step();
    // Takes the same of the second prompt.
    rig.add_asked(4, Asked::of(prompt(0, 63, 1)));
    rig.step();
    rig.add_asked(5, Asked::of(prompt(0, 63, 2)));
    rig.step();
    assert_eq!([4, 5].map(|id| cached(&rig, id)), [16, 16]);
}

#[test]
fn what_a_preempted_request_finds_again_is_neither_a_hit_nor_recomputed() {
    // Six usable blocks. Both grow; the second one is preempted and later finds the one block again that
    // the first one has not taken.
    let mut rig = Rig::new(caching(4, 128, 7));
    rig.add_asked(1, Asked { max_tokens: 20, ..Asked::of(prompt(0, 47, 1)) });
    rig.add_asked(2, Asked { max_tokens: 20, ..Asked::of(prompt(0, 47, 2)) });
    rig.steps(40);
    let second = rig.finish_of(2).unwrap();
    assert_eq!(second.num_preemptions, 1);
    expect![[r#"
        step 0 WAITING prefill 0/47 decode 0/20 preemptions 0 QUEUED
        step 1 PREFILL prefill 0/47 decode 0/20 preemptions 0 SCHEDULED FIRST 47
        step 1 DECODE prefill 47/47 decode 1/20 preemptions 0 FIRST_TOKEN
        step 3 DECODE prefill 47/47 decode 2/20 preemptions 1 PREEMPTED by r1 lost 48 freed 3
        step 21 PREFILL prefill 47/47 decode 2/20 preemptions 1 SCHEDULED RESUME 33 cached 16 waited for kv_blocks by r1
        step 38 DECODE prefill 47/47 decode 20/20 preemptions 1 FINISHED length
    "#]]
    .assert_eq(&rig.journey(2));
    let stats = rig.scheduler.stats();
    assert_eq!((second.ledger.recomputed_tokens, stats.recomputed_tokens), (32, 32));
    assert_eq!((second.ledger.cached_tokens, stats.prefix_cache_hits), (0, 0));
    assert_eq!(stats.prefix_cache_queries, 94);
}

#[test]
fn a_step_that_failed_leaves_nothing_to_be_found() {
    let mut rig = Rig::new(caching(4, 32, 40));
    rig.add_asked(1, Asked { max_tokens: 9, ..Asked::of(prompt(64, 0, 1)) });
    rig.step();
    rig.scheduler.schedule(rig.now);
    rig.scheduler.fail_step(rig.now, &mut rig.outputs);
    rig.scheduler.check_invariants().unwrap();
    rig.add_asked(2, Asked::of(prompt(64, 0, 1)));
    rig.steps(2);
    assert_eq!(cached(&rig, 2), 32, "what the first step computed, and no more");
}

#[test]
fn after_a_reset_nothing_is_found_and_the_running_go_on() {
    let mut rig = Rig::new(caching(4, 256, 60));
    let asked = Asked { max_tokens: 40, ..Asked::of(prompt(64, 0, 1)) };
    rig.add_asked(1, asked.clone());
    rig.step();
    let outcome = rig.scheduler.reset_prefix_cache(false, rig.now);
    assert_eq!((outcome.preempted, outcome.forgotten_blocks), (0, 4));
    rig.add_asked(2, asked.clone());
    assert_eq!(rig.step(), "2: 1[64..65]* 2[0..64]*");
    // What the first one computes from now on builds upon what was forgotten.
    rig.steps(20);
    let mut more = prompt(64, 0, 1);
    more.extend([7; 30]);
    rig.finish(2, FinishReason::Abort);
    rig.scheduler.reset_prefix_cache(false, rig.now);
    rig.step();
    rig.add_asked(3, Asked::of(more));
    rig.step();
    assert_eq!(cached(&rig, 3), 0);
}

#[test]
fn a_reset_can_have_the_running_computed_anew_in_their_order() {
    let mut rig = Rig::new(caching(4, 256, 60));
    (1..=3).for_each(|id| rig.add_asked(id, Asked { max_tokens: 9, ..Asked::of(prompt(32, 4, 1)) }));
    rig.step();
    rig.now.0 += 1_000_000;
    let outcome = rig.scheduler.reset_prefix_cache(true, rig.now);
    rig.scheduler.check_invariants().unwrap();
    assert_eq!(outcome.preempted, 3);
    assert_eq!(rig.step(), "2: 1[0..37]* 2[32..37]* 3[32..37]*");
}

#[test]
fn the_life_of_an_evicted_prefix_is_told() {
    // Four usable blocks, all of them followed.
    let mut rig = Rig::new(SchedulerConfig { follow_blocks: NonZeroU32::new(1), ..caching(1, 256, 5) });
    let mut serve = |which| {
        let id = rig.outputs.len() as u64;
        rig.add_asked(id, Asked::of(prompt(0, 33, which)));
        rig.step();
        rig.scheduler.take_block_lives()
    };
    // Each step is 2 ms after the one before. Three blocks each: the second and third find two of them again.
    assert_eq!([serve(1), serve(1), serve(1)], [vec![], vec![], vec![]]);
    let lives = serve(2);
    let ms = |ns: &u64| ns / 1_000_000;
    let shown: Vec<_> = lives
        .iter()
        .map(|life| {
            (ms(&life.lifetime_ns), ms(&life.idle_ns), life.reuse_gaps_ns.iter().map(ms).collect::<Vec<_>>())
        })
        .collect();
    // The tail of the first prompt: born three steps ago, used in the two after that.
    assert_eq!(shown, [(6, 2, vec![2])]);
}
