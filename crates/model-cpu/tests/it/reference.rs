//! The default model against an independent implementation, whose numbers are in `tests/data/greedy.json`:
//! Hugging Face transformers, in 32-bit floats, with the same file's weights dequantised.

use crate::driver::{Sequence, best, log_probability, push, run_step};
use serde::Deserialize;
use wayfare_engine_local::{Model as _, StepInput};
use wayfare_model_cpu::{CpuModel, Instructions, KvCacheType, LoadOptions, ModelSource, WeightPrecision};
use wayfare_testkit::default_model_path;

/// Where the two best tokens are closer than this (in log-probability), another precision may choose the other.
const CLOSE_CALL: f64 = 0.1;

#[derive(Deserialize)]
struct Case {
    prompt: String,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    logprobs: Vec<f64>,
    top2_gap: Vec<f64>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../data/greedy.json")).expect("the reference file is whole")
}

fn load(precision: WeightPrecision) -> CpuModel {
    load_with(&LoadOptions { precision, ..OPTIONS })
}

const OPTIONS: LoadOptions = LoadOptions {
    block_size: 16,
    num_kv_blocks: 256,
    max_model_len: 2048,
    threads: 2,
    precision: WeightPrecision::Quantised,
    kv_cache_type: KvCacheType::Float16,
    instructions: None,
};

fn load_with(options: &LoadOptions) -> CpuModel {
    let source = ModelSource::open(&default_model_path()).expect("the default model opens");
    source.load(options, &mut |_, _| {}).expect("the default model loads")
}

/// Blocks for `length` tokens, from `first` on in an order that is not ascending.
fn blocks(first: u32, length: usize) -> Vec<u32> {
    let count = length.div_ceil(16) as u32;
    (0..count).map(|index| first + count - 1 - index).collect()
}

fn check_teacher_forcing(precision: WeightPrecision, most: f64, mean: f64) {
    let mut model = load(precision);
    let (mut errors, mut worst) = (Vec::new(), 0.0f64);
    for case in cases() {
        let tokens = [&case.prompt_ids[..], &case.greedy_ids].concat();
        let mut sequences = [Sequence::new(&case.prompt_ids, blocks(1, tokens.len()))];
        let mut num_new = case.prompt_ids.len();
        for (index, &token) in case.greedy_ids.iter().enumerate() {
            let logits = run_step(&mut model, &mut sequences, &[num_new]).remove(0).1;
            let error = (log_probability(&logits, token) - case.logprobs[index]).abs();
            errors.push(error);
            worst = worst.max(error);
            sequences[0].tokens.push(token);
            num_new = 1;
        }
    }
    let average = errors.iter().sum::<f64>() / errors.len() as f64;
    assert!(worst <= most, "off by {worst}, at most {most} is right");
    assert!(average <= mean, "off by {average} on average, at most {mean} is right");
}

#[test]
fn quantised_log_probabilities_are_those_of_the_reference() {
    check_teacher_forcing(WeightPrecision::Quantised, 0.15, 0.03);
}

#[test]
fn full_precision_log_probabilities_are_those_of_the_reference() {
    check_teacher_forcing(WeightPrecision::Full, 0.01, 0.01);
}

/// Ids that continue a prompt greedily, chosen by `model` in the company and chunks that `counts` sets up.
fn check_greedy(case: &Case, found: &[u32], how: &str) {
    let decided = case.top2_gap.iter().position(|&gap| gap < CLOSE_CALL).unwrap_or(case.greedy_ids.len());
    assert!(decided > 0 || case.top2_gap[0] < CLOSE_CALL);
    assert_eq!(found[..decided], case.greedy_ids[..decided], "{how}: {}", case.prompt);
}

