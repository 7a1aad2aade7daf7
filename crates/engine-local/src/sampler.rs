//! Choosing the next token from a row of logits.
//!
//! HOT PATH: the candidate buffer is reused from row to row.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use wayfare_engine::TokenId;

use crate::{SampleSpec, exp::exp};

/// How many candidates are sorted first when the most likely ones are wanted; grows as needed.
const FIRST_SORTED: usize = 64;
/// Logits that are looked at together.
const CHUNK: usize = 64;

/// Chooses tokens. Holds only buffers: a choice depends on the logits and the [`SampleSpec`] alone.
#[derive(Debug, Default)]
pub struct Sampler {
    /// Of every token, its unnormalised probability: exp of the scaled logit minus the largest scaled logit.
    weights: Vec<f32>,
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: TokenId,
    weight: f32,
}

/// A row of logits that no token can be chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model computed no finite logit")]
pub struct LogitsError;

impl Sampler {
    /// Chooses the next token: temperature, then min-p, then top-k, then top-p, as vLLM v1 does. At
    /// temperature 0 the most likely token, the lowest id among equals.
    ///
    /// # Errors
    /// When no logit is finite.
    pub fn choose(&mut self, logits: &[f32], spec: &SampleSpec) -> Result<TokenId, LogitsError> {
        let (most_likely, largest) = argmax(logits).ok_or(LogitsError)?;
        if spec.temperature <= 0.0 || spec.top_k == 1 {
            return Ok(most_likely);
        }
        self.weigh(logits, largest, spec);
        if spec.top_k == 0 && spec.top_p >= 1.0 && spec.min_p <= 0.0 {
            return Ok(self.draw_from_all(spec).unwrap_or(most_likely));
        }
        self.gather_candidates(spec);
        if spec.top_k > 0 {
            self.keep_most_likely(spec.top_k as usize);
        }
        if spec.top_p < 1.0 {
            self.keep_nucleus(spec.top_p);
        }
        Ok(self.draw(spec).unwrap_or(most_likely))
    }

    /// Computes the weights of all tokens; that of a token which is no number is 0.
    fn weigh(&mut self, logits: &[f32], largest: f32, spec: &SampleSpec) {
        let scale = 1.0 / spec.temperature;
        self.weights.resize(logits.len(), 0.0);
        for (weight, logit) in self.weights.iter_mut().zip(logits) {
            let raised = exp((logit - largest) * scale, |a, b, c| a * b + c);
            // What is infinite has no chance either, and a NaN fails the comparison.
            *weight = if *logit <= largest { raised } else { 0.0 };
        }
    }

    /// Fills the candidates with every token that has a chance, dropping those below min-p.
    fn gather_candidates(&mut self, spec: &SampleSpec) {
        let candidates = (0..).zip(&self.weights).map(|(token, &weight)| Candidate { token, weight });
        let has_chance = |candidate: &Candidate| candidate.weight > 0.0 && candidate.weight >= spec.min_p;
        self.candidates.clear();
        self.candidates.extend(candidates.filter(has_chance));
    }

    /// Draws a token, no matter how unlikely.
    fn draw_from_all(&self, spec: &SampleSpec) -> Option<TokenId> {
        let sum_of = |weights: &[f32]| weights.iter().sum::<f32>();
        let total: f64 = self.weights.chunks(CHUNK).map(|weights| f64::from(sum_of(weights))).sum();
        let mut remaining = random_number(spec) * total;
        let mut last = None;
        for (index, weights) in self.weights.chunks(CHUNK).enumerate() {
            let sum = f64::from(sum_of(weights));
            if remaining >= sum {
                remaining -= sum;
                continue;
            }
            for (token, &weight) in (index * CHUNK..).zip(weights) {
                if weight > 0.0 {
                    last = TokenId::try_from(token).ok();
                    remaining -= f64::from(weight);
                    if remaining < 0.0 {
                        return last;
                    }
                }
            }
        }
        last
    }

