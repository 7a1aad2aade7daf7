//! Random arrivals, lengths, prefixes, priorities, aborts and pool sizes. A failure prints its input, and proptest
//! keeps the seed.

use std::collections::HashMap;

use proptest::prelude::*;
use wayfare_engine::{FinishReason, SchedulingPolicy, TokenId};
use wayfare_journey::{RequestLabel, WaitReason};
use wayfare_scheduler::SchedulerConfig;

use crate::naive::Naive;
use crate::rig::{Asked, END_OF_TEXT, Rig, config};

#[derive(Clone, Debug)]
enum Op {
    Add {
        prompt: u32,
        max_tokens: u32,
    },
    Step,
    /// Ends the sequence with this number, if it was ever added.
    End {
        which: u64,
        stopped: bool,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => (1_u32..90, 1_u32..40).prop_map(|(prompt, max_tokens)| Op::Add { prompt, max_tokens }),
        8 => Just(Op::Step),
        1 => (0_u64..40, any::<bool>()).prop_map(|(which, stopped)| Op::End { which, stopped }),
    ];
    prop::collection::vec(op, 1..120)
}

/// The rules of a scheduler, besides its sizes.
#[derive(Clone, Copy, Debug)]
struct Rules {
    policy: SchedulingPolicy,
    caches: bool,
    threshold: u32,
}

impl Rules {
    fn over(self, sizes: SchedulerConfig) -> SchedulerConfig {
        SchedulerConfig {
            policy: self.policy,
            prefix_caching: self.caches.then_some([3, 4]),
            long_prefill_token_threshold: self.threshold,
            ..sizes
        }
    }
}

fn policies() -> impl Strategy<Value = SchedulingPolicy> {
    prop_oneof![Just(SchedulingPolicy::Fcfs), Just(SchedulingPolicy::Priority)]
}

fn rules() -> impl Strategy<Value = Rules> {
    let threshold = prop_oneof![3 => Just(0_u32), 1 => 1_u32..20];
    (policies(), prop::bool::weighted(0.7), threshold).prop_map(|(policy, caches, threshold)| Rules {
        policy,
        caches,
        threshold,
    })
}

/// Prompts that begin alike in groups, of at most 48 tokens, and short answers.
fn asked() -> impl Strategy<Value = Asked> {
    let salt = prop_oneof![3 => Just(None), 1 => Just(Some("salt"))];
    (0_u32..4, 0_usize..33, 1_u32..16, 0_u32..3, 1_u32..40, -2_i32..3, salt).prop_map(
        |(group, shared, own, variant, max_tokens, priority, salt)| {
            let mut prompt: Vec<TokenId> =
                (0..shared as u32).map(|index| 1_000 * group + index + 10).collect();
            prompt.extend((0..own).map(|index| 10_000 + 100 * variant + index));
            Asked { prompt, max_tokens, priority, salt }
        },
    )
}

#[derive(Clone, Debug)]
enum ModelOp {
    Add(Asked),
    Step { ends_text: bool },
    End(u64),
}

fn model_ops() -> impl Strategy<Value = Vec<ModelOp>> {
    let op = prop_oneof![
        4 => asked().prop_map(ModelOp::Add),
        8 => prop::bool::weighted(0.1).prop_map(|ends_text| ModelOp::Step { ends_text }),
        1 => (0_u64..40).prop_map(ModelOp::End),
    ];
    prop::collection::vec(op, 1..120)
}

#[derive(Clone, Debug)]
enum LedgerOp {
    Pass(u64),
    Step,
    /// A request that the engine never gets.
    Refuse,
    Add {
        sequences: u64,
        asked: Asked,
    },
    End(u64),
    /// The client of a request leaves; the engine hears of it later.
    Leave {
        which: usize,
        lag_ns: u64,
    },
    Fail,
    Pause(bool),
    Resume,
    Reset(bool),
}

