//! HOT PATH. Attention of a step's tokens over paged keys and values.
//!
//! A task is one key-value head of one sequence with a few of its tokens, and all query heads that share that
//! head: each key and value is then read once per task. Scores of the whole context are kept until their maximum
//! is known, so results do not depend on how a context is cut into steps.
#![allow(
    unsafe_code,
    reason = "tasks write disjoint parts of the output and own their worker's scratch memory; bounds are checked once"
)]
#![allow(clippy::needless_range_loop, reason = "several arrays are indexed alike, and stay in registers")]

use crate::{
    kernels::{Instructions, Kernel, LANES, Lanes, prefetch, prefetch_output, vector::softmax},
    kv_cache::{Component, KvLayout},
    memory::grow,
    parallel::{DisjointMut, Team},
};
use std::ops::Range;
use wayfare_engine_local::{StepInput, StepSequence};

/// Query rows (tokens times heads) of one task; more would spill the scores of long contexts from the cache.
const ROWS_PER_TASK: usize = 24;
/// Query rows that share one pass over the keys or values of a block.
const ROWS_AT_ONCE: usize = 6;
/// How many parts of blocks, keys or values of one head, the cache is asked for before they are read. A part is read
/// in less time than it takes to come from memory.
const PARTS_AHEAD: usize = 4;

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
pub(crate) struct LayerAttention<'a, C> {
    pub(crate) layer: usize,
    /// Keys and values of all layers.
    pub(crate) cache: &'a [C],
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
    /// Cuts up `input`. Of each sequence so many tokens, the last ones, get an output as `wanted` says.
    pub(crate) fn prepare(
        &mut self,
        team: &Team,
        shape: &AttentionShape,
        input: &StepInput,
        wanted: fn(&StepSequence) -> u32,
    ) {
        let layout = &shape.layout;
        let group = shape.num_heads / layout.num_kv_heads;
        let tokens_per_task = (ROWS_PER_TASK / group).max(1);
        let mut longest = 0;
        self.tasks.clear();
        for (index, sequence) in input.sequences.iter().enumerate() {
            let num_tokens = sequence.num_tokens as usize;
            longest = longest.max(sequence.first_position as usize + num_tokens);
            let first_wanted = num_tokens - wanted(sequence) as usize;
            for first_token in (first_wanted..num_tokens).step_by(tokens_per_task) {
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

    /// Writes for each wanted token and head of the prepared step the attention output, head after head, to its row of
    /// `out`.
    pub(crate) fn run<C: Component>(
        &mut self,
        instructions: Instructions,
        team: &Team,
        shape: &AttentionShape,
        input: &StepInput,
        layer: LayerAttention<'_, C>,
        out: &mut [f32],
    ) {
        let out = DisjointMut::new(out);
        let scratch = DisjointMut::new(&mut self.scratch);
        let tasks = &self.tasks;
        team.for_each(tasks.len(), |worker, index| {
            // SAFETY: calls with the same worker number do not overlap.
            let scratch = unsafe { &mut scratch.part(worker..worker + 1)[0] };
            let call = Call { shape, input, layer, task: tasks[index], next: tasks.get(index + 1) };
            instructions.run(TaskKernel { call, scratch, out: &out });
        });
    }
}

struct Call<'a, C> {
    shape: &'a AttentionShape,
    input: &'a StepInput,
    layer: LayerAttention<'a, C>,
    task: Task,
    /// The task that most likely follows on the same thread.
    next: Option<&'a Task>,
}

/// The blocks that a task reads.
struct Context<'a> {
    first_block: usize,
    blocks: &'a [u32],
    kv_head: usize,
}

struct TaskKernel<'a, C> {
    call: Call<'a, C>,
    scratch: &'a mut Scratch,
    out: &'a DisjointMut<'a, f32>,
}

impl<C: Component> Kernel for TaskKernel<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        self.call.run(lanes, self.scratch, self.out);
    }
}

