//! The simulated executor: its times, its answers, its failures.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use wayfare_engine::{RequestId, TokenId};
use wayfare_engine_local::{
    AnswerLength, AnswerText, Answers, Executor, FailureKind, FailurePlan, LinearStepTime, RuleBook,
    SampleSpec, SimulatedExecutor, StepInput, StepSequence, StepTimeModel, StepTimer,
};

const END_OF_TEXT: TokenId = 2;

fn answers(text: AnswerText, length: Option<(u32, u32)>) -> Answers {
    let length = length.map(|(min, max)| AnswerLength { min, max });
    Answers { text, length, end_of_text: END_OF_TEXT, closers: [].into(), seed: 0 }
}

fn words() -> AnswerText {
    let words: [&[TokenId]; 4] = [&[10], &[20, 21], &[], &[30, 31, 32]];
    AnswerText::Words(words.into_iter().map(Box::from).collect())
}

fn executor(answers: Answers) -> SimulatedExecutor {
    SimulatedExecutor::new(StepTimer::new(StepTimeModel::ZERO, 0.0, 0), answers, drop)
}

fn timed(plan: &FailurePlan) -> (SimulatedExecutor, Receiver<Duration>) {
    let model = StepTimeModel::Linear(LinearStepTime { base_us: 100.0, ..LinearStepTime::default() });
    let (times_tx, times) = channel();
    let pace = move |time| {
        let _ = times_tx.send(time);
    };
    let passage = AnswerText::Passage([40].into());
    let executor = SimulatedExecutor::new(StepTimer::new(model, 0.0, 0), answers(passage, None), pace);
    (executor.with_failures(plan), times)
}

/// One sequence's part in a step: its slot, its tokens from a position on, its seed and output index if it gets a
/// token.
#[derive(Clone, Copy)]
struct Part<'a> {
    slot: u32,
    first_position: u32,
    tokens: &'a [TokenId],
    sample: Option<(u64, u32)>,
}