fn ledger_ops() -> impl Strategy<Value = Vec<LedgerOp>> {
    let op = prop_oneof![
        4 => (0_u64..3_000_000).prop_map(LedgerOp::Pass),
        12 => Just(LedgerOp::Step),
        1 => Just(LedgerOp::Refuse),
        5 => (1_u64..4, asked()).prop_map(|(sequences, asked)| LedgerOp::Add { sequences, asked }),
        1 => (0_u64..40).prop_map(LedgerOp::End),
        1 => (0_usize..8, 0_u64..5_000_000).prop_map(|(which, lag_ns)| LedgerOp::Leave { which, lag_ns }),
        1 => Just(LedgerOp::Fail),
        1 => any::<bool>().prop_map(LedgerOp::Pause),
        2 => Just(LedgerOp::Resume),
        1 => any::<bool>().prop_map(LedgerOp::Reset),
    ];
    prop::collection::vec(op, 1..150)
}

fn check_reasons(rig: &Rig, planned_tokens: u32) -> Result<(), TestCaseError> {
    let scheduler = &rig.scheduler;
    let stats = scheduler.stats();
    let planned: Vec<String> = scheduler.planned().map(|planned| format!("r{}", planned.id)).collect();
    let mut head: Option<String> = None;
    for (position, waiting) in scheduler.waiting().enumerate() {
        let blocker = waiting.blocker.map(RequestLabel::as_str);
        match waiting.reason {
            WaitReason::TokenBudget => prop_assert_eq!(planned_tokens, rig.budget()),
            WaitReason::MaxNumSeqs => prop_assert_eq!(stats.running, u64::from(rig.max_num_seqs())),
            WaitReason::KvBlocks => {
                prop_assert_eq!(position, 0);
                prop_assert!(stats.running > 0, "nobody holds the blocks");
            }
            WaitReason::HeadOfLine => {
                prop_assert!(position > 0);
                prop_assert_eq!(blocker, head.as_deref());
            }
            other => prop_assert!(false, "a step has seen it, and it waits for {:?}", other),
        }
        if waiting.reason == WaitReason::TokenBudget {
            prop_assert!(blocker.is_none_or(|blocker| planned.iter().any(|planned| planned == blocker)));
        }
        head = head.or(Some(format!("r{}", waiting.id)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever happens: blocks are neither lost nor shared, the budget is kept, every sequence ends once with
    /// no more tokens than it asked for, and in the end the pool is whole.
    #[test]
    fn random_load_keeps_every_promise(
        ops in ops(),
        seqs in 1_u32..6,
        extra_budget in 0_u32..40,
        // A sequence of 90 + 40 tokens needs nine blocks of 16: the smallest pool holds just one.
        blocks in 10_u32..24,
        end_of_text_every in 2_usize..50,
    ) {
        let budget = seqs + extra_budget;
        let mut rig = Rig::new(config(seqs, budget, blocks));
        let mut asked = HashMap::new();
        let mut steps_in_all = 0;
        let step = |rig: &mut Rig, count: &mut usize| {
            *count += 1;
            rig.next_tokens = if (*count).is_multiple_of(end_of_text_every) { vec![END_OF_TEXT] } else { vec![] };
            let planned = rig.step();
            let tokens: u32 = planned
                .split(['[', ']'])
                .filter_map(|part| part.split_once(".."))
                .map(|(start, end)| end.parse::<u32>().unwrap() - start.parse::<u32>().unwrap())
                .sum();
            assert!(tokens <= budget, "{planned} exceeds the budget of {budget}");
            !planned.ends_with(':')
        };
        for op in ops {
            match op {
                Op::Add { prompt, max_tokens } => {
                    let id = asked.len() as u64;
                    asked.insert(id, max_tokens);
                    rig.add(id, prompt, max_tokens);
                }
                Op::Step => {
                    let had_work = rig.scheduler.has_unfinished();
                    let did_work = step(&mut rig, &mut steps_in_all);
                    prop_assert_eq!(had_work, did_work, "progress in every step that has work");
                }
                Op::End { which, stopped } => {
                    rig.finish(which, if stopped { FinishReason::Stop } else { FinishReason::Abort });
                }
            }
        }
        let mut patience = 20_000;
        while rig.scheduler.has_unfinished() {
            step(&mut rig, &mut steps_in_all);
            patience -= 1;
            prop_assert!(patience > 0, "the load never ends");
        }
        prop_assert_eq!(rig.scheduler.stats().kv_blocks_used, 0);
        for (id, max_tokens) in asked {
            let own = rig.outputs.iter().filter(|output| output.id.0 == id);
            let tokens: usize = own.clone().map(|output| output.tokens.len()).sum();
            prop_assert!(tokens <= max_tokens as usize);
            prop_assert_eq!(own.clone().filter(|output| output.finish.is_some()).count(), 1);
            prop_assert!(own.clone().next_back().unwrap().finish.is_some(), "nothing follows the end");
            prop_assert!(own.filter(|output| output.first.is_some()).count() <= 1);
            let journey = rig.journey(id);
            check_core_span_rules(&journey)?;
            let names_itself = journey.lines().any(|line| line.contains(" by ") && line.split(' ').any(|word| word == format!("r{id}")));
            prop_assert!(!names_itself, "nobody is in its own way: {}", journey);
        }
    }

    /// The scheduler does in every step what its plainest form does: the same sequences, tokens, blocks, queue,
    /// cached tokens and preemptions.
    #[test]
    fn it_does_what_the_plain_one_does(
        ops in model_ops(),
        rules in rules(),
        seqs in 1_u32..6,
        extra_budget in 0_u32..40,
        blocks in 12_u32..30,
    ) {
        let rules = SchedulerConfig { block_size: 8, max_model_len: 88, ..rules.over(config(seqs, seqs + extra_budget, blocks)) };
        let mut rig = Rig::new(rules);
        let mut naive = Naive::new(rules);
        let mut added = 0;
        let mut reported = 0;
        let mut ends = Vec::new();
        let drain = std::iter::repeat_n(ModelOp::Step { ends_text: false }, 5_000);
        for op in ops.into_iter().chain(drain) {
            match op {
                ModelOp::Add(asked) => {
                    rig.add_asked(added, asked.clone());
                    let ours = (asked.priority, asked.salt);
                    naive.add(added, &asked.prompt, asked.max_tokens, ours, rig.now.0);
                    added += 1;
                }
                ModelOp::End(which) => {
                    rig.finish(which, FinishReason::Abort);
                    ends.extend(naive.end(which));
                }
                ModelOp::Step { ends_text } => {
                    if !rig.scheduler.has_unfinished() {
                        continue;
                    }
                    let token = if ends_text { END_OF_TEXT } else { 7 };
                    rig.next_tokens = vec![token; seqs as usize];
                    let planned = rig.step_with_blocks();
                    prop_assert_eq!(planned, naive.schedule());
                    ends.extend(naive.commit(token, END_OF_TEXT));
                }
            }
            let waiting: Vec<u64> = rig.scheduler.waiting().map(|waiting| waiting.id.0).collect();
            prop_assert_eq!(waiting, naive.waiting_ids());
            prop_assert_eq!(rig.outputs.iter().filter(|o| o.finish.is_some()).count(), ends.len());
            for ended in ends.drain(reported..).collect::<Vec<_>>() {
                let finish = rig.finish_of(ended.id).unwrap();
                prop_assert_eq!(finish.num_preemptions, ended.preemptions);
                prop_assert_eq!(finish.ledger.cached_tokens as usize, ended.cached.unwrap_or(0));
                ends.push(ended);
            }
            reported = ends.len();
        }
        prop_assert!(!rig.scheduler.has_unfinished(), "the load never ends");
    }

    /// Two requests that exceed the pool together do not take it from each other for ever: the one that came
    /// first is never preempted by the other, so each preemption is paid for by progress.
    #[test]
    fn requests_that_exceed_the_pool_together_end(
        first in 100_u32..200,
        second in 100_u32..200,
        budget in 8_u32..300,
        caches in any::<bool>(),
        policy in policies(),
    ) {
        // Twenty usable blocks of 16 tokens; each alone fits, both with their 100 output tokens do not.
        let rules = SchedulerConfig { policy, prefix_caching: caches.then_some([1, 2]), ..config(4, budget, 21) };
        let mut rig = Rig::new(rules);
        let prompt = |tokens: u32, which: u32| (0..tokens).map(|index| 100 + which * 1_000 + index).collect();
        rig.add_asked(1, Asked { max_tokens: 100, ..Asked::of(prompt(first, 1)) });
        rig.add_asked(2, Asked { max_tokens: 100, ..Asked::of(prompt(second, 2)) });
        let mut steps = 0;
        while rig.scheduler.has_unfinished() {
            rig.step();
            steps += 1;
            // Each alone takes so many steps; the second may start anew once.
            prop_assert!(steps <= 2 * (first + second).div_ceil(budget) + 300, "no end after {} steps", steps);
        }
        prop_assert_eq!(rig.finish_of(1).unwrap().num_preemptions, 0);
        let second = rig.finish_of(2).unwrap();
        prop_assert!(second.num_preemptions <= 1, "preempted {} times", second.num_preemptions);
    }

    /// Every nanosecond is in one bucket, for every sequence and every request: with several sequences, with
    /// preemptions and pauses, ended by the model, by aborts, and by clients that leave at any moment.
    #[test]
    fn ledgers_add_up(
        ops in ledger_ops(),
        rules in rules(),
        seqs in 1_u32..6,
        extra_budget in 0_u32..40,
        blocks in 12_u32..30,
    ) {
        let rules = SchedulerConfig { block_size: 8, max_model_len: 88, ..rules.over(config(seqs, seqs + extra_budget, blocks)) };
        let mut rig = Rig::new(rules);
        let mut spans = Vec::new();
        let mut ids = 0;
        for op in ops {
            match op {
                LedgerOp::Pass(ns) => rig.now.0 += ns,
                LedgerOp::Step => {
                    rig.step();
                }
                LedgerOp::Refuse => {
                    let span = rig.open(ids);
                    ids += 1;
                    spans.push((span, vec![]));
                }
                LedgerOp::Add { sequences, asked } => {
                    let span = rig.open(ids);
                    let own: Vec<u64> = (ids..ids + sequences).collect();
                    ids += sequences;
                    rig.now.0 += 1_000;
                    span.handle().body_complete(rig.now);
                    rig.now.0 += 500;
                    rig.submit(&span, &own, asked);
                    spans.push((span, own));
                }
                LedgerOp::End(which) => rig.finish(which, FinishReason::Stop),
                LedgerOp::Leave { which, lag_ns } => {
                    if spans.is_empty() {
                        continue;
                    }
                    let (span, own) = spans.swap_remove(which % spans.len());
                    span.complete(rig.now);
                    rig.now.0 += lag_ns;
                    own.into_iter().for_each(|id| rig.finish(id, FinishReason::Abort));
                }
                LedgerOp::Fail => {
                    rig.now.0 += 10;
                    rig.scheduler.schedule(rig.now);
                    rig.now.0 += 10;
                    rig.scheduler.fail_step(rig.now, &mut rig.outputs);
                }
                LedgerOp::Pause(holds) => rig.scheduler.pause(holds, rig.now),
                LedgerOp::Resume => rig.scheduler.resume(rig.now),
                LedgerOp::Reset(preempts) => {
                    rig.scheduler.reset_prefix_cache(preempts, rig.now);
                }
            }
            rig.scheduler.check_invariants().unwrap();
        }
        rig.scheduler.resume(rig.now);
        while rig.scheduler.has_unfinished() {
            rig.step();
        }
        for (span, _) in spans.drain(..) {
            rig.now.0 += 77;
            span.complete(rig.now);
        }
        let journeys = rig.journeys();
        for journey in &journeys {
            prop_assert_eq!(journey.ledger().total_ns(), journey.duration_ns());
            for (_, core) in journey.cores() {
                prop_assert_eq!(core.ledger().total_ns(), core.ended().since(core.started()));
            }
        }
        let recomputed: u64 = journeys.iter().map(|journey| journey.token_account().recomputed).sum();
        prop_assert_eq!(recomputed, rig.scheduler.stats().recomputed_tokens);
    }

    /// Whoever waits has a reason that is true, and whoever is blamed is there.
    #[test]
    fn reasons_are_true(
        ops in model_ops(),
        rules in rules(),
        seqs in 1_u32..6,
        extra_budget in 0_u32..40,
        blocks in 12_u32..30,
    ) {
        let rules = SchedulerConfig { block_size: 8, max_model_len: 88, ..rules.over(config(seqs, seqs + extra_budget, blocks)) };
        let mut rig = Rig::new(rules);
        let mut added = 0;
        for op in ops {
            match op {
                ModelOp::Add(asked) => {
                    rig.add_asked(added, asked);
                    added += 1;
                }
                ModelOp::End(which) => rig.finish(which, FinishReason::Abort),
                ModelOp::Step { .. } => {
                    rig.now.0 += 1_000;
                    let planned = rig.scheduler.schedule(rig.now).total_tokens;
                    check_reasons(&rig, planned)?;
                    let sampling = rig.scheduler.planned().filter(|planned| planned.sample.is_some()).count();
                    rig.scheduler.commit(&vec![7; sampling], rig.now, &mut rig.outputs);
                }
            }
        }
    }

    /// First come, first served: without preemption, sequences of one length start in order of arrival.
    #[test]
    fn arrivals_start_in_order(count in 1_u64..30, seqs in 1_u32..5) {
        let mut rig = Rig::new(config(seqs, 64, 400));
        (0..count).for_each(|id| rig.add(id, 12, 3));
        while rig.scheduler.has_unfinished() {
            rig.step();
        }
        let starts: Vec<_> =
            (0..count).map(|id| rig.finish_of(id).unwrap().times.first_scheduled.unwrap()).collect();
        prop_assert!(starts.is_sorted(), "{:?}", starts);
    }
}

/// The rules of section 3 of the journey contract, on a journey as text.
fn check_core_span_rules(journey: &str) -> Result<(), TestCaseError> {
    let lines: Vec<&str> = journey.lines().collect();
    let positions =
        |name: &str| -> Vec<usize> { (0..lines.len()).filter(|line| lines[*line].contains(name)).collect() };
    let number_after = |line: &str, word: &str| -> u64 {
        line.split(word).nth(1).unwrap().trim_start().split([' ', '/']).next().unwrap().parse().unwrap()
    };
    prop_assert_eq!(positions("QUEUED"), vec![0]);
    prop_assert_eq!(positions("FINISHED"), vec![lines.len() - 1]);
    prop_assert!(positions("FIRST_TOKEN").len() <= 1 && positions("SCHEDULED FIRST").len() <= 1);
    let preempted = positions("PREEMPTED");
    for (count, position) in (1_u64..).zip(&preempted) {
        let next = lines[position + 1];
        prop_assert!(next.contains("SCHEDULED RESUME") || next.contains("FINISHED"), "{}", next);
        prop_assert_eq!(number_after(lines[*position], "preemptions"), count);
    }
    for word in ["prefill", "step"] {
        let marks: Vec<u64> = lines.iter().map(|line| number_after(line, word)).collect();
        prop_assert!(marks.is_sorted(), "{} falls: {}", word, journey);
    }
    Ok(())
}
