//! HOT PATH. Attention of a step's tokens over paged keys and values.
//!
//! A task is one key-value head of one sequence with a few of its tokens, and all query heads that share that
//! head: each key and value is then read once per task. Scores of the whole context are kept until their maximum
//! is known, so results do not depend on how a context is cut into steps.
#![allow(
    unsafe_code,
    reason = "tasks write disjoint parts of the output and own their worker's scratch memory"
)]

use crate::{
    kernels::{
        LANES,
        vector::{multiply_add, softmax},
        widen_f16,
    },
    kv_cache::{KvLayout, LayerCache},
    parallel::{DisjointMut, Team},
};
use wayfare_engine_local::StepInput;

/// Query rows (tokens times heads) of one task; more would spill the scores of long contexts from the cache.
const ROWS_PER_TASK: usize = 24;
/// Query rows that share one pass over the keys or values of a block.
const ROWS_AT_ONCE: usize = 4;

/// Sizes that stay the same from layer to layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionShape {
    pub(crate) layout: KvLayout,
    pub(crate) num_heads: usize,
    /// Where the queries of a token start is its row times this.
    pub(crate) query_stride: usize,
}

/// What changes from layer to layer.
#[derive(Clone, Copy)]
pub(crate) struct LayerAttention<'a> {
    pub(crate) cache: &'a LayerCache,
    /// Rotated queries at the distance that the shape says.
    pub(crate) queries: &'a [f32],
    /// Number of positions that a token sees, its own included; `None`: all.
    pub(crate) window: Option<usize>,
}

/// Some tokens of a sequence with one key-value head.
#[derive(Clone, Copy, Debug)]
struct Task {
    sequence: usize,
    first_token: usize,
    num_tokens: usize,
    kv_head: usize,
}

/// How the attention of a step is cut into tasks, and memory for them.
#[derive(Default)]
pub(crate) struct AttentionPlan {
    tasks: Vec<Task>,
    scratch: Vec<Scratch>,
}

/// One worker's memory.
#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    block: Vec<f32>,
    outputs: Vec<f32>,
}

impl AttentionPlan {
    /// Cuts up `input`, for all layers.
    pub(crate) fn prepare(&mut self, team: &Team, shape: &AttentionShape, input: &StepInput) {
        let layout = &shape.layout;
        let group = shape.num_heads / layout.num_kv_heads;
        let tokens_per_task = (ROWS_PER_TASK / group).max(1);
        let mut longest = 0;
        self.tasks.clear();
        for (index, sequence) in input.sequences.iter().enumerate() {
            let num_tokens = sequence.num_tokens as usize;
            longest = longest.max(sequence.first_position as usize + num_tokens);
            for first_token in (0..num_tokens).step_by(tokens_per_task) {
                self.tasks.extend((0..layout.num_kv_heads).map(|kv_head| Task {
                    sequence: index,
                    first_token,
                    num_tokens: tokens_per_task.min(num_tokens - first_token),
                    kv_head,
                }));
            }
        }
        let rows = tokens_per_task * group;
        // A context starts within its first block, so it may reach over one block more than its length needs.
        let positions = (longest.div_ceil(layout.block_size) + 1) * layout.block_size;
        self.scratch.resize_with(team.num_workers(), Scratch::default);
        for scratch in &mut self.scratch {
            grow(&mut scratch.queries, rows * layout.head_dim);
            grow(&mut scratch.outputs, rows * layout.head_dim);
            grow(&mut scratch.scores, rows * positions);
            grow(&mut scratch.block, layout.head_block());
        }
    }

    /// Writes for each token and head of the prepared step the attention output, head after head, to `out`.
    pub(crate) fn run(
        &mut self,
        team: &Team,
        shape: &AttentionShape,
        input: &StepInput,
        layer: LayerAttention<'_>,
        out: &mut [f32],
    ) {
        let out = DisjointMut::new(out);
        let scratch = DisjointMut::new(&mut self.scratch);
        let tasks = &self.tasks;
        team.for_each(tasks.len(), |worker, index| {
            // SAFETY: calls with the same worker number do not overlap.
            let scratch = unsafe { &mut scratch.part(worker..worker + 1)[0] };
            let call = Call { shape, input, layer, task: tasks[index] };
            call.run(scratch, &out);
        });
    }
}

