//! Registers of 512 bits, with dot products of bytes.
#![allow(unsafe_code, reason = "vector instructions, which the processor was found to have")]

use super::{BLOCK, Grid, Kernel, LANES, Lanes, PACKED_STEP};
use std::arch::x86_64::{
    __m512, __m512i, _CMP_GT_OQ, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0, _MM_HINT_T1, _mm_cvtsi32_si128,
    _mm_prefetch, _mm_storeu_si128, _mm256_loadu_si256, _mm256_storeu_si256, _mm512_abs_ps, _mm512_add_epi32,
    _mm512_add_ps, _mm512_and_si512, _mm512_castps_si512, _mm512_cmp_ps_mask, _mm512_cvtepi32_epi8,
    _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_cvtps_epi32, _mm512_cvtps_ph, _mm512_dpbusd_epi32,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_madd_epi16, _mm512_maskz_mov_ps,
    _mm512_max_epi32, _mm512_mul_ps, _mm512_or_si512, _mm512_reduce_add_epi32, _mm512_reduce_max_epi32,
    _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_sra_epi32, _mm512_srl_epi32,
    _mm512_srli_epi16, _mm512_storeu_ps, _mm512_sub_epi32,
};

/// Made by [`Avx512::detect`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let is_there = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("bmi2");
        is_there.then_some(Self(()))
    }

    /// Runs `kernel`, compiled for these instructions.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c,bmi2")]
        fn run<K: Kernel>(lanes: Avx512, kernel: K) -> K::Output {
            kernel.run(lanes)
        }
        // SAFETY: `self` exists, so the processor has these instructions.
        unsafe { run(self, kernel) }
    }
}

// SAFETY of all below: `self` exists, so the processor has the instructions; loads and stores are of whole arrays.
impl Lanes for Avx512 {
    type Floats = __m512;
    type Sums = __m512i;
    type Weights = __m512i;
    type Grids = __m512i;

    const IS_FUSED: bool = true;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> __m512 {
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, floats: __m512, out: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), floats) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn multiply(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn multiply_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn largest_magnitude(self, a: __m512, b: __m512) -> f32 {
        unsafe {
            // Magnitudes of floats order like their bits.
            let (a, b) = (_mm512_castps_si512(_mm512_abs_ps(a)), _mm512_castps_si512(_mm512_abs_ps(b)));
            f32::from_bits(_mm512_reduce_max_epi32(_mm512_max_epi32(a, b)).cast_unsigned())
        }
    }

    #[inline(always)]
    fn above(self, floats: __m512, limit: f32) -> u32 {
        unsafe {
            let limit = _mm512_set1_ps(limit);
            u32::from(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(_mm512_abs_ps(floats), limit))
        }
    }

    #[inline(always)]
    fn without(self, floats: __m512, bits: u32) -> __m512 {
        unsafe { _mm512_maskz_mov_ps(!(bits as u16), floats) }
    }

    #[inline(always)]
    fn round_to_bytes(self, a: __m512, b: __m512, factor: f32, out: &mut [i8; BLOCK]) -> i32 {
        unsafe {
            let factor = _mm512_set1_ps(factor);
            let a = _mm512_cvtps_epi32(_mm512_mul_ps(a, factor));
            let b = _mm512_cvtps_epi32(_mm512_mul_ps(b, factor));
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a));
            _mm_storeu_si128(out.as_mut_ptr().add(LANES).cast(), _mm512_cvtepi32_epi8(b));
            _mm512_reduce_add_epi32(_mm512_add_epi32(a, b))
        }
    }

    #[inline(always)]
    fn widen_f16(self, halves: &[u16; LANES]) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast())) }
    }

    #[inline(always)]
    fn narrow_f16(self, floats: __m512) -> [u16; LANES] {
        let mut halves = [0; LANES];
        unsafe {
            let narrow = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(floats);
            _mm256_storeu_si256(halves.as_mut_ptr().cast(), narrow);
        }
        halves
    }

    #[inline(always)]
    fn splat_sums(self, value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn load_weights(self, bytes: &[u8; PACKED_STEP]) -> __m512i {
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn low_nibbles(self, weights: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(weights, _mm512_set1_epi8(0xf)) }
    }

    #[inline(always)]
    fn high_nibbles(self, weights: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(weights), _mm512_set1_epi8(0xf)) }
    }

    #[inline(always)]
    fn add_nibble_products(self, sums: __m512i, weights: __m512i, four: [i8; 4]) -> __m512i {
        self.add_byte_products(sums, weights, four)
    }

    #[inline(always)]
    fn add_byte_products(self, sums: __m512i, weights: __m512i, four: [i8; 4]) -> __m512i {
        let four = i32::from_ne_bytes(four.map(i8::cast_unsigned));
        unsafe { _mm512_dpbusd_epi32(sums, weights, _mm512_set1_epi32(four)) }
    }

    #[inline(always)]
    fn bits_of(self, weights: __m512i, shift: u32, mask: u8, centre: u8) -> __m512i {
        unsafe {
            let shifted = _mm512_srl_epi32(weights, _mm_cvtsi32_si128(shift as i32));
            let bits = _mm512_and_si512(shifted, _mm512_set1_epi32(i32::from(mask)));
            _mm512_sub_epi32(bits, _mm512_set1_epi32(i32::from(centre)))
        }
    }

    #[inline(always)]
    fn join(self, lower: __m512i, upper: i16) -> __m512i {
        unsafe {
            let lower = _mm512_and_si512(lower, _mm512_set1_epi32(0xffff));
            _mm512_or_si512(lower, _mm512_set1_epi32(i32::from(upper) << 16))
        }
    }

    #[inline(always)]
    fn shift_sums(self, sums: __m512i, shift: u32) -> __m512i {
        unsafe { _mm512_sra_epi32(sums, _mm_cvtsi32_si128(shift as i32)) }
    }

    #[inline(always)]
    fn load_grids(self, grids: &[Grid; LANES]) -> __m512i {
        unsafe { _mm512_loadu_si512(grids.as_ptr().cast()) }
    }

    #[inline(always)]
    fn apply_grids(self, pairs: __m512i, grids: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_madd_epi16(pairs, grids)) }
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
