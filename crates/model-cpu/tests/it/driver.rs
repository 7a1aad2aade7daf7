//! Feeding sequences to a model the way an engine does.

use wayfare_engine::RequestId;
use wayfare_engine_local::{Model, SampleSpec, StepInput, StepSequence};

pub(crate) const GREEDY: SampleSpec =
    SampleSpec { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, seed: 0, output_index: 0 };

/// A sequence that an engine would hold: all its tokens, how many are in the cache, its blocks.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) tokens: Vec<u32>,
    pub(crate) num_computed: usize,
    pub(crate) blocks: Vec<u32>,
}

impl Sequence {
    pub(crate) fn new(tokens: &[u32], blocks: Vec<u32>) -> Self {
        Self { tokens: tokens.to_vec(), num_computed: 0, blocks }
    }

    pub(crate) fn num_uncomputed(&self) -> usize {
        self.tokens.len() - self.num_computed
    }
}

/// Adds the next `num_tokens` tokens of `sequence` to `step`, sampling after the last if `sample`.
pub(crate) fn push(step: &mut StepInput, sequence: &Sequence, num_tokens: usize, sample: bool) {
    let end = sequence.num_computed + num_tokens;
    step.sequences.push(StepSequence {
        id: RequestId(step.sequences.len() as u64),
        slot: step.sequences.len() as u32,
        token_start: step.token_ids.len() as u32,
        num_tokens: num_tokens as u32,
        first_position: sequence.num_computed as u32,
        block_start: step.block_tables.len() as u32,
        num_blocks: sequence.blocks.len() as u32,
        sample: sample.then_some(GREEDY),
        num_logits: u32::from(sample),
        has_rules: false,
    });
    step.token_ids.extend_from_slice(&sequence.tokens[sequence.num_computed..end]);
    step.block_tables.extend_from_slice(&sequence.blocks);
}

/// Runs one step with the next `counts[i]` tokens of each sequence, sampling where a sequence is then complete;
/// returns for each sampled sequence its index and its logits.
pub(crate) fn run_step(
    model: &mut dyn Model,
    sequences: &mut [Sequence],
    counts: &[usize],
) -> Vec<(usize, Vec<f32>)> {
    let mut step = StepInput::default();
    let mut sampled = Vec::new();
    for (index, (sequence, &count)) in sequences.iter_mut().zip(counts).enumerate() {
        if count == 0 {
            continue;
        }
        let completes = count == sequence.num_uncomputed();
        push(&mut step, sequence, count, completes);
        sequence.num_computed += count;
        if completes {
            sampled.push(index);
        }
    }
    let mut logits = Vec::new();
    model.forward(&step, &mut logits).expect("the step is valid");
    let vocab_size = model.vocab_size();
    assert_eq!(logits.len(), sampled.len() * vocab_size);
    sampled.into_iter().zip(logits.chunks(vocab_size).map(<[f32]>::to_vec)).collect()
}

/// The most likely token, and by how much its log-probability exceeds the second's.
pub(crate) fn best(logits: &[f32]) -> (u32, f32) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    (order[0] as u32, logits[order[0]] - logits[order[1]])
}

/// The natural log-probability of `token`.
pub(crate) fn log_probability(logits: &[f32], token: u32) -> f64 {
    let maximum = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b)) as f64;
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - maximum).exp()).sum();
    f64::from(logits[token as usize]) - maximum - sum.ln()
}
