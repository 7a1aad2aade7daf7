//! HOT PATH. The forward pass.

mod step;

use crate::{
    attention::{AttentionPlan, AttentionShape, LayerAttention},
    config::{ModelConfig, RopeFrequencies},
    kernels::{Instructions, Kernel, Lanes, prefetch, vector},
    kv_cache::{Component, KvCache, KvCacheType, LayerWriter},
    matrix::{Activations, FormKind, Projection, RowSource},
    memory::grow,
    parallel::{DisjointMut, Team},
};
use half::{bf16, f16};
use std::ops::Range;
use step::{StepChecker, TokenPlace};
use wayfare_engine_local::{ExecutorError, Model, StepInput};

/// A loaded model with its KV cache and threads.
pub struct CpuModel {
    config: ModelConfig,
    frequencies: RopeFrequencies,
    weights: Weights,
    cache: KvCache,
    team: Team,
    instructions: Instructions,
    form: FormKind,
    checker: StepChecker,
    scratch: Scratch,
    plan: AttentionPlan,
}

/// What loading hands over.
pub(crate) struct ModelParts {
    pub(crate) config: ModelConfig,
    pub(crate) frequencies: RopeFrequencies,
    pub(crate) weights: Weights,
    pub(crate) cache: KvCache,
    pub(crate) team: Team,
    pub(crate) instructions: Instructions,
    pub(crate) max_model_len: usize,
    pub(crate) form: FormKind,
}

pub(crate) struct Weights {
    pub(crate) embedding: Projection,
    /// `None`: the embedding.
    pub(crate) head: Option<Projection>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: Vec<f32>,
}

pub(crate) struct Layer {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query_key_value: Projection,
    pub(crate) query_norm: Option<Vec<f32>>,
    pub(crate) key_norm: Option<Vec<f32>>,
    pub(crate) output: Projection,
    pub(crate) feed_forward_norm: Vec<f32>,
    pub(crate) gate_up: Projection,
    pub(crate) down: Projection,
    pub(crate) window: Option<usize>,
}

/// Bytes of quantised activations that products read again and again: what a processor's second-level cache holds
/// beside weights.
const ACTIVATION_BYTES: usize = 512 << 10;
/// Fewest rows that go through the products of a layer together, as far as there are so many: its weights are read
/// again for each group of rows.
const MIN_ROWS: usize = 64;
/// Most logits held at once, 64 MiB: 341 rows of a vocabulary of 49 152.
const MAX_LOGITS: usize = 16 << 20;
/// Fewest rows that the output head is applied to at once, as far as there are so many: its weights are read again
/// for each group of rows.
const MIN_HEAD_ROWS: usize = 64;

/// Buffers of a step, row after row; they grow to the largest step seen and stay.
#[derive(Default)]
struct Scratch {
    /// `hidden_size` per row.
    residual: Vec<f32>,
    /// Queries, keys and values of a row side by side.
    query_key_value: Vec<f32>,
    /// `query_width` per row.
    attended: Vec<f32>,
    /// Gate and up projections of a row side by side.
    gate_up: Vec<f32>,
    /// `head_dim / 2` per row.
    cosines: Vec<f32>,
    sines: Vec<f32>,
    inputs: Activations,
    /// Where in its sequence and in the cache each row is.
    places: Vec<TokenPlace>,
    /// Rows whose logits are wanted.
    wanted: Vec<usize>,
    /// `vocab_size` per row, for some of them at a time.
    logits: Vec<f32>,
}

impl CpuModel {
    pub(crate) fn new(parts: ModelParts) -> Self {
        let checker = StepChecker::new(parts.config.vocab_size, parts.cache.layout, parts.max_model_len);
        Self {
            config: parts.config,
            frequencies: parts.frequencies,
            weights: parts.weights,
            cache: parts.cache,
            team: parts.team,
            instructions: parts.instructions,
            form: parts.form,
            checker,
            scratch: Scratch::default(),
            plan: AttentionPlan::default(),
        }
    }
}

