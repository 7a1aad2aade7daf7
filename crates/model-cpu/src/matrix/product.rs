//! HOT PATH. Products of activations with matrices, shared out among a team.
#![allow(
    unsafe_code,
    reason = "tasks write disjoint columns of one output; the float product takes pointers"
)]

use super::{Form, FormKind, Matrix, Panels};
use crate::{
    kernels::{
        BLOCK, Instructions, Kernel, LANES, Lanes,
        quantise::{ActivationBlock, Outlier, QuantisedRows, quantise_row},
        tile::{MOST_PANELS, OutlierWeights, Panel, TileOutput, multiply_tile},
    },
    memory::grow,
    parallel::{DisjointMut, Team},
};
use std::{mem::MaybeUninit, ops::Range};

/// Panels per task: as many as are multiplied at once, so that tasks can be shared out evenly.
const PANELS_PER_TASK: usize = MOST_PANELS;
/// Output channels per task of the float product.
const CHANNELS_PER_TASK: usize = 96;
/// Rows that are multiplied at once: with two panels, as many sums as fit the registers.
const MOST_ROWS: usize = 6;

/// Rows of inputs of products, in the form that the matrices want.
#[derive(Default)]
pub(crate) struct Activations {
    num_rows: usize,
    width: usize,
    values: Vec<f32>,
    blocks: Vec<ActivationBlock>,
    /// Room for the most that a row can have, row after row.
    outliers: Vec<Outlier>,
    /// How many each row has.
    num_outliers: Vec<usize>,
    workers: Vec<WorkerMemory>,
}

/// What a worker uses again and again.
#[derive(Default)]
struct WorkerMemory {
    /// A row on its way to its quantised form.
    row: Vec<f32>,
    outlier_weights: OutlierWeights,
}

impl Activations {
    /// Bytes of a quantised row.
    pub(crate) fn row_bytes(width: usize) -> usize {
        width.div_ceil(BLOCK) * size_of::<ActivationBlock>()
    }

    /// Replaces all rows by `num_rows` rows of `width` values from `source`, in the form that matrices of a kind want.
    pub(crate) fn fill(
        &mut self,
        instructions: Instructions,
        team: &Team,
        num_rows: usize,
        width: usize,
        form: FormKind,
        source: &impl RowSource,
    ) {
        (self.num_rows, self.width) = (num_rows, width);
        self.workers.resize_with(team.num_workers(), WorkerMemory::default);
        match form {
            FormKind::Full => self.fill_values(instructions, team, source),
            FormKind::FourBit | FormKind::EightBit => self.fill_blocks(instructions, team, source),
        }
    }

    fn fill_values(&mut self, instructions: Instructions, team: &Team, source: &impl RowSource) {
        let (num_rows, width) = (self.num_rows, self.width);
        grow(&mut self.values, num_rows * width);
        let values = DisjointMut::new(&mut self.values);
        team.for_each_item(num_rows, |_, row| {
            // SAFETY: a row belongs to one task.
            let values = unsafe { values.part(row * width..(row + 1) * width) };
            instructions.run(WriteRow { source, row, values });
        });
    }

    fn fill_blocks(&mut self, instructions: Instructions, team: &Team, source: &impl RowSource) {
        let (num_rows, width) = (self.num_rows, self.width);
        let (num_blocks, most_outliers) = (width.div_ceil(BLOCK), Outlier::most(width));
        grow(&mut self.blocks, num_rows * num_blocks);
        grow(&mut self.outliers, num_rows * most_outliers);
        grow(&mut self.num_outliers, num_rows);
        let blocks = DisjointMut::new(&mut self.blocks);
        let outliers = DisjointMut::new(&mut self.outliers);
        let counts = DisjointMut::new(&mut self.num_outliers);
        let workers = DisjointMut::new(&mut self.workers);
        team.for_each_item(num_rows, |worker, row| {
            let part = |length: usize| row * length..(row + 1) * length;
            // SAFETY: a row belongs to one task, and calls with the same worker number do not overlap.
            let (memory, blocks, outliers, count) = unsafe {
                (
                    &mut workers.part(worker..worker + 1)[0].row,
                    blocks.part(part(num_blocks)),
                    outliers.part(part(most_outliers)),
                    &mut counts.part(part(1))[0],
                )
            };
            grow(memory, width);
            let memory = &mut memory[..width];
            let next = (row + 1 < num_rows).then_some(row + 1);
            *count = instructions.run(QuantiseRow { source, row, next, memory, blocks, outliers });
        });
    }

