//! The product of a few rows of activations with a few panels of weights, held in registers.
#![allow(unsafe_code, reason = "bounds are checked once for all blocks")]

use super::{ActivationBlock, BLOCK, FOUR_BIT, Lanes, PACKED_STEP, PanelBlock, STEP};

/// Products of `ROWS` rows with `PANELS` panels of 16 output channels each.
pub(crate) type Tile<L, const ROWS: usize, const PANELS: usize> = [[<L as Lanes>::Floats; PANELS]; ROWS];

/// Multiplies rows with panels of equally many blocks; surplus blocks are ignored. Where `blocks_ahead` is not 0,
/// the cache is told that each block that many places further on is needed soon.
#[inline(always)]
pub(crate) fn multiply_tile<L: Lanes, const BYTES: usize, const ROWS: usize, const PANELS: usize>(
    lanes: L,
    panels: [&[PanelBlock<BYTES>]; PANELS],
    rows: [&[ActivationBlock]; ROWS],
    blocks_ahead: usize,
) -> Tile<L, ROWS, PANELS> {
    let num_blocks =
        panels.iter().map(|panel| panel.len()).chain(rows.iter().map(|row| row.len())).min().unwrap_or(0);
    let mut sums = [[lanes.splat(0.0); PANELS]; ROWS];
    for index in 0..num_blocks {
        // SAFETY: `num_blocks` is within every slice.
        let (blocks, activations) = unsafe {
            (panels.map(|panel| panel.get_unchecked(index)), rows.map(|row| row.get_unchecked(index)))
        };
        if blocks_ahead > 0 {
            for block in blocks {
                prefetch_block(lanes, std::ptr::from_ref(block).wrapping_add(blocks_ahead));
            }
        }
        let mut products = [[lanes.no_sums(); PANELS]; ROWS];
        add_products(lanes, &mut products, blocks, activations.map(|block| &block.high));
        let is_fine = activations.iter().fold(0, |any, block| any | block.is_fine) != 0;
        if is_fine {
            for row in &mut products {
                for sums in row {
                    *sums = lanes.scale_sums(*sums);
                }
            }
            add_products(lanes, &mut products, blocks, activations.map(|block| &block.low));
        }
        let mut scales = [lanes.splat(0.0); PANELS];
        let mut minimums = scales;
        for panel in 0..PANELS {
            scales[panel] = lanes.widen_f16(&blocks[panel].scales);
            minimums[panel] = lanes.widen_f16(&blocks[panel].minimums);
        }
        for (row, activations) in activations.iter().enumerate() {
            let unit = if is_fine { &activations.scale } else { &activations.coarse_scale };
            let (unit, sum) = (lanes.splat(*unit), lanes.splat(activations.sum));
            for panel in 0..PANELS {
                let product = lanes.to_floats(products[row][panel]);
                let scale = lanes.multiply(scales[panel], unit);
                let scaled = lanes.multiply_add(product, scale, sums[row][panel]);
                sums[row][panel] = lanes.multiply_add(minimums[panel], sum, scaled);
            }
        }
    }
    sums
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
    values: [&[i8; BLOCK]; ROWS],
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
                let (first, second) = (four(values[row], step), four(values[row], step + BLOCK / STEP / 2));
                for panel in 0..PANELS {
                    let sums = lanes.add_nibble_products(products[row][panel], weights[panel], first);
                    products[row][panel] = lanes.add_nibble_products(sums, upper[panel], second);
                }
            }
        } else {
            for row in 0..ROWS {
                let four = four(values[row], step);
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
fn four(values: &[i8; BLOCK], step: usize) -> [i8; STEP] {
    values.as_chunks().0[step]
}
