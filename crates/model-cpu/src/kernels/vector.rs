//! Loops over floats in forms that compile to vector instructions. Sums are kept in independent lanes, since a
//! compiler may not reorder them itself.

use super::{
    ActivationBlock, BLOCK, COARSE_LEVELS, FINE_LEVELS, HIGH_SHIFT, LANES, Lanes, MOST_OVER_MEAN,
    multiply_add,
};

/// e to the `x`, with products fused where the lanes' are.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(lanes: L, x: f32) -> f32 {
    wayfare_engine_local::exp(x, |a, b, c| multiply_add(lanes, a, b, c))
}

/// Writes `silu(gate) * up`.
#[inline(always)]
pub(crate) fn gated_silu<L: Lanes>(lanes: L, gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((gate, up), out) in gate.iter().zip(up).zip(out) {
        *out = gate / (1.0 + exp(lanes, -gate)) * up;
    }
}

/// Writes `values` divided by their root mean square, times `weights`.
#[inline(always)]
pub(crate) fn rms_norm<L: Lanes>(lanes: L, values: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) {
    let factor = rms_factor(lanes, values, epsilon);
    for ((value, weight), out) in values.iter().zip(weights).zip(out) {
        *out = value * factor * weight;
    }
}

/// [`rms_norm`] in place.
#[inline(always)]
pub(crate) fn rms_norm_in_place<L: Lanes>(lanes: L, values: &mut [f32], weights: &[f32], epsilon: f32) {
    let factor = rms_factor(lanes, values, epsilon);
    for (value, weight) in values.iter_mut().zip(weights) {
        *value *= factor * weight;
    }
}

#[inline(always)]
fn rms_factor<L: Lanes>(lanes: L, values: &[f32], epsilon: f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = multiply_add(lanes, *value, *value, *sum);
        }
    }
    let square_sum = sums.iter().sum::<f32>() + rest.iter().map(|value| value * value).sum::<f32>();
    1.0 / (square_sum / values.len() as f32 + epsilon).sqrt()
}

/// Replaces scores by their softmax times one over the sum, as weights that add up to 1.
#[inline(always)]
pub(crate) fn softmax<L: Lanes>(lanes: L, scores: &mut [f32]) {
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
            *score = exp(lanes, *score - maximum);
            *sum += *score;
        }
    }
    let mut sum = sums.iter().sum::<f32>();
    for score in rest {
        *score = exp(lanes, *score - maximum);
        sum += *score;
    }
    let factor = 1.0 / sum;
    for score in scores {
        *score *= factor;
    }
}

/// Turns the pairs `(i, i + half)` of a head by angles whose cosines and sines are given.
#[inline(always)]
pub(crate) fn rotate_halves(head: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let half = head.len() / 2;
    let (first, second) = head.split_at_mut(half);
    for (((a, b), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
        (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
    }
}

/// Quantises a row with a scale for each 32 values; a short last block is filled up with zeros.
#[inline(always)]
pub(crate) fn quantise_row<L: Lanes>(lanes: L, values: &[f32], blocks: &mut [ActivationBlock]) {
    let most_in_eight_bits = MOST_OVER_MEAN * mean_magnitude(values);
    let (chunks, rest) = values.as_chunks::<BLOCK>();
    for (chunk, block) in chunks.iter().zip(blocks.iter_mut()) {
        quantise_block(lanes, chunk, most_in_eight_bits, block);
    }
    if !rest.is_empty()
        && let Some(block) = blocks.get_mut(chunks.len())
    {
        let mut padded = [0.0; BLOCK];
        padded[..rest.len()].copy_from_slice(rest);
        quantise_block(lanes, &padded, most_in_eight_bits, block);
    }
}

#[inline(always)]
fn mean_magnitude(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value.abs();
        }
    }
    let sum = sums.iter().sum::<f32>() + rest.iter().map(|value| value.abs()).sum::<f32>();
    sum / values.len() as f32
}

#[inline(always)]
fn quantise_block<L: Lanes>(
    lanes: L,
    values: &[f32; BLOCK],
    most_in_eight_bits: f32,
    block: &mut ActivationBlock,
) {
    // Magnitudes of floats order like their bits, and a maximum of integers is vectorised.
    let largest = values.iter().fold(0u32, |largest, value| largest.max(value.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    let is_fine = largest > most_in_eight_bits;
    let levels = if is_fine { FINE_LEVELS } else { COARSE_LEVELS };
    // Below the smallest normal number the inverse would be infinite; such a block is as good as zero.
    let inverse = if largest >= f32::MIN_POSITIVE { levels / largest } else { 0.0 };
    // Adding 1.5 * 2^23 rounds to an integer, which is then the difference of the bits.
    const ROUND: f32 = 12_582_912.0;
    let quant_of = |value: f32| {
        (multiply_add(lanes, value, inverse, ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)
    };
    let mut sum = 0i32;
    block.is_fine = u32::from(is_fine);
    if is_fine {
        for ((value, high), low) in values.iter().zip(&mut block.high).zip(&mut block.low) {
            let quant = quant_of(*value);
            let nearest = quant.wrapping_add(1 << (HIGH_SHIFT - 1)) >> HIGH_SHIFT;
            *high = nearest as i8;
            *low = quant.wrapping_sub(nearest << HIGH_SHIFT) as i8;
            sum = sum.wrapping_add(quant);
        }
    } else {
        for (value, high) in values.iter().zip(&mut block.high) {
            let quant = quant_of(*value);
            *high = quant as i8;
            sum = sum.wrapping_add(quant);
        }
        block.low = [0; BLOCK];
        sum <<= HIGH_SHIFT;
    }
    // The same quotient for both: a block that is all high in 15 bits is the one of 8 bits.
    block.scale = largest / FINE_LEVELS;
    block.coarse_scale = block.scale * (1 << HIGH_SHIFT) as f32;
    block.sum = block.scale * sum as f32;
}