impl<C: Component> Call<'_, C> {
    fn keys(&self, block: u32, kv_head: usize) -> &[C] {
        &self.layer.cache[self.shape.layout.keys(self.layer.layer, block as usize, kv_head)]
    }

    fn values(&self, block: u32, kv_head: usize) -> &[C] {
        &self.layer.cache[self.shape.layout.values(self.layer.layer, block as usize, kv_head)]
    }

    /// The first position that the token at `position` sees.
    fn oldest_seen(&self, position: usize) -> usize {
        self.layer.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    fn context(&self, task: &Task) -> Context<'_> {
        let sequence = &self.input.sequences[task.sequence];
        let first_position = sequence.first_position as usize + task.first_token;
        let block_size = self.shape.layout.block_size;
        let first_block = self.oldest_seen(first_position) / block_size;
        let end_block = (first_position + task.num_tokens).div_ceil(block_size);
        let blocks = &self.input.blocks_of(sequence)[first_block..end_block];
        Context { first_block, blocks, kv_head: task.kv_head }
    }

    /// The `index`-th part of `context`, of which the keys come first, or of what comes `next`; nothing after that.
    fn part(&self, context: &Context<'_>, next: Option<&Context<'_>>, index: usize) -> &[C] {
        let part_of = |context: &Context<'_>, index: usize| {
            let num_blocks = context.blocks.len();
            let keys = context.blocks.get(index).map(|&block| self.keys(block, context.kv_head));
            let values = || Some(self.values(*context.blocks.get(index - num_blocks)?, context.kv_head));
            keys.or_else(values)
        };
        part_of(context, index)
            .or_else(|| next.and_then(|next| part_of(next, index - 2 * context.blocks.len())))
            .unwrap_or_default()
    }

    /// Where the queries of one token of a task are.
    fn queries_of(&self, task: &Task, token: usize) -> Range<usize> {
        let row = self.input.sequences[task.sequence].token_start as usize + task.first_token + token;
        let length = self.shape.num_heads / self.shape.layout.num_kv_heads * self.shape.layout.head_dim;
        let start = row * self.shape.query_stride + task.kv_head * length;
        start..start + length
    }

    #[inline(always)]
    fn run<L: Lanes>(&self, lanes: L, scratch: &mut Scratch, out: &DisjointMut<'_, f32>) {
        let KvLayout { block_size, head_dim, num_kv_heads, .. } = self.shape.layout;
        let Task { sequence, first_token, num_tokens, kv_head } = self.task;
        let sequence = &self.input.sequences[sequence];
        let group = self.shape.num_heads / num_kv_heads;
        let num_rows = num_tokens * group;
        let first_row = sequence.token_start as usize + first_token;
        let first_position = sequence.first_position as usize + first_token;
        let end = first_position + num_tokens;
        let context = self.context(&self.task);
        let next = self.next.map(|task| self.context(task));
        let base = context.first_block * block_size;
        let stride = context.blocks.len() * block_size;

        let Scratch { queries, scores, block: floats, outputs } = scratch;
        let floats = &mut floats[..self.shape.layout.head_block()];
        let queries = &mut queries[..num_rows * head_dim];
        let scores = &mut scores[..num_rows * stride];
        let outputs = &mut outputs[..num_rows * head_dim];

        let width = self.shape.num_heads * head_dim;
        let outputs_of = |token: usize| {
            let start = (first_row + token) * width + kv_head * group * head_dim;
            start..start + group * head_dim
        };
        for token in 0..num_tokens {
            prefetch_output(lanes, out.pointer(outputs_of(token)), group * head_dim);
        }
        if let Some(next) = self.next {
            for token in 0..next.num_tokens {
                prefetch(lanes, self.layer.queries, self.queries_of(next, token));
            }
        }

        let scale = 1.0 / (head_dim as f32).sqrt();
        for (token, queries) in queries.chunks_exact_mut(group * head_dim).enumerate() {
            let source = &self.layer.queries[self.queries_of(&self.task, token)];
            queries.iter_mut().zip(source).for_each(|(query, source)| *query = source * scale);
        }
        // Many rows take long enough over a part for the next one to come from memory.
        let has_few_rows = num_rows <= ROWS_AT_ONCE;
        let parts_ahead = if has_few_rows { PARTS_AHEAD } else { 1 };
        for (index, &block) in context.blocks.iter().enumerate() {
            let keys = self.keys(block, kv_head);
            let scores = BlockScores { scores: &mut *scores, stride, first: index * block_size };
            let ahead = self.part(&context, next.as_ref(), index + parts_ahead);
            if has_few_rows {
                block_scores(lanes, queries, keys, ahead, head_dim, block_size, scores);
            } else {
                prefetch(lanes, ahead, 0..ahead.len());
                widen(lanes, keys, floats);
                block_scores(lanes, queries, floats, &[], head_dim, block_size, scores);
            }
        }
        for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
            let position = first_position + row / group;
            let visible = self.oldest_seen(position).max(base) - base..position + 1 - base;
            scores[..visible.start].fill(0.0);
            scores[visible.end..].fill(0.0);
            softmax(lanes, &mut scores[visible]);
        }
        outputs.fill(0.0);
        for (index, &block) in context.blocks.iter().enumerate() {
            // Positions from `end` on hold whatever was there before, which may not even be a number.
            let count = block_size.min(end - base - index * block_size);
            let values = &self.values(block, kv_head)[..count * head_dim];
            let weights = BlockWeights { weights: scores, stride, first: index * block_size };
            let ahead = self.part(&context, next.as_ref(), context.blocks.len() + index + parts_ahead);
            if has_few_rows {
                add_values(lanes, weights, values, ahead, head_dim, outputs);
            } else {
                prefetch(lanes, ahead, 0..ahead.len());
                let floats = &mut floats[..values.len()];
                widen(lanes, values, floats);
                add_values(lanes, weights, floats, &[], head_dim, outputs);
            }
        }
        for (token, outputs) in outputs.chunks_exact(group * head_dim).enumerate() {
            // SAFETY: a token's heads of one key-value head belong to one task.
            unsafe { out.part(outputs_of(token)) }.copy_from_slice(outputs);
        }
    }
}