/// Generates as many tokens as the reference has, alone, the prompt in chunks; at `preempt_after` generated
/// tokens everything computed is forgotten and computed again in other blocks.
fn generate(model: &mut CpuModel, case: &Case, chunk: usize, preempt_after: Option<usize>) -> Vec<u32> {
    let length = case.prompt_ids.len() + case.greedy_ids.len();
    let mut sequences = [Sequence::new(&case.prompt_ids, blocks(1, length))];
    let mut generated = Vec::new();
    while generated.len() < case.greedy_ids.len() {
        if preempt_after == Some(generated.len()) && sequences[0].num_computed > case.prompt_ids.len() {
            sequences[0] = Sequence::new(&sequences[0].tokens, blocks(40, length));
        }
        let count = chunk.min(sequences[0].num_uncomputed());
        if let Some((_, logits)) = run_step(model, &mut sequences, &[count]).pop() {
            let (token, _) = best(&logits);
            generated.push(token);
            sequences[0].tokens.push(token);
        }
    }
    generated
}

#[test]
fn greedy_answers_are_those_of_the_reference_however_they_are_scheduled() {
    let mut model = load(WeightPrecision::Quantised);
    let cases = cases();
    let alone: Vec<Vec<u32>> = cases.iter().map(|case| generate(&mut model, case, 1000, None)).collect();
    for (case, alone) in cases.iter().zip(&alone) {
        check_greedy(case, alone, "alone");
        // A row's result does not depend on its company, so the rest is equal even in close calls.
        for chunk in [1, 7, 16, 30] {
            assert_eq!(&generate(&mut model, case, chunk, None), alone, "in chunks of {chunk}");
        }
        assert_eq!(&generate(&mut model, case, 1000, Some(4)), alone, "preempted after 4 tokens");
        assert_eq!(&generate(&mut model, case, 11, Some(6)), alone, "preempted after 6 tokens, in chunks");
    }

    // All together, each starting when the one before has begun to generate, so that prefills and decodes mix.
    let mut sequences: Vec<Sequence> = cases
        .iter()
        .enumerate()
        .map(|(index, case)| {
            let length = case.prompt_ids.len() + case.greedy_ids.len();
            Sequence::new(&case.prompt_ids, blocks(1 + 50 * index as u32, length))
        })
        .collect();
    let mut generated = vec![Vec::new(); cases.len()];
    for step in 0.. {
        let counts: Vec<usize> = sequences
            .iter()
            .enumerate()
            .map(|(index, sequence)| {
                let is_done = generated[index].len() == cases[index].greedy_ids.len();
                if is_done || step < 3 * index { 0 } else { sequence.num_uncomputed().min(20) }
            })
            .collect();
        if counts.iter().all(|&count| count == 0) {
            break;
        }
        for (index, logits) in run_step(&mut model, &mut sequences, &counts) {
            let (token, _) = best(&logits);
            generated[index].push(token);
            sequences[index].tokens.push(token);
        }
    }
    assert_eq!(generated, alone, "batched");
}

/// Tokens of the beginning of this project's ARCHITECTURE.md.
fn text() -> Vec<u32> {
    serde_json::from_str(include_str!("../data/text.json")).expect("a list of token ids")
}

