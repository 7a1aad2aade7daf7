//! From stored tensors to [`Matrix`].

use super::{Form, FormKind, Matrix, Panels, grid_values};
use crate::{
    kernels::{BLOCK, EIGHT_BIT, FOUR_BIT, LANES, MOST_MIDDLE, MOST_SCALE, PanelBlock, STEP, centre},
    memory::{Arena, Array},
    tensors::TensorType,
};
use candle_core::{
    Device,
    quantized::{QStorage, QTensor},
};
use half::f16;
use std::{borrow::Cow, io};

/// A tensor could not be brought into the wanted form.
pub(crate) enum PackError {
    /// A value is not finite or does not fit.
    Values,
    /// The system has no memory for it.
    Memory(io::Error),
}

/// With weights of a larger unit, products with activations could exceed what floats hold.
const MOST_UNIT: f32 = 1e10;

/// Of 32 values the scale, and what the smallest quant or, where it says so, the centre stands for.
type FloatGrid = [f32; 2];

/// Packs the rows of one stored tensor.
pub(crate) struct MatrixPacker<'a> {
    pub(crate) kind: TensorType,
    pub(crate) raw: &'a [u8],
    pub(crate) out_features: usize,
    pub(crate) in_features: usize,
    /// The stored row that becomes row `i`.
    pub(crate) stored_row: &'a dyn Fn(usize) -> usize,
}

impl TensorType {
    /// The form that loses nothing, or next to nothing, at the least size.
    pub(crate) fn packed_form(self) -> FormKind {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q4K => FormKind::FourBit,
            _ => FormKind::EightBit,
        }
    }
}

impl MatrixPacker<'_> {
    pub(crate) fn pack(&self, form: FormKind, arena: &mut Arena) -> Result<Matrix, PackError> {
        let form = match form {
            FormKind::FourBit => Form::FourBit(self.panels::<FOUR_BIT>(arena)?),
            FormKind::EightBit => Form::EightBit(self.panels::<EIGHT_BIT>(arena)?),
            FormKind::Full => {
                let num_values = self.out_features * self.in_features;
                let mut values = arena.array::<f32>(num_values).map_err(PackError::Memory)?;
                let mut row_values = Vec::new();
                for (row, target) in values.chunks_exact_mut(self.in_features).enumerate() {
                    decode(self.kind, self.stored(row), &mut row_values)?;
                    target.copy_from_slice(&row_values);
                }
                Form::Full(values)
            }
        };
        Ok(Matrix { out_features: self.out_features, in_features: self.in_features, form })
    }

    fn stored(&self, row: usize) -> &[u8] {
        let row_bytes = self.in_features / self.kind.block_values() * self.kind.block_bytes();
        let start = (self.stored_row)(row) * row_bytes;
        &self.raw[start..start + row_bytes]
    }

    fn panels<const BYTES: usize>(&self, arena: &mut Arena) -> Result<Panels<BYTES>, PackError> {
        let num_blocks = self.in_features.div_ceil(BLOCK);
        let num_panels = self.out_features.div_ceil(LANES);
        let mut blocks: Array<PanelBlock<BYTES>> =
            arena.array(num_panels * num_blocks).map_err(PackError::Memory)?;
        let mut units: Array<[f32; LANES]> = arena.array(num_panels).map_err(PackError::Memory)?;
        let (mut values, mut grids) = (Vec::new(), Vec::new());
        for row in 0..self.out_features {
            let stored = self.stored(row);
            decode(self.kind, stored, &mut values)?;
            grids.clear();
            grids.extend(values.chunks(BLOCK).enumerate().map(|(index, values)| {
                let [scale, minimum] =
                    stored_grid(self.kind, stored, index).unwrap_or_else(|| spanning_grid::<BYTES>(values));
                [scale, minimum + scale * f32::from(centre(BYTES))]
            }));
            let unit = unit_of::<BYTES>(&grids)?;
            let (panel, lane) = (row / LANES, row % LANES);
            units[panel][lane] = unit;
            let blocks = &mut blocks[panel * num_blocks..(panel + 1) * num_blocks];
            for ((block, values), grid) in blocks.iter_mut().zip(values.chunks(BLOCK)).zip(&grids) {
                pack_block(block, lane, values, *grid, unit);
            }
        }
        Ok(Panels { blocks, units })
    }
}

/// Replaces `values` by the values of stored bytes.
pub(crate) fn decode(kind: TensorType, stored: &[u8], values: &mut Vec<f32>) -> Result<(), PackError> {
    values.clear();
    match kind {
        TensorType::F32 => {
            values.extend(stored.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)));
        }
        TensorType::F16 => {
            values.extend(stored.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()));
        }
        TensorType::BF16 => {
            values
                .extend(stored.as_chunks().0.iter().map(|&bytes| half::bf16::from_le_bytes(bytes).to_f32()));
        }
        _ => {
            // Candle reads the bytes as structures of halves and refuses odd addresses; a fresh copy has none.
            let aligned = stored.to_vec();
            let count = stored.len() / kind.block_bytes() * kind.block_values();
            let decoded = QStorage::from_data(Cow::Borrowed(&aligned), &Device::Cpu, kind.ggml())
                .and_then(|storage| QTensor::new(storage, count))
                .and_then(|tensor| tensor.dequantize(&Device::Cpu))
                .and_then(|tensor| tensor.to_vec1::<f32>())
                .map_err(|_| PackError::Values)?;
            values.extend_from_slice(&decoded);
        }
    }
    if values.iter().all(|value| value.is_finite()) { Ok(()) } else { Err(PackError::Values) }
}

