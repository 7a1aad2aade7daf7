//! Pairs of 256-bit registers.
#![allow(unsafe_code, reason = "vector instructions, which the processor was found to have")]

use super::{BLOCK, Grid, Kernel, LANES, Lanes, PACKED_STEP};
use std::arch::x86_64::{
    __m256, __m256i, _CMP_GT_OQ, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0, _MM_HINT_T1, _mm_cvtsi32_si128,
    _mm_loadu_si128, _mm_prefetch, _mm_storeu_si128, _mm256_add_epi32, _mm256_add_ps, _mm256_and_ps,
    _mm256_and_si256, _mm256_andnot_ps, _mm256_castps_si256, _mm256_castsi256_ps, _mm256_cmp_ps,
    _mm256_cmpeq_epi32, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_cvtps_epi32, _mm256_cvtps_ph,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_max_epi32, _mm256_movemask_ps, _mm256_mul_ps, _mm256_or_si256, _mm256_packs_epi16,
    _mm256_packs_epi32, _mm256_permutevar8x32_epi32, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_si256, _mm256_slli_epi32, _mm256_sra_epi32,
    _mm256_srl_epi32, _mm256_srli_epi16, _mm256_storeu_ps, _mm256_storeu_si256, _mm256_sub_epi32,
};

/// Made by [`Avx2::detect`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        let is_there = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("bmi2");
        is_there.then_some(Self(()))
    }

    /// Runs `kernel`, compiled for these instructions.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c,bmi2")]
        fn run<K: Kernel>(lanes: Avx2, kernel: K) -> K::Output {
            kernel.run(lanes)
        }
        // SAFETY: `self` exists, so the processor has these instructions.
        unsafe { run(self, kernel) }
    }
}

/// Sums of the products of four bytes each; the sum of two products must fit 16 bits.
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
unsafe fn products(weights: __m256i, four: __m256i) -> __m256i {
    unsafe { _mm256_madd_epi16(_mm256_maddubs_epi16(weights, four), _mm256_set1_epi16(1)) }
}

/// Sums of the products of four bytes each, whatever they are: two products of whole bytes do not fit 16 bits; those
/// of seven bits and of the eighth do.
///
/// # Safety
/// Needs AVX2.
#[inline(always)]
unsafe fn byte_products(weights: __m256i, four: __m256i) -> __m256i {
    unsafe {
        let seven = _mm256_and_si256(weights, _mm256_set1_epi8(0x7f));
        let eighth = _mm256_and_si256(_mm256_srli_epi16::<7>(weights), _mm256_set1_epi8(1));
        let eighth = _mm256_slli_epi32::<7>(products(eighth, four));
        _mm256_add_epi32(products(seven, four), eighth)
    }
}

// SAFETY of all below: `self` exists, so the processor has the instructions; loads and stores are of whole arrays.
impl Lanes for Avx2 {
    type Floats = [__m256; 2];
    type Sums = [__m256i; 2];
    type Weights = [__m256i; 2];
    type Grids = [__m256i; 2];

