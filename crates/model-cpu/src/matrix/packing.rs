//! From stored tensors to [`Matrix`].

use super::{Form, FormKind, Matrix};
use crate::{
    kernels::{BLOCK, EIGHT_BIT, FOUR_BIT, LANES, PanelBlock, STEP},
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

/// Scale and minimum of 32 stored values, where the stored format has them.
type Grid = (f16, f16);

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

    fn panels<const BYTES: usize>(&self, arena: &mut Arena) -> Result<Array<PanelBlock<BYTES>>, PackError> {
        let num_blocks = self.in_features.div_ceil(BLOCK);
        let mut blocks = arena
            .array::<PanelBlock<BYTES>>(self.out_features.div_ceil(LANES) * num_blocks)
            .map_err(PackError::Memory)?;
        let mut values = Vec::new();
        for (panel, panel_blocks) in blocks.chunks_mut(num_blocks).enumerate() {
            for lane in 0..LANES.min(self.out_features - panel * LANES) {
                let stored = self.stored(panel * LANES + lane);
                decode(self.kind, stored, &mut values)?;
                for (index, (block, values)) in panel_blocks.iter_mut().zip(values.chunks(BLOCK)).enumerate()
                {
                    let grid = stored_grid(self.kind, stored, index);
                    pack_block(block, lane, values, grid)?;
                }
            }
        }
        Ok(blocks)
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
fn stored_grid(kind: TensorType, stored: &[u8], index: usize) -> Option<Grid> {
    let half_at = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 2).map_or(f16::ZERO, |pair| f16::from_le_bytes([pair[0], pair[1]]))
    };
    let block = |values_per_block: usize| {
        let start = index * BLOCK / values_per_block * kind.block_bytes();
        stored.get(start..start + kind.block_bytes()).unwrap_or_default()
    };
    let centred = |centre: f32| {
        let scale = half_at(block(BLOCK), 0);
        (scale, f16::from_f32(-centre * scale.to_f32()))
    };
    match kind {
        TensorType::Q4_0 => Some(centred(8.0)),
        TensorType::Q5_0 => Some(centred(16.0)),
        TensorType::Q8_0 => Some(centred(128.0)),
        TensorType::Q4_1 | TensorType::Q5_1 => Some((half_at(block(BLOCK), 0), half_at(block(BLOCK), 2))),
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
            Some((
                f16::from_f32(half_at(block, 0).to_f32() * f32::from(scale)),
                f16::from_f32(-half_at(block, 2).to_f32() * f32::from(minimum)),
            ))
        }
        TensorType::F32 | TensorType::F16 | TensorType::BF16 | TensorType::Q6K => None,
    }
}

/// Puts up to 32 values of one output channel in place.
fn pack_block<const BYTES: usize>(
    block: &mut PanelBlock<BYTES>,
    lane: usize,
    values: &[f32],
    grid: Option<Grid>,
) -> Result<(), PackError> {
    let most = if BYTES == FOUR_BIT { 15.0 } else { 255.0 };
    let (scale, minimum) = grid.unwrap_or_else(|| spanning_grid(values, most));
    if !(scale.is_finite() && minimum.is_finite()) {
        return Err(PackError::Values);
    }
    block.scales[lane] = scale.to_bits();
    block.minimums[lane] = minimum.to_bits();
    let (scale, minimum) = (scale.to_f32(), minimum.to_f32());
    // A scale may be negative: formats with a centre take the sign of the largest value.
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    for (channel, value) in values.iter().enumerate() {
        let quant = ((value - minimum) * inverse).round().clamp(0.0, most) as u8;
        let (step, i) = (channel / STEP, channel % STEP);
        if BYTES == FOUR_BIT {
            let byte = &mut block.quants[((step % 4) * LANES + lane) * STEP + i];
            *byte |= if step < 4 { quant } else { quant << 4 };
        } else {
            block.quants[(step * LANES + lane) * STEP + i] = quant;
        }
    }
    Ok(())
}

/// Scale and minimum that reach from the smallest to the largest value in `most` steps.
fn spanning_grid(values: &[f32], most: f32) -> Grid {
    let (smallest, largest) = values
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &value| (low.min(value), high.max(value)));
    let minimum = f16::from_f32(smallest);
    let wanted = (largest - minimum.to_f32()).max(0.0) / most;
    let nearest = f16::from_f32(wanted);
    // A scale that was rounded down would not reach the largest value.
    let scale = if nearest.to_f32() < wanted { f16::from_bits(nearest.to_bits() + 1) } else { nearest };
    (scale, minimum)
}
