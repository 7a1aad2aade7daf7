//! Weight matrices in the form the products want.
//!
//! One packed form serves one row and many alike: 4 or 8 bits per weight with a scale and a minimum for each 32,
//! multiplied with activations of 8 bits by integer dot products, and a few outliers as floats. For few rows the time is that of reading the weights, for many that of the products; this form is the smallest, and faster
//! than float products. The other form is plain 32-bit floats, for exact results.

mod packing;
mod product;

pub(crate) use packing::{MatrixPacker, PackError, decode};
pub(crate) use product::{Activations, Projection, RowSource};

use crate::{
    kernels::{BLOCK, EIGHT_BIT, FOUR_BIT, LANES, PanelBlock, STEP},
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
    /// Panel after panel of 16 output channels, each of `in_features / 32` blocks.
    FourBit(Array<PanelBlock<FOUR_BIT>>),
    /// The same with a byte per weight.
    EightBit(Array<PanelBlock<EIGHT_BIT>>),
    /// Row after row.
    Full(Array<f32>),
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
        let num_blocks = (out_features.div_ceil(LANES) * in_features.div_ceil(BLOCK)) as u64;
        match self {
            Self::FourBit => num_blocks * size_of::<PanelBlock<FOUR_BIT>>() as u64,
            Self::EightBit => num_blocks * size_of::<PanelBlock<EIGHT_BIT>>() as u64,
            Self::Full => (out_features * in_features * size_of::<f32>()) as u64,
        }
    }
}

impl Matrix {
    /// Writes the weights of one output channel, as an embedding look-up does.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        match &self.form {
            Form::FourBit(blocks) => self.unpack(blocks, row, out),
            Form::EightBit(blocks) => self.unpack(blocks, row, out),
            Form::Full(values) => {
                out.copy_from_slice(&values[row * self.in_features..(row + 1) * self.in_features]);
            }
        }
    }

    fn unpack<const BYTES: usize>(&self, blocks: &[PanelBlock<BYTES>], row: usize, out: &mut [f32]) {
        let num_blocks = self.in_features.div_ceil(BLOCK);
        let (panel, lane) = (row / LANES, row % LANES);
        let panel = &blocks[panel * num_blocks..(panel + 1) * num_blocks];
        for (block, out) in panel.iter().zip(out.chunks_mut(BLOCK)) {
            let scale = half::f16::from_bits(block.scales[lane]).to_f32();
            let minimum = half::f16::from_bits(block.minimums[lane]).to_f32();
            for (channel, out) in out.iter_mut().enumerate() {
                let (step, i) = (channel / STEP, channel % STEP);
                let quant = if BYTES == FOUR_BIT {
                    let byte = block.quants[((step % 4) * LANES + lane) * STEP + i];
                    if step < 4 { byte & 0xf } else { byte >> 4 }
                } else {
                    block.quants[(step * LANES + lane) * STEP + i]
                };
                *out = scale * f32::from(quant) + minimum;
            }
        }
    }
}

#[cfg(test)]
mod tests;
