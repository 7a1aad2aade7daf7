//! HOT PATH. The innermost loops, written once for registers of 16 lanes and compiled for each set of instructions
//! that a processor may have.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod instructions;
mod lanes;
mod portable;
pub(crate) mod tile;
pub(crate) mod vector;

pub use instructions::Instructions;
pub(crate) use instructions::Kernel;
pub(crate) use lanes::{Lanes, multiply_add};

/// Output channels that are computed side by side: the 32-bit lanes of a 512-bit register.
pub(crate) const LANES: usize = 16;
/// Consecutive input channels that share a scale, as in the block formats of GGUF.
pub(crate) const BLOCK: usize = 32;
/// Input channels that one integer dot-product instruction adds up in a lane.
pub(crate) const STEP: usize = 4;
/// Bytes of weights that one step of all lanes takes.
pub(crate) const PACKED_STEP: usize = LANES * STEP;
/// Bytes of the weights of one block of one panel, at one byte each.
pub(crate) const EIGHT_BIT: usize = LANES * BLOCK;
/// The same with two weights in a byte.
pub(crate) const FOUR_BIT: usize = LANES * BLOCK / 2;

/// 32 input channels of 16 output channels: `weight = scale * quant + minimum`.
///
/// With one byte per weight, `quants[(step * 16 + lane) * 4 + i]` is the weight of input channel `4 * step + i`.
/// With four bits, the low half of a byte is that of `step` below 4, the high half that of `step + 4`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct PanelBlock<const BYTES: usize> {
    /// IEEE half precision bits, per lane.
    pub(crate) scales: [u16; LANES],
    /// IEEE half precision bits, per lane.
    pub(crate) minimums: [u16; LANES],
    pub(crate) quants: [u8; BYTES],
}

/// Quants of a coarse block of activations go from minus to plus this.
pub(crate) const COARSE_LEVELS: f32 = 127.0;
/// Quants of a fine block go from minus to plus this, 128 times the largest `high`.
pub(crate) const FINE_LEVELS: f32 = COARSE_LEVELS * 128.0;
/// Position of `high` above `low`.
pub(crate) const HIGH_SHIFT: u32 = 7;
/// A block is fine when its largest magnitude is more than this times the mean magnitude of its row.
///
/// Single channels of the hidden state are so much larger than the rest of their block that 8 bits for such a block
/// put log-probabilities of a 135M model off by up to 0.4. These blocks are few, and at the same places in nearly all
/// rows of a matrix's input, so the second product of a fine block is seldom paid for.
pub(crate) const MOST_OVER_MEAN: f32 = 5.0;

/// 32 values of one row of activations: `value = scale * (128 * high + low)`.
///
/// Of a coarse block, `low` is all 0, and leaving it out of a product changes nothing, to the last bit: a row's
/// results are the same beside fine rows as beside coarse ones.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct ActivationBlock {
    pub(crate) scale: f32,
    /// 128 times the scale, that of `high` alone.
    pub(crate) coarse_scale: f32,
    /// Sum of the 32 quantised values times the scale; goes with the weights' minimums.
    pub(crate) sum: f32,
    /// Whether `low` counts, 1 or 0.
    pub(crate) is_fine: u32,
    pub(crate) high: [i8; BLOCK],
    pub(crate) low: [i8; BLOCK],
}

impl ActivationBlock {
    pub(crate) const ZERO: Self =
        Self { scale: 0.0, coarse_scale: 0.0, sum: 0.0, is_fine: 0, high: [0; BLOCK], low: [0; BLOCK] };
}

#[cfg(test)]
mod tests;