impl Model for CpuModel {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn forward_rows(
        &mut self,
        input: &StepInput,
        take_row: &mut dyn FnMut(&mut [f32]),
    ) -> Result<(), ExecutorError> {
        self.checker.check(input, &mut self.scratch.places, &mut self.scratch.wanted)?;
        if self.scratch.places.is_empty() {
            return Ok(());
        }
        let forward = Forward {
            config: &self.config,
            frequencies: &self.frequencies,
            weights: &self.weights,
            team: &self.team,
            instructions: self.instructions,
            form: self.form,
            input,
        };
        let (cache, scratch, plan) = (&mut self.cache, &mut self.scratch, &mut self.plan);
        match cache.kind {
            KvCacheType::Float16 => forward.run::<f16>(cache, scratch, plan, take_row),
            KvCacheType::BFloat16 => forward.run::<bf16>(cache, scratch, plan, take_row),
            KvCacheType::Float32 => forward.run::<f32>(cache, scratch, plan, take_row),
        }
        Ok(())
    }
}

/// One step's constants.
struct Forward<'a> {
    config: &'a ModelConfig,
    frequencies: &'a RopeFrequencies,
    weights: &'a Weights,
    team: &'a Team,
    instructions: Instructions,
    form: FormKind,
    input: &'a StepInput,
}