    /// All rows, as they are and quantised, of which [`Activations::fill`] made one; and memory for each worker.
    fn parts(&mut self) -> (&[f32], QuantisedRows<'_>, &mut [WorkerMemory]) {
        let quantised = QuantisedRows {
            num_blocks: self.width.div_ceil(BLOCK),
            blocks: &self.blocks,
            most_outliers: Outlier::most(self.width),
            outliers: &self.outliers,
            num_outliers: &self.num_outliers,
        };
        (&self.values, quantised, &mut self.workers)
    }
}

/// Where the input of a product comes from. All methods must be `#[inline(always)]`, as all that computes with `lanes`.
pub(crate) trait RowSource: Sync {
    /// Writes a row.
    fn write<L: Lanes>(&self, lanes: L, row: usize, out: &mut [f32]);

    /// A row: written to `memory`, or from where it is already.
    #[inline(always)]
    fn row<'a, L: Lanes>(&'a self, lanes: L, row: usize, memory: &'a mut [f32]) -> &'a [f32] {
        self.write(lanes, row, memory);
        memory
    }

    /// Asks the cache for what a row of `width` values is made of. Other processors wrote parts of it just before.
    fn prefetch<L: Lanes>(&self, lanes: L, row: usize, width: usize);
}

struct WriteRow<'a, S> {
    source: &'a S,
    row: usize,
    values: &'a mut [f32],
}

impl<S: RowSource> Kernel for WriteRow<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        self.source.write(lanes, self.row, self.values);
    }
}

struct QuantiseRow<'a, S> {
    source: &'a S,
    row: usize,
    /// The row that most likely follows on the same thread.
    next: Option<usize>,
    memory: &'a mut [f32],
    blocks: &'a mut [ActivationBlock],
    outliers: &'a mut [Outlier],
}

impl<S: RowSource> Kernel for QuantiseRow<'_, S> {
    /// How many outliers there are.
    type Output = usize;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> usize {
        if let Some(next) = self.next {
            self.source.prefetch(lanes, next, self.memory.len());
        }
        let values = self.source.row(lanes, self.row, self.memory);
        quantise_row(lanes, values, self.blocks, self.outliers)
    }
}

/// One or more matrices with the same input, whose outputs stand side by side.
pub(crate) struct Projection {
    parts: Vec<Part>,
    tasks: Vec<Task>,
    out_features: usize,
}

struct Part {
    matrix: Matrix,
    bias: Option<Vec<f32>>,
    first_column: usize,
}

/// Output channels of one part that are computed in one go, as panels or single channels.
#[derive(Clone, Copy)]
struct Task {
    part: usize,
    start: usize,
    end: usize,
}

/// Where and how a task leaves its results.
struct Output<'a> {
    values: DisjointMut<'a, f32>,
    num_rows: usize,
    width: usize,
    accumulate: bool,
}

impl Projection {
    pub(crate) fn new(matrices: Vec<(Matrix, Option<Vec<f32>>)>) -> Self {
        let mut projection = Self { parts: Vec::new(), tasks: Vec::new(), out_features: 0 };
        for (index, (matrix, bias)) in matrices.into_iter().enumerate() {
            let (count, per_task) = match matrix.form {
                Form::Full(_) => (matrix.out_features, CHANNELS_PER_TASK),
                Form::FourBit(_) | Form::EightBit(_) => {
                    (matrix.out_features.div_ceil(LANES), PANELS_PER_TASK)
                }
            };
            projection.tasks.extend((0..count).step_by(per_task).map(|start| Task {
                part: index,
                start,
                end: count.min(start + per_task),
            }));
            let first_column = projection.out_features;
            projection.out_features += matrix.out_features;
            projection.parts.push(Part { matrix, bias, first_column });
        }
        projection
    }

