#![allow(unsafe_code, reason = "vector loads and stores take pointers")]

use super::{ActivationBlock, BLOCK, FOUR_BIT, LANES, PanelBlock, STEP, Tile};

use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T1, _mm_prefetch, _mm256_loadu_si256, _mm512_add_epi32, _mm512_and_si512,
    _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_load_si512,
    _mm512_mul_ps, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srli_epi16, _mm512_storeu_ps,
};

const HIGH_SHIFT: u32 = super::HIGH_SHIFT;
const BYTES_PER_STEP: usize = LANES * STEP;

/// Multiplies rows with panels of equally many blocks; surplus blocks are ignored. Where `blocks_ahead` is not 0,
/// the cache is told that each block that many places further on is needed soon.
#[inline]
pub(crate) fn multiply_tile<const BYTES: usize, const ROWS: usize, const PANELS: usize>(
    panels: [&[PanelBlock<BYTES>]; PANELS],
    rows: [&[ActivationBlock]; ROWS],
    blocks_ahead: usize,
) -> Tile<ROWS, PANELS> {
    const { assert!(BYTES == FOUR_BIT || BYTES == super::EIGHT_BIT) };
    let num_blocks =
        panels.iter().map(|panel| panel.len()).chain(rows.iter().map(|row| row.len())).min().unwrap_or(0);
    // SAFETY: this module is compiled only where the whole program may use these instructions; `num_blocks` is
    // within every slice.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); PANELS]; ROWS];
        for index in 0..num_blocks {
            let blocks = panels.map(|panel| panel.get_unchecked(index));
            let activations = rows.map(|row| row.get_unchecked(index));
            if blocks_ahead > 0 {
                for block in blocks {
                    prefetch(std::ptr::from_ref(block).wrapping_add(blocks_ahead));
                }
            }
            let products = dot_products(blocks, activations);
            let scales = blocks.map(|block| widen(&block.scales));
            let minimums = blocks.map(|block| widen(&block.minimums));
            for row in 0..ROWS {
                let activation_scale = _mm512_set1_ps(activations[row].scale);
                let activation_sum = _mm512_set1_ps(activations[row].sum);
                for panel in 0..PANELS {
                    let scale = _mm512_mul_ps(scales[panel], activation_scale);
                    let product = _mm512_cvtepi32_ps(products[row][panel]);
                    let sum = _mm512_fmadd_ps(product, scale, sums[row][panel]);
                    sums[row][panel] = _mm512_fmadd_ps(minimums[panel], activation_sum, sum);
                }
            }
        }
        let mut tile = [[[0.0; LANES]; PANELS]; ROWS];
        for row in 0..ROWS {
            for panel in 0..PANELS {
                _mm512_storeu_ps(tile[row][panel].as_mut_ptr(), sums[row][panel]);
            }
        }
        tile
    }
}

/// Starts loading a block into the second-level cache; the address need not be valid.
#[inline(always)]
fn prefetch<const BYTES: usize>(block: *const PanelBlock<BYTES>) {
    for line in (0..size_of::<PanelBlock<BYTES>>()).step_by(64) {
        // SAFETY: a prefetch does not access memory as far as the program can tell, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(block.cast::<i8>().wrapping_add(line)) };
    }
}

/// The integer dot products of one block.
///
/// # Safety
/// Needs AVX-512 VNNI.
#[inline(always)]
unsafe fn dot_products<const BYTES: usize, const ROWS: usize, const PANELS: usize>(
    blocks: [&PanelBlock<BYTES>; PANELS],
    activations: [&ActivationBlock; ROWS],
) -> [[__m512i; PANELS]; ROWS] {
    // SAFETY: the loads stay within the arrays: `quants` has 8 or 4 steps of 64 bytes and starts 64 bytes into a
    // structure aligned to 64; both halves of a row's block have 8 steps of 4 bytes.
    unsafe {
        let load = |step: usize| {
            blocks.map(|block| _mm512_load_si512(block.quants.as_ptr().add(step * BYTES_PER_STEP).cast()))
        };
        let nibble = _mm512_set1_epi8(0xf);
        let mut products = [[_mm512_setzero_si512(); PANELS]; ROWS];
        let mut low_products = products;
        let high = activations.map(|block| block.high.as_ptr());
        let low = activations.map(|block| block.low.as_ptr());
        // With few sums, both halves at once, so that weights are loaded once; with many, one half after the
        // other in the same registers.
        let is_small = ROWS * PANELS <= 4;
        for pass in 0..2 {
            if pass == 1 {
                for row in &mut products {
                    *row = row.map(|sums| _mm512_slli_epi32::<HIGH_SHIFT>(sums));
                }
                if is_small {
                    break;
                }
            }
            let mut add = |step: usize, weights: [__m512i; PANELS]| {
                if is_small {
                    accumulate(&mut products, weights, high, step);
                    accumulate(&mut low_products, weights, low, step);
                } else {
                    accumulate(&mut products, weights, if pass == 0 { high } else { low }, step);
                }
            };
            if BYTES == FOUR_BIT {
                for step in 0..BLOCK / STEP / 2 {
                    let pairs = load(step);
                    add(step, pairs.map(|pair| _mm512_and_si512(pair, nibble)));
                    add(step + 4, pairs.map(|pair| _mm512_and_si512(_mm512_srli_epi16::<4>(pair), nibble)));
                }
            } else {
                for step in 0..BLOCK / STEP {
                    add(step, load(step));
                }
            }
        }
        if is_small {
            for (row, low_row) in products.iter_mut().zip(low_products) {
                for (sums, low_sums) in row.iter_mut().zip(low_row) {
                    *sums = _mm512_add_epi32(*sums, low_sums);
                }
            }
        }
        products
    }
}

/// Adds the products of four input channels.
///
/// # Safety
/// Needs AVX-512 VNNI; `values` point to at least `4 * step + 4` bytes.
#[inline(always)]
unsafe fn accumulate<const ROWS: usize, const PANELS: usize>(
    products: &mut [[__m512i; PANELS]; ROWS],
    weights: [__m512i; PANELS],
    values: [*const i8; ROWS],
    step: usize,
) {
    for (products, values) in products.iter_mut().zip(values) {
        // SAFETY: four bytes within the caller's array.
        let four = unsafe { values.add(step * STEP).cast::<i32>().read_unaligned() };
        for (product, weights) in products.iter_mut().zip(weights) {
            // SAFETY: the caller has the instruction.
            *product = unsafe { _mm512_dpbusd_epi32(*product, weights, _mm512_set1_epi32(four)) };
        }
    }
}

/// Half precision bits as floats.
///
/// # Safety
/// Needs AVX-512.
#[inline(always)]
unsafe fn widen(halves: &[u16; LANES]) -> __m512 {
    // SAFETY: the load is of the whole array.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast())) }
}

/// Converts IEEE half precision bits to floats of the same number.
#[inline]
pub(crate) fn widen_f16(halves: &[u16], floats: &mut [f32]) {
    let (half_lanes, half_rest) = halves.as_chunks::<LANES>();
    let (float_lanes, float_rest) = floats.as_chunks_mut::<LANES>();
    for (sixteen, target) in half_lanes.iter().zip(float_lanes) {
        // SAFETY: the store is to the whole array.
        unsafe { _mm512_storeu_ps(target.as_mut_ptr(), widen(sixteen)) };
    }
    for (half, target) in half_rest.iter().zip(float_rest) {
        *target = half::f16::from_bits(*half).to_f32();
    }
}