/// Blocks of 4 tokens; slot 0 has the blocks 1, 3 and so on, slot 1 the others.
fn input(parts: &[Part<'_>]) -> StepInput {
    let mut input = StepInput::default();
    for part in parts {
        let num_tokens = part.tokens.len() as u32;
        let num_blocks = (part.first_position + num_tokens).div_ceil(4);
        input.sequences.push(StepSequence {
            id: RequestId(u64::from(part.slot)),
            slot: part.slot,
            token_start: input.token_ids.len() as u32,
            num_tokens,
            first_position: part.first_position,
            block_start: input.block_tables.len() as u32,
            num_blocks,
            sample: part.sample.map(|(seed, output_index)| SampleSpec {
                temperature: 0.0,
                top_p: 1.0,
                top_k: 0,
                min_p: 0.0,
                seed,
                output_index,
            }),
            num_logits: u32::from(part.sample.is_some()),
            has_rules: false,
        });
        input.token_ids.extend_from_slice(part.tokens);
        input.block_tables.extend((0..num_blocks).map(|block| 1 + 2 * block + part.slot));
    }
    input
}

fn tokens_of(executor: &mut SimulatedExecutor, parts: &[Part<'_>]) -> Vec<TokenId> {
    let mut tokens = Vec::new();
    executor.execute(&input(parts), &mut RuleBook::default(), &mut tokens).unwrap();
    tokens
}

/// The answer to a prompt of `prompt` computed in chunks of `chunk`, up to its end or `most` tokens.
fn answer(
    executor: &mut SimulatedExecutor,
    prompt: &[TokenId],
    chunk: usize,
    seed: u64,
    most: u32,
) -> Vec<TokenId> {
    let mut said = Vec::new();
    let mut first_position = 0;
    for tokens in prompt.chunks(chunk) {
        let is_last = first_position as usize + tokens.len() == prompt.len();
        let part = Part { slot: 0, first_position, tokens, sample: is_last.then_some((seed, 0)) };
        said.extend(tokens_of(executor, &[part]));
        first_position += tokens.len() as u32;
    }
    while (said.len() as u32) < most && said.last() != Some(&END_OF_TEXT) {
        let tokens = &said[said.len() - 1..].to_vec();
        let part = Part { slot: 0, first_position, tokens, sample: Some((seed, said.len() as u32)) };
        said.extend(tokens_of(executor, &[part]));
        first_position += 1;
    }
    said
}

fn echo() -> AnswerText {
    AnswerText::Echo { block_size: 4, num_kv_blocks: 64 }
}

#[test]
fn a_passage_is_recited_over_and_over() {
    let mut executor = executor(answers(AnswerText::Passage([40, 41].into()), None));
    assert_eq!(answer(&mut executor, &[7; 5], 5, 0, 5), [40, 41, 40, 41, 40]);
}

#[test]
fn an_answer_has_the_length_asked_for_and_ends_its_text() {
    let passage = || AnswerText::Passage([40].into());
    let mut fixed = executor(answers(passage(), Some((3, 3))));
    assert_eq!(answer(&mut fixed, &[7; 5], 5, 0, 99), [40, 40, 40, END_OF_TEXT]);
    let mut spread = executor(answers(passage(), Some((2, 6))));
    let lengths: Vec<_> = (0..200).map(|seed| answer(&mut spread, &[7], 1, seed, 99).len() - 1).collect();
    for length in 2..=6 {
        let count = lengths.iter().filter(|one| **one == length).count();
        assert!((20..=60).contains(&count), "{count} answers of {length} tokens");
    }
    assert!(lengths.iter().all(|length| (2..=6).contains(length)));
    // The same sequence again has the same length.
    assert_eq!(answer(&mut spread, &[7], 1, 9, 99).len() - 1, lengths[9]);
}

#[test]
fn words_are_whole_and_those_of_the_seed() {
    let mut executor = executor(answers(words(), None));
    let said = answer(&mut executor, &[7; 5], 5, 1, 200);
    let mut rest = &said[..196];
    while let Some(first) = rest.first() {
        let word: &[TokenId] = match first {
            10 => &[10],
            20 => &[20, 21],
            30 => &[30, 31, 32],
            other => panic!("{other} begins no word"),
        };
        let length = word.len().min(rest.len());
        assert_eq!(rest[..length], word[..length]);
        rest = &rest[length..];
    }
    assert_ne!(said, answer(&mut executor, &[7; 5], 5, 2, 200));
    assert_eq!(said, answer(&mut executor, &[7; 5], 5, 1, 200));
    let none = AnswerText::Words(Arc::new([]));
    assert_eq!(answer(&mut self::executor(answers(none, None)), &[7], 1, 1, 3), [0, 0, 0]);
}

/// Two sequences in one step do not disturb each other, and one that is computed again goes on where it was.
#[test]
fn words_do_not_depend_on_who_is_computed_together() {
    let mut alone = executor(answers(words(), None));
    let (first, second) = (answer(&mut alone, &[7], 1, 1, 20), answer(&mut alone, &[7], 1, 2, 20));
    let mut together = executor(answers(words(), None));
    let part = |slot, seed, index: u32| Part {
        slot,
        first_position: index,
        tokens: &[7],
        sample: Some((seed, index)),
    };
    for index in 0..10_u32 {
        let said = tokens_of(&mut together, &[part(0, 1, index), part(1, 2, index)]);
        assert_eq!(said, [first[index as usize], second[index as usize]]);
    }
    // The slots are swapped, as after two sequences left and came back.
    let said = tokens_of(&mut together, &[part(1, 1, 10), part(0, 2, 10)]);
    assert_eq!(said, [first[10], second[10]]);
}

#[test]
fn an_echo_is_the_prompt_however_it_was_computed() {
    let prompt: Vec<TokenId> = (100..111).collect();
    let expected: Vec<_> = prompt.iter().copied().chain([END_OF_TEXT]).collect();
    for chunk in [1, 3, 4, 11] {
        let mut executor = executor(answers(echo(), None));
        assert_eq!(answer(&mut executor, &prompt, chunk, 0, 99), expected, "chunks of {chunk}");
    }
    // End-of-text tokens in the prompt are left out; with a length, the prompt is repeated.
    let mut executor = executor(answers(echo(), None));
    let turns = [100, END_OF_TEXT, 101, END_OF_TEXT];
    assert_eq!(answer(&mut executor, &turns, 4, 0, 99), [100, 101, END_OF_TEXT]);
    assert_eq!(answer(&mut executor, &[END_OF_TEXT; 3], 4, 0, 99), [END_OF_TEXT]);
    let mut repeating = self::executor(answers(echo(), Some((5, 5))));
    assert_eq!(answer(&mut repeating, &turns, 4, 0, 99), [100, 101, 100, 101, 100, END_OF_TEXT]);
}

/// What is in the blocks counts: a prefix that another sequence computed is not given again.
#[test]
fn an_echo_reads_a_prefix_from_the_blocks() {
    let mut executor = executor(answers(echo(), None));
    answer(&mut executor, &(100..108).collect::<Vec<_>>(), 8, 0, 1);
    let rest = Part { slot: 0, first_position: 8, tokens: &[200, 201], sample: Some((5, 0)) };
    let mut said = tokens_of(&mut executor, &[rest]);
    for index in 1..11 {
        let last = [said[said.len() - 1]];
        let part = Part { slot: 0, first_position: 9 + index, tokens: &last, sample: Some((5, index)) };
        said.extend(tokens_of(&mut executor, &[part]));
    }
    let expected: Vec<_> = (100..108).chain([200, 201, END_OF_TEXT]).collect();
    assert_eq!(said, expected);
}

#[test]
fn failures_strike_where_a_first_token_would_be() {
    let always = |kind| FailurePlan { probability: 1.0, kinds: vec![kind], seed: 0 };
    let chunk = Part { slot: 0, first_position: 0, tokens: &[7; 4], sample: None };
    let first = Part { slot: 0, first_position: 4, tokens: &[7], sample: Some((0, 0)) };
    let decode = Part { slot: 1, first_position: 9, tokens: &[7], sample: Some((0, 3)) };
    let mut tokens = Vec::new();

    let (mut failing, times) = timed(&always(FailureKind::ExecutorError));
    assert_eq!(tokens_of(&mut failing, &[chunk, decode]), [40]);
    let error = failing.execute(&input(&[decode, first]), &mut RuleBook::default(), &mut tokens).unwrap_err();
    assert!(error.to_string().contains("injected"), "{error}");
    assert_eq!(times.try_iter().count(), 1, "a step that fails takes no time");

    let (mut slow, times) = timed(&always(FailureKind::SlowStep(Duration::from_secs(3))));
    assert_eq!(tokens_of(&mut slow, &[first]), [40]);
    assert_eq!(tokens_of(&mut slow, &[decode]), [40]);
    let normal = Duration::from_micros(100);
    assert_eq!(times.try_iter().collect::<Vec<_>>(), [normal + Duration::from_secs(3), normal]);

    let (mut panicking, _times) = timed(&always(FailureKind::EnginePanic));
    let step = catch_unwind(AssertUnwindSafe(|| {
        panicking.execute(&input(&[first]), &mut RuleBook::default(), &mut tokens)
    }));
    assert!(step.is_err());
    // Those at submission are none of the executor's business.
    let (mut refused, _times) = timed(&always(FailureKind::RateLimit));
    assert_eq!(tokens_of(&mut refused, &[first]), [40]);
}