impl Forward<'_> {
    fn run<C: Component>(
        &self,
        cache: &mut KvCache,
        scratch: &mut Scratch,
        plan: &mut AttentionPlan,
        take_row: &mut dyn FnMut(&mut [f32]),
    ) {
        let config = self.config;
        let (instructions, team, epsilon) = (self.instructions, self.team, config.rms_norm_eps);
        let num_rows = scratch.places.len();
        let (hidden, query_width, inner) =
            (config.hidden_size, config.query_width(), config.intermediate_size);
        self.embed(scratch);
        self.turn_angles(scratch);
        let Scratch {
            residual,
            query_key_value,
            attended,
            gate_up,
            cosines,
            sines,
            inputs,
            places,
            wanted,
            logits,
        } = scratch;
        let qkv_width = query_width + 2 * config.kv_width();
        grow(query_key_value, num_rows * qkv_width);
        grow(attended, num_rows * query_width);
        let rows_at_once = (ACTIVATION_BYTES / Activations::row_bytes(inner)).max(MIN_ROWS);
        grow(gate_up, num_rows.min(rows_at_once) * 2 * inner);
        let shape =
            AttentionShape { layout: cache.layout, num_heads: config.num_heads, query_stride: qkv_width };
        plan.prepare(team, &shape, self.input, |sequence| sequence.num_tokens);

        for (index, layer) in self.weights.layers.iter().enumerate() {
            let is_last = index + 1 == self.weights.layers.len();
            let writer = LayerWriter::<C>::new(cache, index);
            for rows in row_groups(num_rows, rows_at_once) {
                let num_rows = rows.len();
                let residual = &residual[part(&rows, hidden)];
                let source = Normalised { rows: residual, weights: &layer.attention_norm, epsilon };
                inputs.fill(instructions, team, num_rows, hidden, self.form, &source);
                let query_key_value = &mut query_key_value[part(&rows, qkv_width)];
                layer.query_key_value.apply(instructions, team, inputs, query_key_value, false);
                let angles_of = part(&rows, config.head_dim / 2);
                let angles = Angles { cosines: &cosines[angles_of.clone()], sines: &sines[angles_of] };
                self.rotate_and_store(layer, &writer, query_key_value, &places[rows], angles);
            }
            let call = LayerAttention {
                layer: index,
                cache: cache.components::<C>(),
                queries: query_key_value,
                window: layer.window,
            };
            // What follows the last layer's keys and values serves the logits alone.
            let (num_rows, chosen) = if is_last {
                if wanted.is_empty() {
                    break;
                }
                plan.prepare(team, &shape, self.input, |sequence| sequence.num_logits);
                keep_rows(residual, hidden, wanted);
                (wanted.len(), Some(&wanted[..]))
            } else {
                (num_rows, None)
            };
            plan.run(instructions, team, &shape, self.input, call, attended);

            for rows in row_groups(num_rows, rows_at_once) {
                let num_rows = rows.len();
                let source = match chosen {
                    Some(chosen) => Plain { rows: attended, chosen: Some(&chosen[rows.clone()]) },
                    None => Plain { rows: &attended[part(&rows, query_width)], chosen: None },
                };
                inputs.fill(instructions, team, num_rows, query_width, self.form, &source);
                let residual = &mut residual[part(&rows, hidden)];
                layer.output.apply(instructions, team, inputs, residual, true);

                let source = Normalised { rows: residual, weights: &layer.feed_forward_norm, epsilon };
                inputs.fill(instructions, team, num_rows, hidden, self.form, &source);
                layer.gate_up.apply(instructions, team, inputs, gate_up, false);
                inputs.fill(instructions, team, num_rows, inner, self.form, &Gated { rows: gate_up });
                layer.down.apply(instructions, team, inputs, residual, true);
            }
        }

        let head = self.weights.head.as_ref().unwrap_or(&self.weights.embedding);
        // A long prompt whose log-probabilities are wanted has more logits than fit into memory.
        let most_rows = (MAX_LOGITS / config.vocab_size).max(MIN_HEAD_ROWS);
        for rows in residual[..wanted.len() * hidden].chunks(most_rows * hidden) {
            let num_rows = rows.len() / hidden;
            let source = Normalised { rows, weights: &self.weights.final_norm, epsilon };
            inputs.fill(instructions, team, num_rows, hidden, self.form, &source);
            grow(logits, num_rows * config.vocab_size);
            let rows = &mut logits[..num_rows * config.vocab_size];
            head.apply(instructions, team, inputs, rows, false);
            rows.chunks_exact_mut(config.vocab_size).for_each(&mut *take_row);
        }
    }

    /// Looks up the embeddings of all tokens.
    fn embed(&self, scratch: &mut Scratch) {
        let hidden = self.config.hidden_size;
        grow(&mut scratch.residual, scratch.places.len() * hidden);
        let embedding = self.weights.embedding.matrix();
        for (place, row) in scratch.places.iter().zip(scratch.residual.chunks_exact_mut(hidden)) {
            embedding.row(place.token_id as usize, row);
        }
    }

    /// Computes the rotary angles of all rows, once for all layers.
    fn turn_angles(&self, scratch: &mut Scratch) {
        let frequencies = &self.frequencies.frequencies;
        let amplitude = self.frequencies.amplitude;
        let half = frequencies.len();
        let Scratch { cosines, sines, places, .. } = scratch;
        grow(cosines, places.len() * half);
        grow(sines, places.len() * half);
        let rows = cosines.chunks_exact_mut(half).zip(sines.chunks_exact_mut(half));
        for (place, (cosines, sines)) in places.iter().zip(rows) {
            for ((frequency, cosine), sine) in frequencies.iter().zip(cosines).zip(sines) {
                let (exact_sine, exact_cosine) = (place.position as f64 * frequency).sin_cos();
                *cosine = exact_cosine as f32 * amplitude;
                *sine = exact_sine as f32 * amplitude;
            }
        }
    }

    /// Normalises and rotates queries and keys, and writes keys and values to the cache.
    #[allow(unsafe_code, reason = "tasks write disjoint rows")]
    fn rotate_and_store<C: Component>(
        &self,
        layer: &Layer,
        writer: &LayerWriter<'_, C>,
        query_key_value: &mut [f32],
        places: &[TokenPlace],
        angles: Angles<'_>,
    ) {
        let stride = layer.query_key_value.out_features();
        let half = self.config.head_dim / 2;
        let (instructions, config) = (self.instructions, self.config);
        let rows = DisjointMut::new(query_key_value);
        self.team.for_each_item(places.len(), |_, row| {
            // SAFETY: a row belongs to one task.
            let values = unsafe { rows.part(row * stride..(row + 1) * stride) };
            let (cosines, sines) =
                (&angles.cosines[row * half..][..half], &angles.sines[row * half..][..half]);
            let angles = Angles { cosines, sines };
            let place = &places[row];
            instructions.run(RotateAndStore { config, layer, writer, values, place, angles });
        });
    }
}

#[derive(Clone, Copy)]
struct Angles<'a> {
    cosines: &'a [f32],
    sines: &'a [f32],
}

