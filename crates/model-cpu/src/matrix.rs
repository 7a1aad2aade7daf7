//! Weight matrices in the form the products want.
//!
//! One packed form serves one row and many alike: 4 or 8 bits per weight with a scale and a middle for each 32,
//! multiplied with activations of 8 bits by integer dot products, and with a few outliers as floats. For few rows the
//! time is that of reading the weights, for many that of the products; this form is the smallest, and faster than
//! float products. The other form is plain 32-bit floats, for exact results.

mod packing;
mod product;

pub(crate) use packing::{MatrixPacker, PackError, decode};
pub(crate) use product::{Activations, Projection, RowSource};

use crate::{
    kernels::{BLOCK, EIGHT_BIT, FOUR_BIT, Grid, LANES, PanelBlock, STEP, SUM_FACTOR, centre, product_shift},
    memory::Array,
};

/// Weights of `out_features` rows with `in_features` each.
pub(crate) struct Matrix {
    pub(crate) out_features: usize,
    pub(crate) in_features: usize,
    pub(crate) form: Form,
}

/// How the weights are held.
pub(crate) enum Form {
    FourBit(Panels<FOUR_BIT>),
    EightBit(Panels<EIGHT_BIT>),
    /// Row after row.
    Full(Array<f32>),
}

/// Packed weights.
pub(crate) struct Panels<const BYTES: usize> {
    /// Panel after panel of 16 output channels, each of `in_features / 32` blocks.
    pub(crate) blocks: Array<PanelBlock<BYTES>>,
    /// One for each output channel.
    pub(crate) units: Array<[f32; LANES]>,
}

/// Which [`Form`] a matrix gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormKind {
    FourBit,
    EightBit,
    Full,
}

impl FormKind {
    /// Bytes of memory that a matrix takes in this form.
    pub(crate) fn matrix_bytes(self, out_features: usize, in_features: usize) -> u64 {
        let num_panels = out_features.div_ceil(LANES);
        let panels = |block_bytes: usize| {
            num_panels * (in_features.div_ceil(BLOCK) * block_bytes + size_of::<[f32; LANES]>())
        };
        let bytes = match self {
            Self::FourBit => panels(size_of::<PanelBlock<FOUR_BIT>>()),
            Self::EightBit => panels(size_of::<PanelBlock<EIGHT_BIT>>()),
            Self::Full => out_features * in_features * size_of::<f32>(),
        };
        bytes as u64
    }
}

impl Matrix {
    /// Writes the weights of one output channel, as an embedding look-up does.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        match &self.form {
            Form::FourBit(panels) => self.unpack(panels, row, out),
            Form::EightBit(panels) => self.unpack(panels, row, out),
            Form::Full(values) => {
                out.copy_from_slice(&values[row * self.in_features..(row + 1) * self.in_features]);
            }
        }
    }

    fn unpack<const BYTES: usize>(&self, panels: &Panels<BYTES>, row: usize, out: &mut [f32]) {
        let num_blocks = self.in_features.div_ceil(BLOCK);
        let (panel, lane) = (row / LANES, row % LANES);
        let unit = panels.units[panel][lane];
        let blocks = &panels.blocks[panel * num_blocks..(panel + 1) * num_blocks];
        for (block, out) in blocks.iter().zip(out.chunks_mut(BLOCK)) {
            let [scale, middle] = grid_values::<BYTES>(block.grids[lane], unit);
            for (channel, out) in out.iter_mut().enumerate() {
                let (step, i) = (channel / STEP, channel % STEP);
                let quant = if BYTES == FOUR_BIT {
                    let byte = block.quants[((step % 4) * LANES + lane) * STEP + i];
                    if step < 4 { byte & 0xf } else { byte >> 4 }
                } else {
                    block.quants[(step * LANES + lane) * STEP + i]
                };
                *out = scale * (f32::from(quant) - f32::from(centre(BYTES))) + middle;
            }
        }
    }
}

/// Scale and middle that a grid stands for.
fn grid_values<const BYTES: usize>([scale, middle]: Grid, unit: f32) -> [f32; 2] {
    let one = (1 << product_shift(BYTES)) as f32;
    [f32::from(scale) * unit / one, f32::from(middle) * unit * SUM_FACTOR as f32]
}

#[cfg(test)]
mod tests;
