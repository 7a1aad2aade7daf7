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
pub(crate) use lanes::{Lanes, multiply_add, prefetch, prefetch_output};

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

/// 32 input channels of 16 output channels: `weight = unit * (scale * (quant - centre) / 2^shift + 8 * middle)`, where
/// the unit is that of an output channel, centre and shift are those of [`centre`] and [`product_shift`], and scale and
/// middle are the two numbers of a grid.
///
/// A sum of products of quants about their centre, shifted, fits 16 bits, and so does eight times the sum of the
/// activations' quants. One integer instruction multiplies both with their half of the grid and adds the results; of
/// floats it would take three.
///
/// With one byte per weight, `quants[(step * 16 + lane) * 4 + i]` is the weight of input channel `4 * step + i`.
/// With four bits, the low half of a byte is that of `step` below 4, the high half that of `step + 4`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct PanelBlock<const BYTES: usize> {
    /// Scale and middle per lane, at most [`MOST_SCALE`] and [`MOST_MIDDLE`].
    pub(crate) grids: [Grid; LANES],
    pub(crate) quants: [u8; BYTES],
}

/// The scale of 32 weights, and the weight that the centre of their quants stands for.
pub(crate) type Grid = [i16; 2];
/// With this for a scale and [`MOST_MIDDLE`], a block's result is below 2^30.
pub(crate) const MOST_SCALE: i16 = 8191;
pub(crate) const MOST_MIDDLE: i16 = 16383;
/// Factor of middles, and of the sums of activations that go with them.
pub(crate) const SUM_FACTOR: i32 = 8;

/// What is taken from quants, so that they are positive and negative alike.
pub(crate) const fn centre(bytes: usize) -> u8 {
    if bytes == FOUR_BIT { 8 } else { 128 }
}

/// How far sums of products are shifted so that the largest of them, 32 times 127 times the centre, fits 16 bits.
pub(crate) const fn product_shift(bytes: usize) -> u32 {
    if bytes == FOUR_BIT { 0 } else { 4 }
}

#[allow(unsafe_code, reason = "tells which types may be all zero")]
// SAFETY: it is made of integers.
unsafe impl<const BYTES: usize> bytemuck::Zeroable for PanelBlock<BYTES> {}

#[cfg(test)]
mod tests;