    /// Number of values per row of output.
    pub(crate) fn out_features(&self) -> usize {
        self.out_features
    }

    /// The first matrix.
    pub(crate) fn matrix(&self) -> &Matrix {
        &self.parts[0].matrix
    }

    /// Writes the products of all rows of `inputs` to `out`, or adds them to it.
    pub(crate) fn apply(
        &self,
        instructions: Instructions,
        team: &Team,
        inputs: &mut Activations,
        out: &mut [f32],
        accumulate: bool,
    ) {
        let num_rows = inputs.num_rows;
        let (values, rows, workers) = inputs.parts();
        let workers = DisjointMut::new(workers);
        let output = Output {
            values: DisjointMut::new(&mut out[..num_rows * self.out_features]),
            num_rows,
            width: self.out_features,
            accumulate,
        };
        team.for_each(self.tasks.len(), |worker, task| {
            let task = self.tasks[task];
            let part = &self.parts[task.part];
            let output = &output;
            // SAFETY: calls with the same worker number do not overlap.
            let outlier_weights = unsafe { &mut workers.part(worker..worker + 1)[0].outlier_weights };
            match &part.matrix.form {
                Form::FourBit(panels) => {
                    instructions.run(PanelTask { part, task, panels, rows, outlier_weights, output });
                }
                Form::EightBit(panels) => {
                    instructions.run(PanelTask { part, task, panels, rows, outlier_weights, output });
                }
                Form::Full(weights) => part.multiply_full(task, weights, values, output),
            }
        });
    }
}

/// Some panels of a packed matrix times all rows.
struct PanelTask<'a, const BYTES: usize> {
    part: &'a Part,
    task: Task,
    panels: &'a Panels<BYTES>,
    rows: QuantisedRows<'a>,
    outlier_weights: &'a mut OutlierWeights,
    output: &'a Output<'a>,
}

impl<const BYTES: usize> Kernel for PanelTask<'_, BYTES> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let num_blocks = self.part.matrix.in_features.div_ceil(BLOCK);
        self.outlier_weights.start_panels(self.part.matrix.in_features);
        let panels = self.panels;
        let panel = |index: usize| Panel {
            blocks: &panels.blocks[index * num_blocks..(index + 1) * num_blocks],
            units: &panels.units[index],
        };
        let first = self.task.start;
        if first + 1 < self.task.end {
            self.multiply_rows(lanes, [panel(first), panel(first + 1)], first);
        } else {
            self.multiply_rows(lanes, [panel(first)], first);
        }
        let channels = first * LANES..self.part.matrix.out_features.min(self.task.end * LANES);
        self.part.add_bias(channels, self.output);
    }
}