    /// Keeps the `count` most likely candidates, most likely first.
    fn keep_most_likely(&mut self, count: usize) {
        self.sort_first(count);
        self.candidates.truncate(count);
    }

    /// Keeps the smallest set of most likely candidates whose probabilities reach `share`.
    fn keep_nucleus(&mut self, share: f32) {
        let total: f64 = self.candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
        let wanted = total * f64::from(share);
        let mut sorted = 0;
        let (mut kept, mut reached) = (0, 0.0);
        while kept < self.candidates.len() && reached < wanted {
            if kept == sorted {
                sorted = (sorted * 8).max(FIRST_SORTED).min(self.candidates.len());
                self.sort_first(sorted);
            }
            reached += f64::from(self.candidates[kept].weight);
            kept += 1;
        }
        self.candidates.truncate(kept.max(1));
    }

    /// Moves the `count` most likely candidates to the front, in order; equal ones by token id.
    fn sort_first(&mut self, count: usize) {
        let by_weight =
            |a: &Candidate, b: &Candidate| b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token));
        let count = count.min(self.candidates.len());
        if count < self.candidates.len() {
            self.candidates.select_nth_unstable_by(count, by_weight);
        }
        self.candidates[..count].sort_unstable_by(by_weight);
    }

    /// Draws one candidate.
    fn draw(&self, spec: &SampleSpec) -> Option<TokenId> {
        let total: f64 = self.candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
        let mut remaining = random_number(spec) * total;
        for candidate in &self.candidates {
            remaining -= f64::from(candidate.weight);
            if remaining < 0.0 {
                return Some(candidate.token);
            }
        }
        self.candidates.last().map(|candidate| candidate.token)
    }
}

/// From 0 to below 1. Depends on the seed and the position in the output alone, so that a request gets the same
/// answer in any batch and after a preemption.
fn random_number(spec: &SampleSpec) -> f64 {
    let position = u64::from(spec.output_index);
    // An odd multiplier (2^64 / golden ratio) keeps the streams of neighbouring positions apart.
    let stream = spec.seed ^ position.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    StdRng::seed_from_u64(stream).random()
}

