//! Arrays, for any processor; the compiler makes of them what it can.

use super::{BLOCK, Grid, LANES, Lanes, PACKED_STEP, STEP};
use half::f16;
use std::array::from_fn;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Portable;

impl Lanes for Portable {
    type Floats = [f32; LANES];
    type Sums = [i32; LANES];
    type Weights = [u8; PACKED_STEP];
    type Grids = [Grid; LANES];

    // Without the instruction a fused product is a slow function of the C library.
    const IS_FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> [f32; LANES] {
        *values
    }

    #[inline(always)]
    fn store(self, floats: [f32; LANES], out: &mut [f32; LANES]) {
        *out = floats;
    }

    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    fn multiply(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    fn multiply_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        from_fn(|lane| super::lanes::multiply_add(self, a[lane], b[lane], c[lane]))
    }

    #[inline(always)]
    fn largest_magnitude(self, a: [f32; LANES], b: [f32; LANES]) -> f32 {
        // Magnitudes of floats order like their bits, and a maximum of integers is vectorised.
        let bits = |value: &f32| value.to_bits() & 0x7fff_ffff;
        f32::from_bits(a.iter().chain(&b).map(bits).fold(0, u32::max))
    }

    #[inline(always)]
    fn above(self, floats: [f32; LANES], limit: f32) -> u32 {
        let is_above = floats.iter().map(|float| float.abs() > limit);
        is_above.enumerate().fold(0, |bits, (lane, is_above)| bits | u32::from(is_above) << lane)
    }

    #[inline(always)]
    fn without(self, floats: [f32; LANES], bits: u32) -> [f32; LANES] {
        from_fn(|lane| if bits >> lane & 1 == 0 { floats[lane] } else { 0.0 })
    }

    #[inline(always)]
    fn round_to_bytes(self, a: [f32; LANES], b: [f32; LANES], factor: f32, out: &mut [i8; BLOCK]) -> i32 {
        // Adding 1.5 * 2^23 rounds to an integer, which is then the difference of the bits.
        const ROUND: f32 = 12_582_912.0;
        let mut sum = 0i32;
        for (value, out) in a.iter().chain(&b).zip(out) {
            let rounded = (value * factor + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
            *out = rounded as i8;
            sum = sum.wrapping_add(rounded);
        }
        sum
    }

    #[inline(always)]
    fn widen_f16(self, halves: &[u16; LANES]) -> [f32; LANES] {
        halves.map(|half| f16::from_bits(half).to_f32())
    }

    #[inline(always)]
    fn narrow_f16(self, floats: [f32; LANES]) -> [u16; LANES] {
        floats.map(|float| f16::from_f32(float).to_bits())
    }

    #[inline(always)]
    fn splat_sums(self, value: i32) -> [i32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn load_weights(self, bytes: &[u8; PACKED_STEP]) -> [u8; PACKED_STEP] {
        *bytes
    }

    #[inline(always)]
    fn low_nibbles(self, weights: [u8; PACKED_STEP]) -> [u8; PACKED_STEP] {
        weights.map(|byte| byte & 0xf)
    }

    #[inline(always)]
    fn high_nibbles(self, weights: [u8; PACKED_STEP]) -> [u8; PACKED_STEP] {
        weights.map(|byte| byte >> 4)
    }

    #[inline(always)]
    fn add_nibble_products(
        self,
        sums: [i32; LANES],
        weights: [u8; PACKED_STEP],
        four: [i8; STEP],
    ) -> [i32; LANES] {
        self.add_byte_products(sums, weights, four)
    }

    #[inline(always)]
    fn add_byte_products(
        self,
        sums: [i32; LANES],
        weights: [u8; PACKED_STEP],
        four: [i8; STEP],
    ) -> [i32; LANES] {
        from_fn(|lane| {
            let weights = &weights[lane * STEP..(lane + 1) * STEP];
            weights
                .iter()
                .zip(four)
                .fold(sums[lane], |sum, (&weight, value)| sum + i32::from(weight) * i32::from(value))
        })
    }

    #[inline(always)]
    fn bits_of(self, weights: [u8; PACKED_STEP], shift: u32, mask: u8, centre: u8) -> [i32; LANES] {
        from_fn(|lane| {
            let bytes = weights.as_chunks::<STEP>().0[lane];
            ((i32::from_le_bytes(bytes) >> shift) & i32::from(mask)) - i32::from(centre)
        })
    }

    #[inline(always)]
    fn join(self, lower: [i32; LANES], upper: i16) -> [i32; LANES] {
        lower.map(|lower| (lower & 0xffff) | i32::from(upper) << 16)
    }

    #[inline(always)]
    fn shift_sums(self, sums: [i32; LANES], shift: u32) -> [i32; LANES] {
        sums.map(|sum| sum >> shift)
    }

    #[inline(always)]
    fn load_grids(self, grids: &[Grid; LANES]) -> [Grid; LANES] {
        *grids
    }

    #[inline(always)]
    fn apply_grids(self, pairs: [i32; LANES], grids: [Grid; LANES]) -> [f32; LANES] {
        from_fn(|lane| {
            let ([scale, middle], pair) = (grids[lane], pairs[lane]);
            (i32::from(pair as i16) * i32::from(scale) + (pair >> 16) * i32::from(middle)) as f32
        })
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    fn prefetch_output(self, _: *const u8) {}
}