impl<const BYTES: usize> PanelTask<'_, BYTES> {
    /// All rows with the given panels, in groups of nearly equal size.
    #[inline(always)]
    fn multiply_rows<L: Lanes, const PANELS: usize>(
        &mut self,
        lanes: L,
        panels: [Panel<'_, BYTES>; PANELS],
        first: usize,
    ) {
        let num_rows = self.output.num_rows;
        let mut remaining_groups = num_rows.div_ceil(MOST_ROWS);
        let mut row = 0;
        while row < num_rows {
            let group = (num_rows - row).div_ceil(remaining_groups);
            // The first group loads these panels and has the next ones fetched; the others find both in the cache.
            let ahead = if row == 0 { PANELS * panels[0].blocks.len() } else { 0 };
            match group {
                1 => self.multiply_group::<L, 1, PANELS>(lanes, panels, first, row, ahead),
                2 => self.multiply_group::<L, 2, PANELS>(lanes, panels, first, row, ahead),
                3 => self.multiply_group::<L, 3, PANELS>(lanes, panels, first, row, ahead),
                4 => self.multiply_group::<L, 4, PANELS>(lanes, panels, first, row, ahead),
                5 => self.multiply_group::<L, 5, PANELS>(lanes, panels, first, row, ahead),
                _ => self.multiply_group::<L, 6, PANELS>(lanes, panels, first, row, ahead),
            }
            row += group;
            remaining_groups -= 1;
        }
    }

    #[inline(always)]
    fn multiply_group<L: Lanes, const ROWS: usize, const PANELS: usize>(
        &mut self,
        lanes: L,
        panels: [Panel<'_, BYTES>; PANELS],
        first_panel: usize,
        first_row: usize,
        blocks_ahead: usize,
    ) {
        let output = self.output;
        let channel = first_panel * LANES;
        let count = (PANELS * LANES).min(self.part.matrix.out_features - channel);
        let start = first_row * output.width + self.part.first_column + channel;
        let target = output.values.pointer(start..start + (ROWS - 1) * output.width + count);
        // Not filled with zeros: that would take as long as some blocks of the product.
        let mut padded = MaybeUninit::<[[[f32; LANES]; PANELS]; ROWS]>::uninit();
        let is_whole = count == PANELS * LANES;
        let tile = if is_whole {
            TileOutput { start: target, stride: output.width, accumulate: output.accumulate }
        } else {
            TileOutput { start: padded.as_mut_ptr().cast(), stride: PANELS * LANES, accumulate: false }
        };
        let (rows, outlier_weights) = (self.rows, &mut *self.outlier_weights);
        // SAFETY: the target was found to be within the output, and its columns belong to this task; or it is our own.
        unsafe {
            multiply_tile::<L, BYTES, ROWS, PANELS>(
                lanes,
                panels,
                rows,
                first_row,
                outlier_weights,
                blocks_ahead,
                tile,
            );
        }
        if !is_whole {
            // SAFETY: the product wrote all of it.
            let padded = unsafe { padded.assume_init_ref() };
            for (row, padded) in padded.iter().enumerate() {
                let start = start + row * output.width;
                // SAFETY: a column belongs to one task.
                let target = unsafe { output.values.part(start..start + count) };
                for (target, result) in target.iter_mut().zip(padded.as_flattened()) {
                    *target = if output.accumulate { *target + result } else { *result };
                }
            }
        }
    }
}

impl Part {
    /// Adds what does not depend on the input to the outputs of some channels.
    fn add_bias(&self, channels: Range<usize>, output: &Output<'_>) {
        let Some(bias) = &self.bias else {
            return;
        };
        for row in 0..output.num_rows {
            let start = row * output.width + self.first_column + channels.start;
            // SAFETY: a column belongs to one task.
            let target = unsafe { output.values.part(start..start + channels.len()) };
            for (target, bias) in target.iter_mut().zip(&bias[channels.clone()]) {
                *target += bias;
            }
        }
    }

    fn multiply_full(&self, task: Task, weights: &[f32], inputs: &[f32], output: &Output<'_>) {
        let (in_features, num_rows) = (self.matrix.in_features, output.num_rows);
        let count = task.end - task.start;
        let weights = &weights[task.start * in_features..task.end * in_features];
        let inputs = &inputs[..num_rows * in_features];
        let first_column = self.first_column + task.start;
        let last_column = (num_rows - 1) * output.width + first_column + count;
        let target = output.values.pointer(first_column..last_column);
        // SAFETY: `num_rows` rows of `count` outputs at distance `width` lie within the output and belong to this
        // task; the inputs and weights are whole slices of the stated sizes, row after row.
        unsafe {
            gemm::gemm(
                num_rows,
                count,
                in_features,
                target,
                1,
                output.width as isize,
                output.accumulate,
                inputs.as_ptr(),
                1,
                in_features as isize,
                weights.as_ptr(),
                in_features as isize,
                1,
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
        self.add_bias(task.start..task.end, output);
    }
}