/// What a row's queries, keys and values go through before attention.
struct RotateAndStore<'a, C> {
    config: &'a ModelConfig,
    layer: &'a Layer,
    writer: &'a LayerWriter<'a, C>,
    values: &'a mut [f32],
    place: &'a TokenPlace,
    angles: Angles<'a>,
}

impl<C: Component> Kernel for RotateAndStore<'_, C> {
    type Output = ();

    #[inline(always)]
    #[allow(unsafe_code, reason = "rows write disjoint positions of the cache")]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { config, layer, place, angles, .. } = self;
        let (queries, rest) = self.values.split_at_mut(config.query_width());
        let (keys, values) = rest.split_at_mut(config.kv_width());
        for (heads, norm) in [(queries, &layer.query_norm), (&mut *keys, &layer.key_norm)] {
            for head in heads.chunks_exact_mut(config.head_dim) {
                if let Some(norm) = norm {
                    vector::rms_norm_in_place(lanes, head, norm, config.rms_norm_eps);
                }
                vector::rotate_halves(head, angles.cosines, angles.sines);
            }
        }
        let heads = keys.chunks_exact(config.head_dim).zip(values.chunks_exact(config.head_dim));
        for (head, (key, value)) in heads.enumerate() {
            // SAFETY: no two rows of a step have the same block and offset, as the checker saw to.
            unsafe { self.writer.write(lanes, place.block, place.offset, head, key, value) };
        }
    }
}

/// Rows, or some that are chosen, as they are.
struct Plain<'a> {
    rows: &'a [f32],
    chosen: Option<&'a [usize]>,
}

impl RowSource for Plain<'_> {
    #[inline(always)]
    fn write<L: Lanes>(&self, _: L, row: usize, out: &mut [f32]) {
        out.copy_from_slice(self.values(row, out.len()));
    }

    #[inline(always)]
    fn row<'a, L: Lanes>(&'a self, _: L, row: usize, memory: &'a mut [f32]) -> &'a [f32] {
        self.values(row, memory.len())
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(&self, lanes: L, row: usize, width: usize) {
        prefetch(lanes, self.values(row, width), 0..width);
    }
}

impl Plain<'_> {
    fn values(&self, row: usize, width: usize) -> &[f32] {
        let row = self.chosen.map_or(row, |chosen| chosen[row]);
        &self.rows[row * width..(row + 1) * width]
    }
}

/// Rows divided by their root mean square.
struct Normalised<'a> {
    rows: &'a [f32],
    weights: &'a [f32],
    epsilon: f32,
}

impl RowSource for Normalised<'_> {
    #[inline(always)]
    fn write<L: Lanes>(&self, lanes: L, row: usize, out: &mut [f32]) {
        let values = &self.rows[row * out.len()..(row + 1) * out.len()];
        vector::rms_norm(lanes, values, self.weights, self.epsilon, out);
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(&self, lanes: L, row: usize, width: usize) {
        prefetch(lanes, self.rows, row * width..(row + 1) * width);
    }
}

/// Pairs of rows, gate and up, joined.
struct Gated<'a> {
    rows: &'a [f32],
}

impl RowSource for Gated<'_> {
    #[inline(always)]
    fn write<L: Lanes>(&self, lanes: L, row: usize, out: &mut [f32]) {
        let pair = &self.rows[2 * row * out.len()..2 * (row + 1) * out.len()];
        let (gate, up) = pair.split_at(out.len());
        vector::gated_silu(lanes, gate, up, out);
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(&self, lanes: L, row: usize, width: usize) {
        prefetch(lanes, self.rows, 2 * row * width..2 * (row + 1) * width);
    }
}

/// Moves the chosen rows, which ascend, to the front.
fn keep_rows(rows: &mut [f32], width: usize, chosen: &[usize]) {
    for (target, &source) in chosen.iter().enumerate() {
        rows.copy_within(source * width..(source + 1) * width, target * width);
    }
}

/// The rows `0..num_rows` in groups of nearly equal size, at most `most` rows each.
fn row_groups(num_rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let num_groups = num_rows.div_ceil(most);
    (0..num_groups).map(move |group| group * num_rows / num_groups..(group + 1) * num_rows / num_groups)
}

/// Where the values of some rows are.
fn part(rows: &Range<usize>, width: usize) -> Range<usize> {
    rows.start * width..rows.end * width
}