fn grow(buffer: &mut Vec<f32>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
}

struct Call<'a> {
    shape: &'a AttentionShape,
    input: &'a StepInput,
    layer: LayerAttention<'a>,
    task: Task,
}

impl Call<'_> {
    fn run(&self, scratch: &mut Scratch, out: &DisjointMut<'_, f32>) {
        let KvLayout { block_size, head_dim, num_kv_heads, .. } = self.shape.layout;
        let Task { sequence, first_token, num_tokens, kv_head } = self.task;
        let sequence = &self.input.sequences[sequence];
        let table = self.input.blocks_of(sequence);
        let group = self.shape.num_heads / num_kv_heads;
        let num_rows = num_tokens * group;
        let first_row = sequence.token_start as usize + first_token;
        let first_position = sequence.first_position as usize + first_token;
        let end = first_position + num_tokens;
        let oldest_of =
            |position: usize| self.layer.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let first_block = oldest_of(first_position) / block_size;
        let end_block = end.div_ceil(block_size);
        let base = first_block * block_size;
        let stride = (end_block - first_block) * block_size;

        let Scratch { queries, scores, block: floats, outputs } = scratch;
        let floats = &mut floats[..self.shape.layout.head_block()];
        let queries = &mut queries[..num_rows * head_dim];
        let scores = &mut scores[..num_rows * stride];
        let outputs = &mut outputs[..num_rows * head_dim];

        let scale = 1.0 / (head_dim as f32).sqrt();
        for (token, queries) in queries.chunks_exact_mut(group * head_dim).enumerate() {
            let start = (first_row + token) * self.shape.query_stride + kv_head * group * head_dim;
            let source = &self.layer.queries[start..start + group * head_dim];
            queries.iter_mut().zip(source).for_each(|(query, source)| *query = source * scale);
        }
        for (index, &block) in table[first_block..end_block].iter().enumerate() {
            let start = self.shape.layout.start(block as usize, kv_head);
            widen_f16(&self.layer.cache.keys()[start..start + floats.len()], floats);
            block_scores(queries, floats, head_dim, block_size, scores, stride, index * block_size);
        }
        for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
            let position = first_position + row / group;
            let visible = oldest_of(position).max(base) - base..position + 1 - base;
            scores[..visible.start].fill(0.0);
            scores[visible.end..].fill(0.0);
            softmax(&mut scores[visible]);
        }
        outputs.fill(0.0);
        for (index, &block) in table[first_block..end_block].iter().enumerate() {
            // Positions from `end` on hold whatever was there before, which may not even be a number.
            let count = block_size.min(end - base - index * block_size);
            let start = self.shape.layout.start(block as usize, kv_head);
            let values = &mut floats[..count * head_dim];
            widen_f16(&self.layer.cache.values()[start..start + values.len()], values);
            add_values(scores, stride, index * block_size, values, head_dim, outputs);
        }
        let width = self.shape.num_heads * head_dim;
        for (token, outputs) in outputs.chunks_exact(group * head_dim).enumerate() {
            let start = (first_row + token) * width + kv_head * group * head_dim;
            // SAFETY: a token's heads of one key-value head belong to one task.
            unsafe { out.part(start..start + outputs.len()) }.copy_from_slice(outputs);
        }
    }
}

/// Writes the scores of all rows with the positions of one block to `scores`, from `first` on in each row.
fn block_scores(
    queries: &[f32],
    keys: &[f32],
    head_dim: usize,
    block_size: usize,
    scores: &mut [f32],
    stride: usize,
    first: usize,
) {
    let groups = queries.chunks(ROWS_AT_ONCE * head_dim).zip(scores.chunks_mut(ROWS_AT_ONCE * stride));
    for (queries, scores) in groups {
        for start in (0..block_size).step_by(LANES) {
            let count = LANES.min(block_size - start);
            let mut rows = scores.chunks_exact_mut(stride);
            let mut keep = |sums: &[[f32; LANES]]| {
                for (sums, row) in sums.iter().zip(&mut rows) {
                    row[first + start..first + start + count].copy_from_slice(&sums[..count]);
                }
            };
            match queries.len() / head_dim {
                1 => keep(&lane_scores::<1>(queries, keys, head_dim, block_size, start, count)),
                2 => keep(&lane_scores::<2>(queries, keys, head_dim, block_size, start, count)),
                3 => keep(&lane_scores::<3>(queries, keys, head_dim, block_size, start, count)),
                _ => keep(&lane_scores::<ROWS_AT_ONCE>(queries, keys, head_dim, block_size, start, count)),
            }
        }
    }
}

