//! What the kernels need of a processor: registers of 16 lanes, in a form for each set of instructions.

use super::{BLOCK, Grid, LANES, PACKED_STEP};
use std::ops::Range;

/// Bytes that a processor fetches at once.
const CACHE_LINE: usize = 64;

/// Proof that the processor has certain instructions, and these instructions.
///
/// A value is made only where the instructions were found, so the methods are safe. They must be inlined into a
/// function that is compiled for the same instructions, which is what [`Instructions::run`](super::Instructions::run)
/// is for. All forms have 16 lanes and do the same operations in the same order, so those that fuse a product with its
/// sum give the same results to the last bit.
pub(crate) trait Lanes: Copy {
    /// 16 floats.
    type Floats: Copy;
    /// 16 sums of integer products.
    type Sums: Copy;
    /// 64 bytes of weights.
    type Weights: Copy;
    /// 16 grids.
    type Grids: Copy;

    /// Whether products are rounded together with their sums.
    const IS_FUSED: bool;

    fn splat(self, value: f32) -> Self::Floats;
    fn load(self, values: &[f32; LANES]) -> Self::Floats;
    fn store(self, floats: Self::Floats, out: &mut [f32; LANES]);
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn multiply(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`.
    fn multiply_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// The largest magnitude of 32 floats. Not a number, if there is one, counts as the largest.
    fn largest_magnitude(self, a: Self::Floats, b: Self::Floats) -> f32;
    /// A bit for each float whose magnitude is above `limit`.
    fn above(self, floats: Self::Floats, limit: f32) -> u32;
    /// The floats, but zero where the lower 16 bits of `bits` are set.
    fn without(self, floats: Self::Floats, bits: u32) -> Self::Floats;
    /// Writes 32 floats times `factor`, rounded to the nearest, ties to even, and returns the sum of what was written.
    /// Results must fit a byte; where they do not, it is unspecified which are written.
    fn round_to_bytes(self, a: Self::Floats, b: Self::Floats, factor: f32, out: &mut [i8; BLOCK]) -> i32;

    /// From IEEE half precision bits.
    fn widen_f16(self, halves: &[u16; LANES]) -> Self::Floats;
    /// To IEEE half precision bits, the nearest, ties to even.
    fn narrow_f16(self, floats: Self::Floats) -> [u16; LANES];

    fn splat_sums(self, value: i32) -> Self::Sums;
    /// One step of weights: four bytes for each lane.
    fn load_weights(self, bytes: &[u8; PACKED_STEP]) -> Self::Weights;
    /// The lower four bits of each byte.
    fn low_nibbles(self, weights: Self::Weights) -> Self::Weights;
    /// The upper four bits of each byte.
    fn high_nibbles(self, weights: Self::Weights) -> Self::Weights;
    /// Adds to each sum the products of its four weights, none above 15, with `four`.
    fn add_nibble_products(self, sums: Self::Sums, weights: Self::Weights, four: [i8; 4]) -> Self::Sums;
    /// Adds to each sum the products of its four weights, unsigned bytes, with `four`.
    fn add_byte_products(self, sums: Self::Sums, weights: Self::Weights, four: [i8; 4]) -> Self::Sums;
    /// Shifts right, downwards where negative.
    fn shift_sums(self, sums: Self::Sums, shift: u32) -> Self::Sums;
    /// Of the four bytes of each lane, what is left of them, as one number, when shifted right and masked, minus
    /// `centre`.
    fn bits_of(self, weights: Self::Weights, shift: u32, mask: u8, centre: u8) -> Self::Sums;
    /// The lower half of each sum with `upper` as the upper half.
    fn join(self, lower: Self::Sums, upper: i16) -> Self::Sums;
    fn load_grids(self, grids: &[Grid; LANES]) -> Self::Grids;
    /// For each lane `lower * scale + upper * middle`, where lower and upper are the halves of a pair.
    fn apply_grids(self, pairs: Self::Sums, grids: Self::Grids) -> Self::Floats;

    /// Starts loading a line into the second-level cache, where that can be asked for; the address need not be valid.
    fn prefetch(self, line: *const u8);
    /// Starts loading a line that is written soon into the first-level cache, alike.
    fn prefetch_output(self, line: *const u8);
}

/// `a * b + c` of single numbers, fused where the lanes' is.
#[inline(always)]
pub(crate) fn multiply_add<L: Lanes>(_: L, a: f32, b: f32, c: f32) -> f32 {
    if L::IS_FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Asks the cache for a range of what is needed soon, as far as there is anything.
#[inline(always)]
pub(crate) fn prefetch<L: Lanes, T>(lanes: L, values: &[T], range: Range<usize>) {
    const { assert!(0 < size_of::<T>() && size_of::<T>() <= CACHE_LINE) };
    let mut at = if values.is_empty() { range.end } else { range.start };
    while at < range.end {
        lanes.prefetch(values.as_ptr().wrapping_add(at).cast());
        at += CACHE_LINE / size_of::<T>();
    }
}

/// Asks the cache for floats that are written soon. Stores are done in their order, so one that waits for memory holds
/// up all that come after it.
#[inline(always)]
pub(crate) fn prefetch_output<L: Lanes>(lanes: L, start: *mut f32, length: usize) {
    let mut at = 0;
    while at < length {
        lanes.prefetch_output(start.wrapping_add(at).cast());
        at += LANES;
    }
}