/// Log-probabilities of each token after the first, `chunk` tokens at a time.
fn log_probabilities(model: &mut CpuModel, tokens: &[u32], chunk: usize) -> Vec<f64> {
    let mut sequence = Sequence::new(tokens, blocks(1, tokens.len()));
    let mut logits = Vec::new();
    let mut found = Vec::new();
    while sequence.num_uncomputed() > 0 {
        let count = sequence.num_uncomputed().min(chunk);
        let mut step = StepInput::default();
        push(&mut step, &sequence, count, true);
        step.sequences[0].num_logits = count as u32;
        model.forward(&step, &mut logits).expect("the step is valid");
        sequence.num_computed += count;
        let first = sequence.num_computed - count + 1;
        let next = tokens[first..].iter().zip(logits.chunks(model.vocab_size()));
        found.extend(next.map(|(&token, logits)| log_probability(logits, token)));
    }
    found
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

#[test]
fn the_default_precision_reads_a_text_as_well_as_floats_do() {
    let text = &text()[..1024];
    let floats =
        LoadOptions { precision: WeightPrecision::Full, kv_cache_type: KvCacheType::Float32, ..OPTIONS };
    let exact = log_probabilities(&mut load_with(&floats), text, 128);
    for kv_cache_type in [KvCacheType::Float16, KvCacheType::BFloat16, KvCacheType::Float32] {
        let found = log_probabilities(&mut load_with(&LoadOptions { kv_cache_type, ..OPTIONS }), text, 128);
        let differences = found.iter().zip(&exact).map(|(found, exact)| found - exact);
        let typical = mean(differences.clone().map(|difference| difference.powi(2))).sqrt();
        // Perplexity is e to the mean negative log-probability.
        let perplexity = mean(differences.map(|difference| -difference)).exp();
        println!("{kv_cache_type}: log-probabilities off by {typical:.4}, perplexity times {perplexity:.5}");
        assert!(typical < 0.06, "{kv_cache_type}: log-probabilities are off by {typical}");
        assert!(
            (perplexity - 1.0).abs() < 0.005,
            "{kv_cache_type}: perplexity is {perplexity} times as high"
        );
    }
}

/// A step of so many rows goes through each layer in several groups.
#[test]
fn a_long_text_is_read_in_one_step_as_in_many() {
    let text = &text()[..700];
    let mut model = load(WeightPrecision::Quantised);
    let chunked = log_probabilities(&mut model, text, 100);
    assert_eq!(log_probabilities(&mut model, text, text.len()), chunked, "bit for bit");
}

#[test]
fn answers_are_the_same_with_all_instructions_and_any_number_of_threads() {
    let tokens = &cases()[0].prompt_ids;
    let answers: Vec<(Instructions, Vec<f32>)> = Instructions::available()
        .zip([2, 3, 1])
        .map(|(set, threads)| {
            let mut model = load_with(&LoadOptions { instructions: Some(set), threads, ..OPTIONS });
            let mut sequences = [Sequence::new(tokens, blocks(1, tokens.len()))];
            (set, run_step(&mut model, &mut sequences, &[tokens.len()]).remove(0).1)
        })
        .collect();
    for pair in answers.windows(2) {
        let [(set, logits), (other, others)] = pair else { unreachable!() };
        // Where products are fused with their sums, and where they are not, to the last bit.
        if set.is_fused() == other.is_fused() {
            assert!(logits == others, "{set} and {other}");
        }
        // A value that is rounded to the next of 255 levels changes a little of everything after it.
        let squares = logits.iter().zip(others).map(|(a, b)| f64::from(a - b).powi(2));
        let difference = (squares.sum::<f64>() / logits.len() as f64).sqrt();
        assert!(difference < 0.3, "{set} and {other}: {difference}");
        let token = best(logits).0;
        let difference = log_probability(logits, token) - log_probability(others, token);
        assert!(difference.abs() < 0.2, "{set} and {other}: {difference}");
    }
}

#[test]
fn the_headers_tell_what_a_server_needs() {
    let source = ModelSource::open(&default_model_path()).expect("the default model opens");
    let info = source.info();
    assert_eq!(info.architecture.name(), "llama");
    assert_eq!((info.context_length, info.vocab_size, info.num_layers), (8192, 49152, 30));
    assert_eq!((info.num_kv_heads, info.head_dim), (3, 64));
    assert_eq!(info.kv_bytes_per_token(KvCacheType::Float16), 30 * 3 * 64 * 2 * 2);
    assert_eq!(info.eos_token_ids, [2]);
    let quantised = source.weight_bytes(WeightPrecision::Quantised);
    assert!((90_000_000..110_000_000).contains(&quantised), "{quantised}");
    assert_eq!(source.weight_bytes(WeightPrecision::Full) / 4, 134_479_872);
    let vocabulary = source.vocabulary().expect("the file has a tokeniser");
    assert_eq!(vocabulary.model, "gpt2");
    assert_eq!(vocabulary.pre.as_deref(), Some("smollm"));
    assert_eq!((vocabulary.tokens.len(), vocabulary.merges.len()), (49152, 48900));
    assert_eq!(vocabulary.token_types.len(), 49152);
    assert_eq!(vocabulary.tokens[2], "<|im_end|>");
    assert_eq!((vocabulary.bos_token_id, vocabulary.eos_token_id), (Some(1), Some(2)));
    assert_eq!((vocabulary.add_bos_token, vocabulary.add_space_prefix), (Some(false), Some(false)));
    assert!(vocabulary.chat_template.as_ref().is_some_and(|template| template.contains("<|im_start|>")));
}
