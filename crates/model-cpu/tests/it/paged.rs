//! The batched, paged forward against the naive one.

use crate::{
    driver::{Sequence, run_step},
    naive,
    tiny::{CONTEXT, Scaling, Shape, TinyModel, safetensors_directory},
};
use proptest::prelude::*;
use wayfare_model_cpu::{Architecture, CpuModel, KvCacheType, LoadOptions, ModelSource, WeightPrecision};

/// Enough for the longest sequences of a scenario in blocks of one token.
const NUM_BLOCKS: usize = 300;

fn load(model: &mut TinyModel, block_size: usize, precision: WeightPrecision) -> CpuModel {
    let directory = safetensors_directory(model);
    let source = ModelSource::open(directory.path()).unwrap();
    let options = LoadOptions {
        block_size,
        num_kv_blocks: NUM_BLOCKS,
        max_model_len: CONTEXT,
        threads: 2,
        precision,
        kv_cache_type: KvCacheType::Float16,
        instructions: None,
    };
    source.load(&options, &mut |_, _| {}).unwrap()
}

fn shapes() -> impl Strategy<Value = Shape> {
    let architecture = prop_oneof![
        Just(Architecture::Llama),
        Just(Architecture::Mistral),
        Just(Architecture::Qwen2),
        Just(Architecture::Qwen3),
    ];
    let scaling = prop_oneof![
        Just(Scaling::None),
        Just(Scaling::Linear { factor: 3.0 }),
        Just(Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 32 }),
        Just(Scaling::Yarn { factor: 4.0, original: 32 }),
    ];
    let sizes = (8usize..80, 8usize..100, 1usize..4, 1usize..4, 1usize..8, 1usize..40, 3usize..60);
    (architecture, scaling, sizes, any::<bool>(), proptest::option::of(1usize..40)).prop_map(
        |(architecture, scaling, sizes, tied, window)| {
            let (hidden, inner, layers, kv_heads, heads_per_kv_head, half_head, vocab) = sizes;
            Shape {
                architecture,
                hidden,
                inner,
                layers,
                kv_heads,
                heads_per_kv_head,
                head_dim: 2 * half_head,
                vocab,
                tied,
                window,
                scaling,
            }
        },
    )
}

/// What a scenario does: lengths of sequences, and how many tokens each is given in each step.
#[derive(Clone, Debug)]
struct Scenario {
    lengths: Vec<usize>,
    chunks: Vec<Vec<usize>>,
}

fn scenarios() -> impl Strategy<Value = Scenario> {
    let lengths = proptest::collection::vec(1usize..50, 1..6);
    let chunks = proptest::collection::vec(proptest::collection::vec(0usize..20, 6), 1..60);
    (lengths, chunks).prop_map(|(lengths, chunks)| Scenario { lengths, chunks })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn batches_of_chunks_give_the_naive_logits(
        shape in shapes(),
        seed in any::<u64>(),
        block_size in 1usize..35,
        scenario in scenarios(),
    ) {
        let vocab = shape.vocab as u64;
        let mut tiny = TinyModel::random(&shape, seed);
        let mut model = load(&mut tiny, block_size, WeightPrecision::Full);
        // Blocks are handed out in an order without a pattern.
        let mut free: Vec<u32> = (1..NUM_BLOCKS as u32).collect();
        free.sort_by_key(|&block| u64::from(block).wrapping_mul(seed | 1).rotate_left(17));
        let mut sequences: Vec<Sequence> = Vec::new();
        for (index, &length) in scenario.lengths.iter().enumerate() {
            let tokens: Vec<u32> = (0..length as u64)
                .map(|position| ((seed.wrapping_add(position * 7919 + index as u64 * 104_729)) % vocab) as u32)
                .collect();
            let count = length.div_ceil(block_size);
            sequences.push(Sequence::new(&tokens, free.split_off(free.len() - count)));
        }
        let expected: Vec<Vec<Vec<f64>>> =
            sequences.iter().map(|sequence| naive::logits(&tiny, &sequence.tokens)).collect();
        // The last steps finish whatever the scenario leaves.
        let rest = std::iter::once(vec![usize::MAX; 6]);
        let mut num_checked = 0;
        for chunk in scenario.chunks.iter().cloned().chain(rest) {
            let counts: Vec<usize> = sequences
                .iter()
                .zip(&chunk)
                .map(|(sequence, &count)| count.min(sequence.num_uncomputed()))
                .collect();
            for (index, logits) in run_step(&mut model, &mut sequences, &counts) {
                let expected = expected[index].last().unwrap();
                // Half precision in the cache is the only rounding worth naming.
                let error = distance(&logits, expected);
                prop_assert!(error < 1e-2, "sequence {} of {:?} is off by {}", index, tiny.shape, error);
                num_checked += 1;
            }
        }
        prop_assert_eq!(num_checked, sequences.len());
    }
}

/// Euclidean distance relative to what is expected.
fn distance(logits: &[f32], expected: &[f64]) -> f64 {
    let square_error: f64 =
        logits.iter().zip(expected).map(|(logit, expected)| (f64::from(*logit) - expected).powi(2)).sum();
    let square_norm: f64 = expected.iter().map(|value| value * value).sum();
    (square_error / square_norm).sqrt()
}

#[test]
fn quantised_logits_are_near_the_naive_ones_and_do_not_depend_on_the_batch() {
    for architecture in [Architecture::Llama, Architecture::Mistral, Architecture::Qwen2, Architecture::Qwen3]
    {
        let mut tiny = TinyModel::random(&Shape::plain(architecture), 42);
        let mut model = load(&mut tiny, 8, WeightPrecision::Quantised);
        let tokens: Vec<u32> = (0..40).map(|index| (index * 17 + 3) % 50).collect();
        let prompts = [&tokens[..40], &tokens[5..30], &tokens[10..11]];
        let fresh = || -> Vec<Sequence> {
            prompts
                .iter()
                .enumerate()
                .map(|(index, tokens)| {
                    Sequence::new(tokens, (1..=5).map(|block| 5 * index as u32 + block).collect())
                })
                .collect()
        };
        let mut together = fresh();
        let counts: Vec<usize> = together.iter().map(Sequence::num_uncomputed).collect();
        let batched = run_step(&mut model, &mut together, &counts);
        for (index, logits) in &batched {
            let expected = naive::logits(&tiny, prompts[*index]).pop().unwrap();
            let error = distance(logits, &expected);
            assert!(error < 0.06, "{architecture:?} {index}: off by {error}");
        }
        for chunk in [1, 3, 40] {
            for (index, sequence) in fresh().into_iter().enumerate() {
                let mut alone = [sequence];
                let mut last = Vec::new();
                while alone[0].num_uncomputed() > 0 {
                    let count = chunk.min(alone[0].num_uncomputed());
                    last = run_step(&mut model, &mut alone, &[count]);
                }
                assert_eq!(last[0].1, batched[index].1, "{architecture:?}, chunks of {chunk}: bit for bit");
            }
        }
    }
}
