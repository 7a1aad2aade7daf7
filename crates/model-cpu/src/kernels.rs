//! HOT PATH. The innermost loops, written once for registers of 16 lanes and compiled for each set of instructions
//! that a processor may have.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod instructions;
mod lanes;
mod portable;
pub(crate) mod quantise;
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

#[allow(unsafe_code, reason = "tells which types may be all zero")]
// SAFETY: it is made of integers.
unsafe impl<const BYTES: usize> bytemuck::Zeroable for PanelBlock<BYTES> {}

#[cfg(test)]
mod tests;
