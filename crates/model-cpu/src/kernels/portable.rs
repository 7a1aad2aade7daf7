use super::{ActivationBlock, FOUR_BIT, HIGH_SHIFT, LANES, PanelBlock, STEP, Tile};
use half::slice::HalfFloatSliceExt;

const STEPS: usize = super::BLOCK / STEP;

/// Multiplies rows with panels of equally many blocks; surplus blocks are ignored. (Telling the cache
/// what comes next is left to the processor here.)
pub(crate) fn multiply_tile<const BYTES: usize, const ROWS: usize, const PANELS: usize>(
    panels: [&[PanelBlock<BYTES>]; PANELS],
    rows: [&[ActivationBlock]; ROWS],
    _blocks_ahead: usize,
) -> Tile<ROWS, PANELS> {
    let mut tile = [[[0.0; LANES]; PANELS]; ROWS];
    for (tile_row, row) in tile.iter_mut().zip(rows) {
        for (sums, panel) in tile_row.iter_mut().zip(panels) {
            for (block, activations) in panel.iter().zip(row) {
                let mut products = [0i32; LANES];
                for step in 0..STEPS {
                    for (lane, product) in products.iter_mut().enumerate() {
                        for i in 0..STEP {
                            let quant = i32::from(quant_of(block, step, lane, i));
                            let channel = step * STEP + i;
                            let high = i32::from(activations.high[channel]) << HIGH_SHIFT;
                            *product += quant * (high + i32::from(activations.low[channel]));
                        }
                    }
                }
                for (lane, sum) in sums.iter_mut().enumerate() {
                    let scale = half::f16::from_bits(block.scales[lane]).to_f32();
                    let minimum = half::f16::from_bits(block.minimums[lane]).to_f32();
                    *sum += products[lane] as f32 * (scale * activations.scale) + minimum * activations.sum;
                }
            }
        }
    }
    tile
}

fn quant_of<const BYTES: usize>(block: &PanelBlock<BYTES>, step: usize, lane: usize, i: usize) -> u8 {
    if BYTES == FOUR_BIT {
        let byte = block.quants[((step % 4) * LANES + lane) * STEP + i];
        if step < 4 { byte & 0xf } else { byte >> 4 }
    } else {
        block.quants[(step * LANES + lane) * STEP + i]
    }
}

/// Converts IEEE half precision bits to floats of the same number.
pub(crate) fn widen_f16(halves: &[u16], floats: &mut [f32]) {
    use half::slice::HalfBitsSliceExt;
    let count = halves.len().min(floats.len());
    halves[..count].reinterpret_cast::<half::f16>().convert_to_f32_slice(&mut floats[..count]);
}