/// Converts stored components to floats. For many rows it pays to do so once.
#[inline(always)]
fn widen<L: Lanes, C: Component>(lanes: L, stored: &[C], floats: &mut [f32]) {
    let (stored_lanes, stored_rest) = stored.as_chunks::<LANES>();
    let (float_lanes, float_rest) = floats.as_chunks_mut::<LANES>();
    for (stored, floats) in stored_lanes.iter().zip(float_lanes) {
        lanes.store(C::widen(lanes, stored), floats);
    }
    let mut padded = [0.0; LANES];
    lanes.store(load(lanes, stored_rest), &mut padded);
    float_rest.copy_from_slice(&padded[..float_rest.len()]);
}

/// The first 16 components, filled up with zeros where there are fewer.
#[inline(always)]
fn load<L: Lanes, C: Component>(lanes: L, stored: &[C]) -> L::Floats {
    if let Some(stored) = stored.first_chunk() {
        return C::widen(lanes, stored);
    }
    let mut padded = [C::zeroed(); LANES];
    padded[..stored.len()].copy_from_slice(stored);
    C::widen(lanes, &padded)
}

/// Where the scores of one block go: `stride` apart for each row, from `first` on.
struct BlockScores<'a> {
    scores: &'a mut [f32],
    stride: usize,
    first: usize,
}