    const IS_FUSED: bool = true;

    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> [__m256; 2] {
        unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn store(self, floats: [__m256; 2], out: &mut [f32; LANES]) {
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), floats[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), floats[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn multiply(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn multiply_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn largest_magnitude(self, a: [__m256; 2], b: [__m256; 2]) -> f32 {
        unsafe {
            // Magnitudes of floats order like their bits.
            let bits = |floats| _mm256_and_si256(_mm256_castps_si256(floats), _mm256_set1_epi32(i32::MAX));
            let first = _mm256_max_epi32(bits(a[0]), bits(a[1]));
            let most = _mm256_max_epi32(first, _mm256_max_epi32(bits(b[0]), bits(b[1])));
            let lanes: [i32; 8] = std::mem::transmute(most);
            let mut largest = 0;
            for lane in lanes {
                largest = if lane > largest { lane } else { largest };
            }
            f32::from_bits(largest.cast_unsigned())
        }
    }

    #[inline(always)]
    fn above(self, floats: [__m256; 2], limit: f32) -> u32 {
        unsafe {
            let mut bits = 0;
            for (half, floats) in floats.into_iter().enumerate() {
                let magnitudes = _mm256_andnot_ps(_mm256_set1_ps(-0.0), floats);
                let above = _mm256_cmp_ps::<_CMP_GT_OQ>(magnitudes, _mm256_set1_ps(limit));
                bits |= _mm256_movemask_ps(above).cast_unsigned() << (8 * half);
            }
            bits
        }
    }

    #[inline(always)]
    fn without(self, floats: [__m256; 2], bits: u32) -> [__m256; 2] {
        unsafe {
            let mut kept = floats;
            for (half, floats) in kept.iter_mut().enumerate() {
                let bit_of_lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
                let bits = _mm256_set1_epi32((bits >> (8 * half)).cast_signed());
                let is_clear =
                    _mm256_cmpeq_epi32(_mm256_and_si256(bits, bit_of_lane), _mm256_setzero_si256());
                *floats = _mm256_and_ps(*floats, _mm256_castsi256_ps(is_clear));
            }
            kept
        }
    }

    #[inline(always)]
    fn round_to_bytes(self, a: [__m256; 2], b: [__m256; 2], factor: f32, out: &mut [i8; BLOCK]) -> i32 {
        unsafe {
            let factor = _mm256_set1_ps(factor);
            let mut quants = [_mm256_setzero_si256(); 4];
            for (quants, floats) in quants.iter_mut().zip([a[0], a[1], b[0], b[1]]) {
                *quants = _mm256_cvtps_epi32(_mm256_mul_ps(floats, factor));
            }
            let (first, second) =
                (_mm256_packs_epi32(quants[0], quants[1]), _mm256_packs_epi32(quants[2], quants[3]));
            // Packing works within each half of a register.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(first, second), order);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), bytes);
            let sums = _mm256_add_epi32(
                _mm256_add_epi32(quants[0], quants[1]),
                _mm256_add_epi32(quants[2], quants[3]),
            );
            let lanes: [i32; 8] = std::mem::transmute(sums);
            let mut sum = 0i32;
            for lane in lanes {
                sum = sum.wrapping_add(lane);
            }
            sum
        }
    }

    #[inline(always)]
    fn widen_f16(self, halves: &[u16; LANES]) -> [__m256; 2] {
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().add(8).cast())),
            ]
        }
    }

    #[inline(always)]
    fn narrow_f16(self, floats: [__m256; 2]) -> [u16; LANES] {
        let mut halves = [0u16; LANES];
        unsafe {
            let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(floats[0]);
            let high = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(floats[1]);
            _mm_storeu_si128(halves.as_mut_ptr().cast(), low);
            _mm_storeu_si128(halves.as_mut_ptr().add(8).cast(), high);
        }
        halves
    }

    #[inline(always)]
    fn splat_sums(self, value: i32) -> [__m256i; 2] {
        unsafe { [_mm256_set1_epi32(value); 2] }
    }

    #[inline(always)]
    fn load_weights(self, bytes: &[u8; PACKED_STEP]) -> [__m256i; 2] {
        unsafe {
            [
                _mm256_loadu_si256(bytes.as_ptr().cast()),
                _mm256_loadu_si256(bytes.as_ptr().add(PACKED_STEP / 2).cast()),
            ]
        }
    }

    #[inline(always)]
    fn low_nibbles(self, weights: [__m256i; 2]) -> [__m256i; 2] {
        unsafe {
            let nibble = _mm256_set1_epi8(0xf);
            [_mm256_and_si256(weights[0], nibble), _mm256_and_si256(weights[1], nibble)]
        }
    }

    #[inline(always)]
    fn high_nibbles(self, weights: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { self.low_nibbles([_mm256_srli_epi16::<4>(weights[0]), _mm256_srli_epi16::<4>(weights[1])]) }
    }

    #[inline(always)]
    fn add_nibble_products(self, sums: [__m256i; 2], weights: [__m256i; 2], four: [i8; 4]) -> [__m256i; 2] {
        // At most 2 * 15 * 128: within 16 bits.
        unsafe {
            let four = _mm256_set1_epi32(i32::from_ne_bytes(four.map(i8::cast_unsigned)));
            [
                _mm256_add_epi32(sums[0], products(weights[0], four)),
                _mm256_add_epi32(sums[1], products(weights[1], four)),
            ]
        }
    }

    #[inline(always)]
    fn add_byte_products(self, sums: [__m256i; 2], weights: [__m256i; 2], four: [i8; 4]) -> [__m256i; 2] {
        unsafe {
            let four = _mm256_set1_epi32(i32::from_ne_bytes(four.map(i8::cast_unsigned)));
            [
                _mm256_add_epi32(sums[0], byte_products(weights[0], four)),
                _mm256_add_epi32(sums[1], byte_products(weights[1], four)),
            ]
        }
    }

    #[inline(always)]
    fn bits_of(self, weights: [__m256i; 2], shift: u32, mask: u8, centre: u8) -> [__m256i; 2] {
        unsafe {
            let (shift, mask) = (_mm_cvtsi32_si128(shift as i32), _mm256_set1_epi32(i32::from(mask)));
            let centre = _mm256_set1_epi32(i32::from(centre));
            [
                _mm256_sub_epi32(_mm256_and_si256(_mm256_srl_epi32(weights[0], shift), mask), centre),
                _mm256_sub_epi32(_mm256_and_si256(_mm256_srl_epi32(weights[1], shift), mask), centre),
            ]
        }
    }

    #[inline(always)]
    fn join(self, lower: [__m256i; 2], upper: i16) -> [__m256i; 2] {
        unsafe {
            let (mask, upper) = (_mm256_set1_epi32(0xffff), _mm256_set1_epi32(i32::from(upper) << 16));
            [
                _mm256_or_si256(_mm256_and_si256(lower[0], mask), upper),
                _mm256_or_si256(_mm256_and_si256(lower[1], mask), upper),
            ]
        }
    }

    #[inline(always)]
    fn shift_sums(self, sums: [__m256i; 2], shift: u32) -> [__m256i; 2] {
        unsafe {
            let shift = _mm_cvtsi32_si128(shift as i32);
            [_mm256_sra_epi32(sums[0], shift), _mm256_sra_epi32(sums[1], shift)]
        }
    }

    #[inline(always)]
    fn load_grids(self, grids: &[Grid; LANES]) -> [__m256i; 2] {
        unsafe {
            [_mm256_loadu_si256(grids.as_ptr().cast()), _mm256_loadu_si256(grids.as_ptr().add(8).cast())]
        }
    }

    #[inline(always)]
    fn apply_grids(self, pairs: [__m256i; 2], grids: [__m256i; 2]) -> [__m256; 2] {
        unsafe {
            [
                _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs[0], grids[0])),
                _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs[1], grids[1])),
            ]
        }
    }

    #[inline(always)]
    fn prefetch(self, line: *const u8) {
        // SAFETY: a prefetch does not access memory as far as the program can tell, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
    }

    #[inline(always)]
    fn prefetch_output(self, line: *const u8) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }
}
