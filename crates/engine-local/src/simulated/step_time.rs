//! How long a simulated step takes.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::StepInput;

/// What a step computes, as far as its time depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepWork {
    /// Sequences that take part.
    pub sequences: u32,
    /// Prompt tokens, and tokens computed again after a preemption.
    pub prefill_tokens: u64,
    /// Sequences that compute their last output token to get the next one.
    pub decode_tokens: u64,
    /// Tokens whose keys and values are read: for each sequence all up to its last one of this step.
    pub kv_tokens: u64,
    /// Sequences whose prefill is complete with this step.
    pub completed_prefills: u32,
}

impl StepWork {
    /// The work of a whole step.
    #[must_use]
    pub fn of(input: &StepInput) -> Self {
        let mut work = Self::default();
        for sequence in &input.sequences {
            let output_index = sequence.sample.map(|sample| sample.output_index);
            work.add(sequence.first_position, sequence.num_tokens, output_index);
        }
        work
    }

    /// Adds one sequence: so many tokens from that position on, and which of its output tokens it gets, if it
    /// gets one.
    pub fn add(&mut self, first_position: u32, num_tokens: u32, output_index: Option<u32>) {
        self.sequences += 1;
        self.kv_tokens += u64::from(first_position) + u64::from(num_tokens);
        if num_tokens == 1 && output_index.is_some_and(|index| index > 0) {
            self.decode_tokens += 1;
        } else {
            self.prefill_tokens += u64::from(num_tokens);
            self.completed_prefills += u32::from(output_index.is_some());
        }
    }
}

/// The time of a step as a function of its work. All times are in microseconds, finite and not negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StepTimeModel {
    /// The time grows with each kind of work, as fitted to a real engine.
    Linear(LinearStepTime),
    /// Each request has its latencies, whoever is computed beside it.
    Latencies(RequestLatencies),
}

/// `base + per_prefill_token · prefill + per_decode_token · decode + per_kv_token · KV tokens read`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinearStepTime {
    /// β0: every step.
    pub base_us: f64,
    /// β1: every prompt token, and every token computed again.
    pub per_prefill_token_us: f64,
    /// β2: every sequence that computes its next output token.
    pub per_decode_token_us: f64,
    /// β3: every token whose keys and values are read.
    pub per_kv_token_us: f64,
}

/// A step takes as long as the longest of its parts: a decode takes the inter-token latency, a prefill the time
/// to the first token; both grow with the number of sequences. This is how `llm-d-inference-sim` is configured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestLatencies {
    /// A step in which a prefill is complete takes at least this.
    pub prefill_us: f64,
    /// What each prefill token of the step adds to that.
    pub per_prefill_token_us: f64,
    /// A step in which a sequence decodes takes at least this.
    pub inter_token_us: f64,
    /// How much longer everything takes when `max_num_seqs` sequences are in the step; at least 1.
    pub factor_under_load: f64,
    /// The number of sequences at which the factor is reached.
    pub max_num_seqs: u32,
}

impl StepTimeModel {
    /// A model by which no step takes any time.
    pub const ZERO: Self = Self::Linear(LinearStepTime {
        base_us: 0.0,
        per_prefill_token_us: 0.0,
        per_decode_token_us: 0.0,
        per_kv_token_us: 0.0,
    });

    /// The time of a step that does this work, in microseconds.
    #[must_use]
    pub fn micros(&self, work: &StepWork) -> f64 {
        match self {
            StepTimeModel::Linear(linear) => linear.micros(work),
            StepTimeModel::Latencies(latencies) => latencies.micros(work),
        }
    }
}

impl LinearStepTime {
    fn micros(&self, work: &StepWork) -> f64 {
        self.base_us
            + self.per_prefill_token_us * work.prefill_tokens as f64
            + self.per_decode_token_us * work.decode_tokens as f64
            + self.per_kv_token_us * work.kv_tokens as f64
    }
}

impl RequestLatencies {
    fn micros(&self, work: &StepWork) -> f64 {
        let per_token = self.per_prefill_token_us * work.prefill_tokens as f64;
        let prefill = if work.completed_prefills > 0 { self.prefill_us + per_token } else { per_token };
        let decode = if work.decode_tokens > 0 { self.inter_token_us } else { 0.0 };
        prefill.max(decode) * self.load_factor(work.sequences)
    }

    fn load_factor(&self, sequences: u32) -> f64 {
        if self.max_num_seqs <= 1 {
            return 1.0;
        }
        let share = f64::from(sequences.saturating_sub(1)) / f64::from(self.max_num_seqs - 1);
        1.0 + (self.factor_under_load - 1.0) * share
    }
}

/// Gives the times of one step after the other: those of the model, with noise.
#[derive(Debug)]
pub struct StepTimer {
    model: StepTimeModel,
    noise_fraction: f64,
    random: StdRng,
}