/// Scale and minimum of the `index`-th 32 values of a stored row, for formats whose quants are then recovered
/// exactly. (The layouts are those of ggml-common.h.)
fn stored_grid(kind: TensorType, stored: &[u8], index: usize) -> Option<FloatGrid> {
    let half_at = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 2).map_or(0.0, |pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32())
    };
    let block = |values_per_block: usize| {
        let start = index * BLOCK / values_per_block * kind.block_bytes();
        stored.get(start..start + kind.block_bytes()).unwrap_or_default()
    };
    let centred = |centre: f32| {
        let scale = half_at(block(BLOCK), 0);
        [scale, -centre * scale]
    };
    match kind {
        TensorType::Q4_0 => Some(centred(8.0)),
        TensorType::Q5_0 => Some(centred(16.0)),
        TensorType::Q8_0 => Some(centred(128.0)),
        TensorType::Q4_1 | TensorType::Q5_1 => Some([half_at(block(BLOCK), 0), half_at(block(BLOCK), 2)]),
        TensorType::Q4K | TensorType::Q5K => {
            const SUPER_BLOCK: usize = 256;
            let block = block(SUPER_BLOCK);
            let sub_block = index % (SUPER_BLOCK / BLOCK);
            let scales: [u8; 12] = block.get(4..16)?.try_into().ok()?;
            // Twelve bytes hold eight scales and eight minimums of six bits.
            let (scale, minimum) = if sub_block < 4 {
                (scales[sub_block] & 63, scales[sub_block + 4] & 63)
            } else {
                (
                    (scales[sub_block + 4] & 0xf) | (scales[sub_block - 4] >> 6 << 4),
                    (scales[sub_block + 4] >> 4) | (scales[sub_block] >> 6 << 4),
                )
            };
            Some([half_at(block, 0) * f32::from(scale), -half_at(block, 2) * f32::from(minimum)])
        }
        TensorType::F32 | TensorType::F16 | TensorType::BF16 | TensorType::Q6K => None,
    }
}

/// What scales and middles of an output channel are counted in, so that the largest of each fits.
fn unit_of<const BYTES: usize>(grids: &[FloatGrid]) -> Result<f32, PackError> {
    let [scale, middle] =
        grids.iter().fold([0.0f32; 2], |most, grid| [most[0].max(grid[0].abs()), most[1].max(grid[1].abs())]);
    let [of_scale, of_middle] = grid_values::<BYTES>([MOST_SCALE, MOST_MIDDLE], 1.0);
    // The smallest normal number stands for channels that are zero, or as good as.
    let unit = (scale / of_scale).max(middle / of_middle).max(f32::MIN_POSITIVE);
    if unit <= MOST_UNIT { Ok(unit) } else { Err(PackError::Values) }
}

/// Puts up to 32 values of one output channel in place, given their scale and middle.
fn pack_block<const BYTES: usize>(
    block: &mut PanelBlock<BYTES>,
    lane: usize,
    values: &[f32],
    grid: FloatGrid,
    unit: f32,
) {
    let of_one = grid_values::<BYTES>([1, 1], unit);
    let count = |index: usize, most: i16| {
        let most = f32::from(most);
        (grid[index] / of_one[index]).round().clamp(-most, most) as i16
    };
    block.grids[lane] = [count(0, MOST_SCALE), count(1, MOST_MIDDLE)];
    let [scale, middle] = grid_values::<BYTES>(block.grids[lane], unit);
    // Half a quant is added so that cutting off the fraction rounds.
    let centre = f32::from(centre(BYTES)) + 0.5;
    // A scale may be negative: formats with a centre take the sign of the largest value.
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    for (channel, value) in values.iter().enumerate() {
        let quant = ((value - middle) * inverse + centre).clamp(0.0, most_quant::<BYTES>()) as u8;
        let (step, i) = (channel / STEP, channel % STEP);
        if BYTES == FOUR_BIT {
            let byte = &mut block.quants[((step % 4) * LANES + lane) * STEP + i];
            *byte |= if step < 4 { quant } else { quant << 4 };
        } else {
            block.quants[(step * LANES + lane) * STEP + i] = quant;
        }
    }
}

fn most_quant<const BYTES: usize>() -> f32 {
    if BYTES == FOUR_BIT { 15.0 } else { 255.0 }
}

/// Scale and minimum that reach from the smallest to the largest value.
fn spanning_grid<const BYTES: usize>(values: &[f32]) -> FloatGrid {
    let (smallest, largest) = values
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &value| (low.min(value), high.max(value)));
    [(largest - smallest).max(0.0) / most_quant::<BYTES>(), smallest]
}