/// Scores of `ROWS` rows with up to 16 positions from `start` on.
#[inline]
fn lane_scores<const ROWS: usize>(
    queries: &[f32],
    keys: &[f32],
    head_dim: usize,
    block_size: usize,
    start: usize,
    count: usize,
) -> [[f32; LANES]; ROWS] {
    let queries: [&[f32]; ROWS] = std::array::from_fn(|row| &queries[row * head_dim..(row + 1) * head_dim]);
    let mut sums = [[0.0; LANES]; ROWS];
    let mut add = |dimension: usize, keys: &[f32; LANES]| {
        for (sums, query) in sums.iter_mut().zip(&queries) {
            let query = query[dimension];
            for (sum, key) in sums.iter_mut().zip(keys) {
                *sum = multiply_add(query, *key, *sum);
            }
        }
    };
    for (dimension, keys) in keys.chunks_exact(block_size).enumerate() {
        if let Some(keys) = keys[start..].first_chunk() {
            add(dimension, keys);
        } else {
            let mut padded = [0.0; LANES];
            padded[..count].copy_from_slice(&keys[start..start + count]);
            add(dimension, &padded);
        }
    }
    sums
}

/// Adds the values of one block, weighted by the scores from `first` on in each row, to all rows' outputs.
fn add_values(
    scores: &[f32],
    stride: usize,
    first: usize,
    values: &[f32],
    head_dim: usize,
    outputs: &mut [f32],
) {
    let groups = scores.chunks(ROWS_AT_ONCE * stride).zip(outputs.chunks_mut(ROWS_AT_ONCE * head_dim));
    for (scores, outputs) in groups {
        let scores = &scores[first..];
        match outputs.len() / head_dim {
            1 => add_weighted::<1>(scores, stride, values, head_dim, outputs),
            2 => add_weighted::<2>(scores, stride, values, head_dim, outputs),
            3 => add_weighted::<3>(scores, stride, values, head_dim, outputs),
            _ => add_weighted::<ROWS_AT_ONCE>(scores, stride, values, head_dim, outputs),
        }
    }
}

#[inline]
fn add_weighted<const ROWS: usize>(
    scores: &[f32],
    stride: usize,
    values: &[f32],
    head_dim: usize,
    outputs: &mut [f32],
) {
    /// Dimensions whose sums stay in registers while the positions pass by.
    const WIDTH: usize = 2 * LANES;
    let count = values.len() / head_dim;
    let scores: [&[f32]; ROWS] = std::array::from_fn(|row| &scores[row * stride..row * stride + count]);
    let whole = head_dim / WIDTH * WIDTH;
    for start in (0..whole).step_by(WIDTH) {
        let mut sums = [[0.0f32; WIDTH]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate() {
            sums.copy_from_slice(&outputs[row * head_dim + start..row * head_dim + start + WIDTH]);
        }
        for (position, values) in values.chunks_exact(head_dim).enumerate() {
            let Some(values) = values[start..].first_chunk::<WIDTH>() else { continue };
            for (sums, scores) in sums.iter_mut().zip(&scores) {
                let weight = scores[position];
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = multiply_add(weight, *value, *sum);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            outputs[row * head_dim + start..row * head_dim + start + WIDTH].copy_from_slice(sums);
        }
    }
    for (row, scores) in scores.iter().enumerate() {
        let outputs = &mut outputs[row * head_dim + whole..(row + 1) * head_dim];
        for (position, values) in values.chunks_exact(head_dim).enumerate() {
            for (output, value) in outputs.iter_mut().zip(&values[whole..]) {
                *output = multiply_add(scores[position], *value, *output);
            }
        }
    }
}
