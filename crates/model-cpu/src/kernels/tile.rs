//! The product of a few rows of activations with a few panels of weights, held in registers.
#![allow(unsafe_code, reason = "bounds are checked once for all blocks")]

use super::{
    BLOCK, FOUR_BIT, LANES, Lanes, PACKED_STEP, PanelBlock, STEP, SUM_FACTOR, product_shift,
    quantise::{ActivationBlock, Outlier, QuantisedRow},
};

/// Products of `ROWS` rows with `PANELS` panels of 16 output channels each.
pub(crate) type Tile<L, const ROWS: usize, const PANELS: usize> = [[<L as Lanes>::Floats; PANELS]; ROWS];

/// 16 output channels.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a, const BYTES: usize> {
    pub(crate) blocks: &'a [PanelBlock<BYTES>],
    pub(crate) units: &'a [f32; LANES],
}

/// Multiplies rows with panels of equally many blocks; surplus blocks are ignored. Where `blocks_ahead` is not 0,
/// the cache is told that each block that many places further on is needed soon.
#[inline(always)]
pub(crate) fn multiply_tile<L: Lanes, const BYTES: usize, const ROWS: usize, const PANELS: usize>(
    lanes: L,
    panels: [Panel<'_, BYTES>; PANELS],
    rows: [QuantisedRow<'_>; ROWS],
    blocks_ahead: usize,
) -> Tile<L, ROWS, PANELS> {
    let lengths =
        panels.iter().map(|panel| panel.blocks.len()).chain(rows.iter().map(|row| row.blocks.len()));
    let num_blocks = lengths.min().unwrap_or(0);
    let shift = product_shift(BYTES);
    for panel in &panels {
        lanes.prefetch(panel.units.as_ptr().cast());
    }
    let mut sums = [[lanes.splat(0.0); PANELS]; ROWS];
    for index in 0..num_blocks {
        // SAFETY: `num_blocks` is within every slice.
        let (blocks, activations) = unsafe {
            (
                panels.map(|panel| panel.blocks.get_unchecked(index)),
                rows.map(|row| row.blocks.get_unchecked(index)),
            )
        };
        if blocks_ahead > 0 {
            for block in blocks {
                prefetch_block(lanes, std::ptr::from_ref(block).wrapping_add(blocks_ahead));
            }
        }
        // Half of what is shifted out, so that shifting rounds to the nearest. What lies between two goes up in one
        // block and down in the next; always up would add up to an error of its own.
        let half = (1 << (shift - 1)) - (index as i32 & 1);
        let mut products = [[lanes.splat_sums(half); PANELS]; ROWS];
        add_products(lanes, &mut products, blocks, activations);
        for panel in 0..PANELS {
            let grids = lanes.load_grids(&blocks[panel].grids);
            for (row, activations) in activations.iter().enumerate() {
                let shifted = lanes.shift_sums(products[row][panel], shift);
                let product = lanes.apply_grids(shifted, activations.shifted_sum, grids);
                let scale = lanes.splat(activations.scale);
                sums[row][panel] = lanes.multiply_add(product, scale, sums[row][panel]);
            }
        }
    }
    for (sums, row) in sums.iter_mut().zip(rows) {
        for outlier in row.outliers {
            add_outlier(lanes, sums, panels, *outlier);
        }
    }
    for panel in 0..PANELS {
        let units = lanes.load(panels[panel].units);
        for sums in &mut sums {
            sums[panel] = lanes.multiply(sums[panel], units);
        }
    }
    sums
}

/// Adds the products of one value of a row with the weights of its channel, units apart.
#[inline(always)]
fn add_outlier<L: Lanes, const BYTES: usize, const PANELS: usize>(
    lanes: L,
    sums: &mut [L::Floats; PANELS],
    panels: [Panel<'_, BYTES>; PANELS],
    outlier: Outlier,
) {
    let channel = outlier.channel as usize;
    let (step, byte) = (channel % BLOCK / STEP, channel % STEP);
    let steps = BYTES / PACKED_STEP;
    let (shift, mask) = if BYTES == FOUR_BIT { (8 * byte + step / steps * 4, 0xf) } else { (8 * byte, 0xff) };
    // Scales count 2^shift times, and so must minimums.
    let one = 1 << product_shift(BYTES);
    let value = lanes.splat(outlier.value / one as f32);
    for panel in 0..PANELS {
        if let Some(block) = panels[panel].blocks.get(channel / BLOCK) {
            let weights = lanes.load_weights(step_of(block, step % steps));
            let quants = lanes.bits_of(weights, shift as u32, mask);
            let grids = lanes.load_grids(&block.grids);
            let weights = lanes.apply_grids(quants, (SUM_FACTOR * one) << 16, grids);
            sums[panel] = lanes.multiply_add(weights, value, sums[panel]);
        }
    }
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
