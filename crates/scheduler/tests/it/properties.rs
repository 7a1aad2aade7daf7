//! Random arrivals, lengths, aborts and pool sizes.

use std::collections::HashMap;

use proptest::prelude::*;
use wayfare_engine::FinishReason;

use crate::rig::{END_OF_TEXT, Rig, config};

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
            check_core_span_rules(&rig.journey(id))?;
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
