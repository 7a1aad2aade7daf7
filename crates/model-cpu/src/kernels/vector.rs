//! HOT PATH. Loops over floats in forms that compile to vector instructions. Sums are kept in independent lanes,
//! since a compiler may not reorder them itself.

use super::{ACTIVATION_LEVELS, ActivationBlock, BLOCK, HIGH_SHIFT, LANES};

/// `a * b + c`, fused where the processor can.
#[inline(always)]
pub(crate) fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

/// e to the `x`, to about 1e-7 relative; 0 below -87, and at most e^88.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with r in ±ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let bounded = x.clamp(-87.0, 88.0);
    let shifted = multiply_add(bounded, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, the first short enough that its product with n is exact.
    let r = multiply_add(n, -0.693_359_4, bounded);
    let r = multiply_add(n, 2.121_944_4e-4, r);
    let mut polynomial = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        polynomial = multiply_add(polynomial, r, coefficient);
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { polynomial * power }
}

/// Writes `silu(gate) * up`.
pub(crate) fn gated_silu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((gate, up), out) in gate.iter().zip(up).zip(out) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

/// Writes `values` divided by their root mean square, times `weights`.
pub(crate) fn rms_norm(values: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) {
    let factor = rms_factor(values, epsilon);
    for ((value, weight), out) in values.iter().zip(weights).zip(out) {
        *out = value * factor * weight;
    }
}

/// [`rms_norm`] in place.
pub(crate) fn rms_norm_in_place(values: &mut [f32], weights: &[f32], epsilon: f32) {
    let factor = rms_factor(values, epsilon);
    for (value, weight) in values.iter_mut().zip(weights) {
        *value *= factor * weight;
    }
}

fn rms_factor(values: &[f32], epsilon: f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = multiply_add(*value, *value, *sum);
        }
    }
    let square_sum = sums.iter().sum::<f32>() + rest.iter().map(|value| value * value).sum::<f32>();
    1.0 / (square_sum / values.len() as f32 + epsilon).sqrt()
}

/// Replaces scores by their softmax times one over the sum, as weights that add up to 1.
pub(crate) fn softmax(scores: &mut [f32]) {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for (maximum, &score) in maxima.iter_mut().zip(chunk) {
            *maximum = if score > *maximum { score } else { *maximum };
        }
    }
    let maximum = maxima.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &score| most.max(score));
    let mut sums = [0.0; LANES];
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (score, sum) in chunk.iter_mut().zip(&mut sums) {
            *score = exp(*score - maximum);
            *sum += *score;
        }
    }
    let mut sum = sums.iter().sum::<f32>();
    for score in rest {
        *score = exp(*score - maximum);
        sum += *score;
    }
    let factor = 1.0 / sum;
    for score in scores {
        *score *= factor;
    }
}

/// Turns the pairs `(i, i + half)` of a head by angles whose cosines and sines are given.
pub(crate) fn rotate_halves(head: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let half = head.len() / 2;
    let (first, second) = head.split_at_mut(half);
    for (((a, b), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
        (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
    }
}

/// Quantises a row with a scale for each 32 values; a short last block is filled up with zeros.
pub(crate) fn quantise_row(values: &[f32], blocks: &mut [ActivationBlock]) {
    let (chunks, rest) = values.as_chunks::<BLOCK>();
    for (chunk, block) in chunks.iter().zip(blocks.iter_mut()) {
        quantise_block(chunk, block);
    }
    if !rest.is_empty()
        && let Some(block) = blocks.get_mut(chunks.len())
    {
        let mut padded = [0.0; BLOCK];
        padded[..rest.len()].copy_from_slice(rest);
        quantise_block(&padded, block);
    }
}

#[inline(always)]
fn quantise_block(values: &[f32; BLOCK], block: &mut ActivationBlock) {
    // Magnitudes of floats order like their bits, and a maximum of integers is vectorised.
    let largest = values.iter().fold(0u32, |largest, value| largest.max(value.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    // Below the smallest normal number the inverse would be infinite; such a block is as good as zero.
    let inverse = if largest >= f32::MIN_POSITIVE { ACTIVATION_LEVELS / largest } else { 0.0 };
    // Adding 1.5 * 2^23 rounds to an integer, which is then the difference of the bits.
    const ROUND: f32 = 12_582_912.0;
    let mut sum = 0i32;
    for ((value, high), low) in values.iter().zip(&mut block.high).zip(&mut block.low) {
        let rounded = multiply_add(*value, inverse, ROUND).to_bits() as i32;
        let quant = rounded.wrapping_sub(ROUND.to_bits() as i32);
        let nearest = quant.wrapping_add(1 << (HIGH_SHIFT - 1)) >> HIGH_SHIFT;
        *high = nearest as i8;
        *low = quant.wrapping_sub(nearest << HIGH_SHIFT) as i8;
        sum = sum.wrapping_add(quant);
    }
    block.scale = largest / ACTIVATION_LEVELS;
    block.sum = block.scale * sum as f32;
}