/// The largest finite logit and its token.
fn argmax(logits: &[f32]) -> Option<(TokenId, f32)> {
    let mut maxima = [f32::NEG_INFINITY; CHUNK];
    let (chunks, rest) = logits.as_chunks::<CHUNK>();
    for chunk in chunks {
        for (maximum, &logit) in maxima.iter_mut().zip(chunk) {
            // A NaN fails the comparison.
            *maximum = if logit > *maximum { logit } else { *maximum };
        }
    }
    let largest = maxima.iter().chain(rest).fold(f32::NEG_INFINITY, |largest, &logit| largest.max(logit));
    let largest = if largest == f32::INFINITY {
        logits.iter().filter(|logit| logit.is_finite()).copied().fold(f32::NEG_INFINITY, f32::max)
    } else {
        largest
    };
    if largest == f32::NEG_INFINITY {
        return None;
    }
    // Vector instructions find the chunk, and then the place within it.
    let is_largest = |&logit: &f32| logit == largest;
    let chunk = logits
        .chunks(CHUNK)
        .position(|chunk| chunk.iter().fold(false, |any, logit| any | is_largest(logit)))?;
    let within = logits[chunk * CHUNK..].iter().position(is_largest)?;
    Some((TokenId::try_from(chunk * CHUNK + within).ok()?, largest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: SampleSpec =
        SampleSpec { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, seed: 7, output_index: 0 };

    /// How often each of the tokens is chosen in many draws.
    fn shares(logits: &[f32], spec: SampleSpec) -> Vec<f64> {
        let draws = 20_000_u32;
        let mut counts = vec![0.0; logits.len()];
        let mut sampler = Sampler::default();
        for output_index in 0..draws {
            let token = sampler.choose(logits, &SampleSpec { output_index, ..spec }).unwrap();
            counts[token as usize] += 1.0;
        }
        counts.iter().map(|count| count / f64::from(draws)).collect()
    }

    fn assert_close(actual: &[f64], expected: &[f64]) {
        // Four standard deviations of a share in 20 000 draws are at most 0.0142.
        let is_close = actual.iter().zip(expected).all(|(a, e)| (a - e).abs() < 0.0142);
        assert!(is_close && actual.len() == expected.len(), "{actual:?} instead of {expected:?}");
    }

    fn logits_of(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = logits_of(&[0.5, 0.3, 0.15, 0.05]);
        assert_close(&shares(&logits, PLAIN), &[0.5, 0.3, 0.15, 0.05]);
        // At temperature 2 the square roots count.
        let roots: Vec<f64> = [0.5_f64, 0.3, 0.15, 0.05].iter().map(|p| p.sqrt()).collect();
        let total: f64 = roots.iter().sum();
        let expected: Vec<f64> = roots.iter().map(|root| root / total).collect();
        assert_close(&shares(&logits, SampleSpec { temperature: 2.0, ..PLAIN }), &expected);
    }

    #[test]
    fn top_k_top_p_and_min_p_cut_the_tail() {
        let logits = logits_of(&[0.05, 0.5, 0.15, 0.3]);
        let of_two = [0.0, 0.625, 0.0, 0.375];
        assert_close(&shares(&logits, SampleSpec { top_k: 2, ..PLAIN }), &of_two);
        assert_close(&shares(&logits, SampleSpec { top_p: 0.6, ..PLAIN }), &of_two);
        assert_close(&shares(&logits, SampleSpec { min_p: 0.5, ..PLAIN }), &of_two);
        // top-p counts what top-k has left: 0.5 of 0.8 reaches 0.6 alone.
        assert_close(&shares(&logits, SampleSpec { top_k: 2, top_p: 0.6, ..PLAIN }), &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn a_wide_nucleus_is_found_among_many_tokens() {
        let logits = vec![0.0; 5000];
        let mut sampler = Sampler::default();
        sampler.weigh(&logits, 0.0, &PLAIN);
        sampler.gather_candidates(&PLAIN);
        sampler.keep_nucleus(0.5);
        assert_eq!(sampler.candidates.len(), 2500);
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_largest() {
        let greedy = SampleSpec { temperature: 0.0, ..PLAIN };
        let choose = |logits: &[f32]| Sampler::default().choose(logits, &greedy);
        assert_eq!(choose(&[0.0, 3.0, 3.0, f32::NAN]), Ok(1));
        assert_eq!(choose(&[f32::NAN, f32::NEG_INFINITY]), Err(LogitsError));
    }

    #[test]
    fn a_choice_depends_on_seed_and_position_alone() {
        let logits = vec![0.0; 1000];
        let mut used = Sampler::default();
        let choose = |sampler: &mut Sampler, seed, output_index| {
            sampler.choose(&logits, &SampleSpec { seed, output_index, ..PLAIN }).unwrap()
        };
        let series: Vec<_> = (0..20).map(|index| choose(&mut used, 1, index)).collect();
        let again: Vec<_> = (0..20).map(|index| choose(&mut Sampler::default(), 1, index)).collect();
        let other: Vec<_> = (0..20).map(|index| choose(&mut used, 2, index)).collect();
        assert_eq!(series, again);
        assert_ne!(series, other);
    }

    proptest! {
        #[test]
        fn any_logits_give_a_finite_token_or_an_error(
            logits in prop::collection::vec(prop_oneof![any::<f32>(), -20.0_f32..20.0], 1..200),
            temperature in 0.0_f32..3.0,
            top_p in 0.01_f32..=1.0,
            top_k in 0_u32..50,
            min_p in 0.0_f32..=1.0,
            seed in any::<u64>(),
        ) {
            let spec = SampleSpec { temperature, top_p, top_k, min_p, seed, output_index: 3 };
            match Sampler::default().choose(&logits, &spec) {
                Ok(token) => prop_assert!(logits[token as usize].is_finite()),
                Err(LogitsError) => prop_assert!(logits.iter().all(|logit| !logit.is_finite())),
            }
        }
    }
}