/// Writes the scores of all rows with the positions of one block.
#[inline(always)]
fn block_scores<L: Lanes, C: Component>(
    lanes: L,
    queries: &[f32],
    keys: &[C],
    ahead: &[C],
    head_dim: usize,
    block_size: usize,
    out: BlockScores<'_>,
) {
    let BlockScores { scores, stride, first } = out;
    let groups = queries.chunks(ROWS_AT_ONCE * head_dim).zip(scores.chunks_mut(ROWS_AT_ONCE * stride));
    for (queries, scores) in groups {
        for start in (0..block_size).step_by(LANES) {
            let count = LANES.min(block_size - start);
            let keys = KeyLanes { keys: &keys[start..], block_size, count, ahead };
            let out = BlockScores { scores: &mut *scores, stride, first: first + start };
            match queries.len() / head_dim {
                1 => lane_scores::<L, C, 1>(lanes, queries, keys, head_dim, out),
                2 => lane_scores::<L, C, 2>(lanes, queries, keys, head_dim, out),
                3 => lane_scores::<L, C, 3>(lanes, queries, keys, head_dim, out),
                4 => lane_scores::<L, C, 4>(lanes, queries, keys, head_dim, out),
                5 => lane_scores::<L, C, 5>(lanes, queries, keys, head_dim, out),
                _ => lane_scores::<L, C, ROWS_AT_ONCE>(lanes, queries, keys, head_dim, out),
            }
        }
    }
}

/// `count` positions of a block: a dimension starts `block_size` after the one before.
#[derive(Clone, Copy)]
struct KeyLanes<'a, C> {
    keys: &'a [C],
    block_size: usize,
    count: usize,
    /// What to ask the cache for meanwhile.
    ahead: &'a [C],
}

/// Scores of `ROWS` rows with up to 16 positions.
#[inline(always)]
fn lane_scores<L: Lanes, C: Component, const ROWS: usize>(
    lanes: L,
    queries: &[f32],
    keys: KeyLanes<'_, C>,
    head_dim: usize,
    out: BlockScores<'_>,
) {
    let KeyLanes { keys, block_size, count, ahead } = keys;
    assert!(queries.len() == ROWS * head_dim && keys.len() + block_size >= head_dim * block_size + count);
    let keys_of = |dimension: usize| {
        // SAFETY: as just checked, even the last dimension has `count` positions.
        unsafe { keys.get_unchecked(dimension * block_size..dimension * block_size + count) }
    };
    // Even and odd dimensions apart: of one sum after the other a few rows would have to wait for the last product.
    let mut sums = [[lanes.splat(0.0); ROWS]; 2];
    let mut dimension = 0;
    while dimension + 2 <= head_dim {
        let start = dimension * block_size;
        prefetch(lanes, ahead, start..start + 2 * block_size);
        let loaded = [load(lanes, keys_of(dimension)), load(lanes, keys_of(dimension + 1))];
        for row in 0..ROWS {
            for half in 0..2 {
                // SAFETY: there are `ROWS` times `head_dim` queries.
                let query = unsafe { *queries.get_unchecked(row * head_dim + dimension + half) };
                sums[half][row] = lanes.multiply_add(lanes.splat(query), loaded[half], sums[half][row]);
            }
        }
        dimension += 2;
    }
    if dimension < head_dim {
        let loaded = load(lanes, keys_of(dimension));
        for row in 0..ROWS {
            let query = lanes.splat(queries[row * head_dim + dimension]);
            sums[0][row] = lanes.multiply_add(query, loaded, sums[0][row]);
        }
    }
    let BlockScores { scores, stride, first } = out;
    for row in 0..ROWS {
        let target = &mut scores[row * stride + first..][..count];
        store(lanes, lanes.add(sums[0][row], sums[1][row]), target);
    }
}

/// The first of 16 floats.
#[inline(always)]
fn store<L: Lanes>(lanes: L, floats: L::Floats, target: &mut [f32]) {
    if let Some(target) = target.as_mut_array() {
        lanes.store(floats, target);
    } else {
        let mut padded = [0.0; LANES];
        lanes.store(floats, &mut padded);
        target.copy_from_slice(&padded[..target.len()]);
    }
}

/// The weights of one block's positions: `stride` apart for each row, from `first` on.
#[derive(Clone, Copy)]
struct BlockWeights<'a> {
    weights: &'a [f32],
    stride: usize,
    first: usize,
}

