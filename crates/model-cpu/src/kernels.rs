//! HOT PATH. The innermost loops, each with a vector form and a portable one; compile-time target features choose.

#[cfg(all(target_arch = "x86_64", target_feature = "avx512bw", target_feature = "avx512vnni"))]
mod avx512;
#[cfg(any(
    test,
    not(all(target_arch = "x86_64", target_feature = "avx512bw", target_feature = "avx512vnni"))
))]
mod portable;
pub(crate) mod vector;

#[cfg(all(target_arch = "x86_64", target_feature = "avx512bw", target_feature = "avx512vnni"))]
pub(crate) use avx512::{multiply_tile, widen_f16};
#[cfg(not(all(target_arch = "x86_64", target_feature = "avx512bw", target_feature = "avx512vnni")))]
pub(crate) use portable::{multiply_tile, widen_f16};

/// Output channels that are computed side by side: the 32-bit lanes of a 512-bit register.
pub(crate) const LANES: usize = 16;
/// Consecutive input channels that share a scale, as in the block formats of GGUF.
pub(crate) const BLOCK: usize = 32;
/// Input channels that one integer dot-product instruction adds up in a lane.
pub(crate) const STEP: usize = 4;
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

/// Quants of activations go from minus to plus this; 128 times the largest `high`.
pub(crate) const ACTIVATION_LEVELS: f32 = 127.0 * 128.0;
/// Position of `high` above `low`.
pub(crate) const HIGH_SHIFT: u32 = 7;

/// 32 values of one row of activations: `value = scale * (128 * high + low)`.
///
/// Two bytes because one is not enough: single channels of the hidden state are so much larger than the rest of
/// their block that 8 bits for a block put log-probabilities of a 135M model off by up to 0.4; with 15 bits it
/// is below 0.01.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct ActivationBlock {
    pub(crate) scale: f32,
    /// Sum of the 32 quantised values times the scale; goes with the weights' minimums.
    pub(crate) sum: f32,
    pub(crate) high: [i8; BLOCK],
    pub(crate) low: [i8; BLOCK],
}

impl ActivationBlock {
    pub(crate) const ZERO: Self = Self { scale: 0.0, sum: 0.0, high: [0; BLOCK], low: [0; BLOCK] };
}

/// Products of `ROWS` rows with `PANELS` panels of 16 output channels each.
pub(crate) type Tile<const ROWS: usize, const PANELS: usize> = [[[f32; LANES]; PANELS]; ROWS];

#[cfg(test)]
mod tests;
