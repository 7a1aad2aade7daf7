//! The product of a few rows of activations with a few panels of weights, held in registers.
#![allow(
    unsafe_code,
    reason = "bounds are checked once for all blocks, and columns of one output are written"
)]
#![allow(clippy::needless_range_loop, reason = "several arrays are indexed alike, and stay in registers")]

use super::{
    BLOCK, FOUR_BIT, LANES, Lanes, PACKED_STEP, PanelBlock, STEP, SUM_FACTOR, centre, prefetch_output,
    product_shift,
    quantise::{ActivationBlock, QuantisedRows},
};
use std::mem::MaybeUninit;

/// Panels that are multiplied at once.
pub(crate) const MOST_PANELS: usize = 2;

/// 16 output channels.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a, const BYTES: usize> {
    pub(crate) blocks: &'a [PanelBlock<BYTES>],
    pub(crate) units: &'a [f32; LANES],
}

/// Where the results of a tile go: those of a panel side by side, after them those of the next panel, and `stride`
/// after a row the next row.
#[derive(Clone, Copy)]
pub(crate) struct TileOutput {
    pub(crate) start: *mut f32,
    pub(crate) stride: usize,
    /// Whether results are added to what is there.
    pub(crate) accumulate: bool,
}

/// Multiplies `ROWS` rows, from `first_row` on, with panels of as many blocks. Where `blocks_ahead` is not 0, the cache
/// is told that each block that many places further on is needed soon.
///
/// # Safety
/// The output is valid for `ROWS` rows of `PANELS` times 16 floats, and nobody else uses them meanwhile.
///
/// # Panics
/// When rows or panels are shorter.
#[inline(always)]
pub(crate) unsafe fn multiply_tile<L: Lanes, const BYTES: usize, const ROWS: usize, const PANELS: usize>(
    lanes: L,
    panels: [Panel<'_, BYTES>; PANELS],
    rows: QuantisedRows<'_>,
    first_row: usize,
    outlier_weights: &mut OutlierWeights,
    blocks_ahead: usize,
    output: TileOutput,
) {
    const { assert!(PANELS <= MOST_PANELS) };
    let num_blocks = rows.num_blocks;
    let row_blocks = &rows.blocks[first_row * num_blocks..(first_row + ROWS) * num_blocks];
    for panel in &panels {
        assert!(panel.blocks.len() == num_blocks, "{} blocks for {num_blocks}", panel.blocks.len());
        lanes.prefetch(panel.units.as_ptr().cast());
    }
    for row in 0..ROWS {
        prefetch_output(lanes, output.start.wrapping_add(row * output.stride), PANELS * LANES);
    }
    let shift = product_shift(BYTES);
    let mut sums = outlier_sums::<L, BYTES, ROWS, PANELS>(lanes, panels, rows, first_row, outlier_weights);
    for index in 0..num_blocks {
        let mut blocks = [&panels[0].blocks[0]; PANELS];
        let mut activations = [&row_blocks[0]; ROWS];
        // SAFETY: `num_blocks` is the length of every panel, and of each of the rows.
        unsafe {
            for panel in 0..PANELS {
                blocks[panel] = panels[panel].blocks.get_unchecked(index);
            }
            for row in 0..ROWS {
                activations[row] = row_blocks.get_unchecked(row * num_blocks + index);
            }
        }
        if blocks_ahead > 0 {
            for block in blocks {
                prefetch_block(lanes, std::ptr::from_ref(block).wrapping_add(blocks_ahead));
            }
        }
        let mut products = [[lanes.splat_sums(0); PANELS]; ROWS];
        for row in 0..ROWS {
            let start = if shift == 0 {
                activations[row].start
            } else {
                // Half of what is shifted out, so that shifting rounds to the nearest. What lies between two goes up in
                // one block and down in the next; always up would add up to an error of its own.
                let half = (1 << (shift - 1)) - (index as i32 & 1);
                half - i32::from(activations[row].sum()) * (i32::from(centre(BYTES)) / SUM_FACTOR)
            };
            products[row] = [lanes.splat_sums(start); PANELS];
        }
        add_products(lanes, &mut products, blocks, activations);
        for panel in 0..PANELS {
            let grids = lanes.load_grids(&blocks[panel].grids);
            for row in 0..ROWS {
                // In the first case the lower half takes one from the upper where it is negative: an eighth of a quant
                // of the activations, times the weights' middle.
                let pairs = if shift == 0 {
                    products[row][panel]
                } else {
                    lanes.join(lanes.shift_sums(products[row][panel], shift), activations[row].sum())
                };
                let product = lanes.apply_grids(pairs, grids);
                let scale = lanes.splat(activations[row].scale);
                sums[row][panel] = lanes.multiply_add(product, scale, sums[row][panel]);
            }
        }
    }
    for panel in 0..PANELS {
        let units = lanes.load(panels[panel].units);
        for row in 0..ROWS {
            let mut result = lanes.multiply(sums[row][panel], units);
            // SAFETY: the caller vouches for the place, an array of floats that only we use.
            unsafe {
                let place = output.start.add(row * output.stride + panel * LANES).cast::<[f32; LANES]>();
                if output.accumulate {
                    result = lanes.add(result, lanes.load(&*place));
                }
                lanes.store(result, &mut *place);
            }
        }
    }
}

/// The weights of single channels as floats, units apart: those of two panels that outliers have asked for so far.
#[derive(Default)]
pub(crate) struct OutlierWeights {
    channels: Vec<ChannelWeights>,
    /// Of each channel the panels that its weights are of.
    made_for: Vec<u64>,
    /// The panels at hand: a number that those before them did not have.
    panels: u64,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct ChannelWeights([[f32; LANES]; MOST_PANELS]);

impl OutlierWeights {
    /// Forgets the panels before, and makes room for others of `num_channels`.
    pub(crate) fn start_panels(&mut self, num_channels: usize) {
        if self.channels.len() < num_channels {
            self.channels.resize(num_channels, ChannelWeights([[0.0; LANES]; MOST_PANELS]));
            self.made_for.resize(num_channels, 0);
        }
        self.panels += 1;
    }
}

/// The products of the rows' outliers with the weights of their channels, units apart.
#[inline(always)]
fn outlier_sums<L: Lanes, const BYTES: usize, const ROWS: usize, const PANELS: usize>(
    lanes: L,
    panels: [Panel<'_, BYTES>; PANELS],
    rows: QuantisedRows<'_>,
    first_row: usize,
    weights: &mut OutlierWeights,
) -> [[L::Floats; PANELS]; ROWS] {
    let mut all_sums = MaybeUninit::<[[L::Floats; PANELS]; ROWS]>::uninit();
    let first = all_sums.as_mut_ptr().cast::<[L::Floats; PANELS]>();
    for row in 0..ROWS {
        let mut sums = [lanes.splat(0.0); PANELS];
        for outlier in rows.outliers_of(first_row + row) {
            let channel = outlier.channel as usize;
            let ChannelWeights(of_channel) = &mut weights.channels[channel];
            if weights.made_for[channel] != weights.panels {
                weights.made_for[channel] = weights.panels;
                for panel in 0..PANELS {
                    lanes.store(channel_weights(lanes, panels[panel], channel), &mut of_channel[panel]);
                }
            }
            let value = lanes.splat(outlier.value);
            for panel in 0..PANELS {
                sums[panel] = lanes.multiply_add(lanes.load(&of_channel[panel]), value, sums[panel]);
            }
        }
        // SAFETY: one of the rows.
        unsafe { first.add(row).write(sums) };
    }
    // SAFETY: all rows were written.
    unsafe { all_sums.assume_init() }
}

/// The weights of a channel, units apart.
#[inline(always)]
fn channel_weights<L: Lanes, const BYTES: usize>(
    lanes: L,
    panel: Panel<'_, BYTES>,
    channel: usize,
) -> L::Floats {
    let steps = BYTES / PACKED_STEP;
    // Scales count 2^shift times, and so must middles.
    let one = 1 << product_shift(BYTES);
    let (step, byte) = (channel % BLOCK / STEP, channel % STEP);
    let (shift, mask) = if BYTES == FOUR_BIT { (8 * byte + step / steps * 4, 0xf) } else { (8 * byte, 0xff) };
    let block = &panel.blocks[channel / BLOCK];
    let quants =
        lanes.bits_of(lanes.load_weights(step_of(block, step % steps)), shift as u32, mask, centre(BYTES));
    let pairs = lanes.join(quants, SUM_FACTOR as i16 * one);
    let weights = lanes.apply_grids(pairs, lanes.load_grids(&block.grids));
    lanes.multiply(weights, lanes.splat(1.0 / f32::from(one)))
}

#[inline(always)]
fn prefetch_block<L: Lanes, const BYTES: usize>(lanes: L, block: *const PanelBlock<BYTES>) {
    for line in (0..size_of::<PanelBlock<BYTES>>()).step_by(64) {
        lanes.prefetch(block.cast::<u8>().wrapping_add(line));
    }
}

/// Adds the integer products of all input channels of a block. Loops and not closures: these would be compiled on
/// their own, without the instructions, wherever the compiler does not inline them.
#[inline(always)]
fn add_products<L: Lanes, const BYTES: usize, const ROWS: usize, const PANELS: usize>(
    lanes: L,
    products: &mut [[L::Sums; PANELS]; ROWS],
    blocks: [&PanelBlock<BYTES>; PANELS],
    activations: [&ActivationBlock; ROWS],
) {
    for step in 0..BYTES / PACKED_STEP {
        let mut weights = [lanes.load_weights(step_of(blocks[0], step)); PANELS];
        for panel in 1..PANELS {
            weights[panel] = lanes.load_weights(step_of(blocks[panel], step));
        }
        if BYTES == FOUR_BIT {
            let mut upper = weights;
            for panel in 0..PANELS {
                upper[panel] = lanes.high_nibbles(weights[panel]);
                weights[panel] = lanes.low_nibbles(weights[panel]);
            }
            for row in 0..ROWS {
                let (first, second) =
                    (four(activations[row], step), four(activations[row], step + BLOCK / STEP / 2));
                for panel in 0..PANELS {
                    let sums = lanes.add_nibble_products(products[row][panel], weights[panel], first);
                    products[row][panel] = lanes.add_nibble_products(sums, upper[panel], second);
                }
            }
        } else {
            for row in 0..ROWS {
                let four = four(activations[row], step);
                for panel in 0..PANELS {
                    products[row][panel] =
                        lanes.add_byte_products(products[row][panel], weights[panel], four);
                }
            }
        }
    }
}

#[inline(always)]
fn step_of<const BYTES: usize>(block: &PanelBlock<BYTES>, step: usize) -> &[u8; PACKED_STEP] {
    &block.quants.as_chunks().0[step]
}

#[inline(always)]
fn four(activations: &ActivationBlock, step: usize) -> [i8; STEP] {
    activations.quants.as_chunks().0[step]
}