/// Adds the weighted values of one block to all rows' outputs.
#[inline(always)]
fn add_values<L: Lanes, C: Component>(
    lanes: L,
    weights: BlockWeights<'_>,
    values: &[C],
    ahead: &[C],
    head_dim: usize,
    outputs: &mut [f32],
) {
    let BlockWeights { weights, stride, first } = weights;
    let groups = weights.chunks(ROWS_AT_ONCE * stride).zip(outputs.chunks_mut(ROWS_AT_ONCE * head_dim));
    for (weights, outputs) in groups {
        let weights = BlockWeights { weights, stride, first };
        match outputs.len() / head_dim {
            1 => add_rows::<L, C, 1>(lanes, weights, values, ahead, head_dim, outputs),
            2 => add_rows::<L, C, 2>(lanes, weights, values, ahead, head_dim, outputs),
            3 => add_rows::<L, C, 3>(lanes, weights, values, ahead, head_dim, outputs),
            4 => add_rows::<L, C, 4>(lanes, weights, values, ahead, head_dim, outputs),
            5 => add_rows::<L, C, 5>(lanes, weights, values, ahead, head_dim, outputs),
            _ => add_rows::<L, C, ROWS_AT_ONCE>(lanes, weights, values, ahead, head_dim, outputs),
        }
    }
}

#[inline(always)]
fn add_rows<L: Lanes, C: Component, const ROWS: usize>(
    lanes: L,
    weights: BlockWeights<'_>,
    values: &[C],
    ahead: &[C],
    head_dim: usize,
    outputs: &mut [f32],
) {
    let mut start = 0;
    while start + 2 * LANES <= head_dim {
        add_dimensions::<L, C, ROWS, 2>(lanes, weights, values, ahead, head_dim, start, outputs);
        start += 2 * LANES;
    }
    while start < head_dim {
        add_dimensions::<L, C, ROWS, 1>(lanes, weights, values, ahead, head_dim, start, outputs);
        start += LANES;
    }
}

/// The same for `VECTORS` times 16 dimensions from `start` on, or as many as there are; their sums stay in registers
/// while the positions pass by.
#[inline(always)]
fn add_dimensions<L: Lanes, C: Component, const ROWS: usize, const VECTORS: usize>(
    lanes: L,
    weights: BlockWeights<'_>,
    values: &[C],
    ahead: &[C],
    head_dim: usize,
    start: usize,
    outputs: &mut [f32],
) {
    let count = values.len() / head_dim;
    let weights: [&[f32]; ROWS] =
        std::array::from_fn(|row| &weights.weights[row * weights.stride + weights.first..][..count]);
    let width = (VECTORS * LANES).min(head_dim - start);
    let mut sums = [[lanes.splat(0.0); VECTORS]; ROWS];
    for (row, sums) in sums.iter_mut().enumerate() {
        let outputs = &outputs[row * head_dim + start..][..width];
        for (vector, sum) in sums.iter_mut().enumerate() {
            *sum = load(lanes, &outputs[vector * LANES..]);
        }
    }
    for (position, values) in values.chunks_exact(head_dim).enumerate() {
        let at = position * head_dim + start;
        prefetch(lanes, ahead, at..at + width);
        let values = &values[start..start + width];
        let mut loaded = [lanes.splat(0.0); VECTORS];
        for (vector, loaded) in loaded.iter_mut().enumerate() {
            *loaded = load(lanes, &values[vector * LANES..]);
        }
        for row in 0..ROWS {
            let weight = lanes.splat(weights[row][position]);
            for vector in 0..VECTORS {
                sums[row][vector] = lanes.multiply_add(weight, loaded[vector], sums[row][vector]);
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        let outputs = &mut outputs[row * head_dim + start..][..width];
        for (outputs, sum) in outputs.chunks_mut(LANES).zip(sums) {
            store(lanes, sum, outputs);
        }
    }
}