impl StepTimer {
    /// A timer that multiplies each step's time by a random factor within `1 ± noise_fraction`; 0 for none.
    #[must_use]
    pub fn new(model: StepTimeModel, noise_fraction: f64, seed: u64) -> Self {
        Self { model, noise_fraction, random: StdRng::seed_from_u64(seed) }
    }

    /// How long the next step takes, which does this work.
    pub fn next(&mut self, work: &StepWork) -> Duration {
        let mut micros = self.model.micros(work);
        if self.noise_fraction > 0.0 {
            micros *= 1.0 + self.noise_fraction * self.random.random_range(-1.0..=1.0);
        }
        // What is not a time, or no sensible one, ends at the borders of the type.
        Duration::from_nanos((micros * 1e3).round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINEAR: StepTimeModel = StepTimeModel::Linear(LinearStepTime {
        base_us: 100.0,
        per_prefill_token_us: 10.0,
        per_decode_token_us: 3.0,
        per_kv_token_us: 0.25,
    });

    fn work(parts: &[(u32, u32, Option<u32>)]) -> StepWork {
        parts.iter().fold(StepWork::default(), |mut work, &(first, tokens, output)| {
            work.add(first, tokens, output);
            work
        })
    }

    #[test]
    fn work_is_told_apart() {
        // A chunk, the last chunk of one token, a decode, and a prompt that is computed again.
        let work = work(&[(64, 20, None), (40, 1, Some(0)), (99, 1, Some(3)), (0, 8, Some(5))]);
        let expected = StepWork {
            sequences: 4,
            prefill_tokens: 29,
            decode_tokens: 1,
            kv_tokens: 84 + 41 + 100 + 8,
            completed_prefills: 2,
        };
        assert_eq!(work, expected);
    }

    #[test]
    fn the_linear_model_adds_up() {
        let mut timer = StepTimer::new(LINEAR, 0.0, 0);
        assert_eq!(timer.next(&StepWork::default()), Duration::from_micros(100));
        let time = timer.next(&work(&[(0, 20, None), (99, 1, Some(3))]));
        assert_eq!(time, Duration::from_micros(100 + 200 + 3 + 120 / 4));
    }

    #[test]
    fn latencies_of_one_request_are_what_was_asked_for() {
        let model = |prefill_us, per_prefill_token_us| {
            StepTimeModel::Latencies(RequestLatencies {
                prefill_us,
                per_prefill_token_us,
                inter_token_us: 12_000.0,
                factor_under_load: 3.0,
                max_num_seqs: 5,
            })
        };
        let constant = model(100_000.0, 0.0);
        // A chunk takes nothing, the end of the prompt all of it, whatever its length.
        assert_eq!(constant.micros(&work(&[(0, 512, None)])), 0.0);
        assert_eq!(constant.micros(&work(&[(512, 7, Some(0))])), 100_000.0);
        assert_eq!(constant.micros(&work(&[(519, 1, Some(1))])), 12_000.0);
        let per_token = model(30_000.0, 250.0);
        assert_eq!(per_token.micros(&work(&[(0, 512, None)])), 128_000.0);
        assert_eq!(per_token.micros(&work(&[(512, 8, Some(0))])), 32_000.0);
    }

    #[test]
    fn latencies_together_are_the_longest_of_them_and_grow_with_the_load() {
        let model = StepTimeModel::Latencies(RequestLatencies {
            prefill_us: 100.0,
            per_prefill_token_us: 0.0,
            inter_token_us: 12.0,
            factor_under_load: 3.0,
            max_num_seqs: 5,
        });
        // Three of five: half way from 1 to 3.
        assert_eq!(model.micros(&work(&[(0, 9, Some(0)), (0, 9, Some(0)), (9, 1, Some(1))])), 200.0);
        assert_eq!(model.micros(&work(&[(9, 1, Some(1)); 5])), 36.0);
        let StepTimeModel::Latencies(latencies) = model else { unreachable!() };
        let alone = StepTimeModel::Latencies(RequestLatencies { max_num_seqs: 1, ..latencies });
        assert_eq!(alone.micros(&work(&[(9, 1, Some(1))])), 12.0);
    }

    #[test]
    fn noise_stays_within_its_bounds_and_repeats_with_its_seed() {
        let times = |seed| {
            let mut timer = StepTimer::new(LINEAR, 0.1, seed);
            (0..1000).map(|_| timer.next(&StepWork::default())).collect::<Vec<_>>()
        };
        let noisy = times(1);
        assert!(noisy.iter().all(|time| (90_000..=110_000).contains(&time.as_nanos())));
        assert!(noisy.iter().any(|time| time.as_nanos() < 92_000));
        assert_eq!(noisy, times(1));
        assert_ne!(noisy, times(2));
    }
}
