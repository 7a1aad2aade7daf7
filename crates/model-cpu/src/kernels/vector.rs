//! Loops over floats in forms that compile to vector instructions. Sums are kept in independent lanes, since a
//! compiler may not reorder them itself.

use super::{LANES, Lanes, multiply_add};

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
