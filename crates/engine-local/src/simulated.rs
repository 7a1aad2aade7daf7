//! An executor without weights: the same scheduler, steps that take a modelled time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use wayfare_engine::TokenId;

use crate::{Executor, ExecutorError, StepInput, StepSequence};

/// How long a step takes: `base + per_prefill_token · prefill + per_decode_token · decode`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTimeModel {
    /// β0: every step.
    pub base: Duration,
    /// β1: every prompt token, and every token computed again.
    pub per_prefill_token: Duration,
    /// β2: every sequence that computes its next output token.
    pub per_decode_token: Duration,
    /// Each step's time is multiplied by a random factor within `1 ± noise`; 0 for none.
    pub noise: f64,
    /// Seed of the noise.
    pub seed: u64,
}

impl StepTimeModel {
    fn duration(&self, input: &StepInput, random: &mut StdRng) -> Duration {
        let (mut prefill_tokens, mut decode_tokens) = (0, 0);
        for sequence in &input.sequences {
            let kind = if is_decode(sequence) { &mut decode_tokens } else { &mut prefill_tokens };
            *kind += sequence.num_tokens;
        }
        let time =
            self.base + self.per_prefill_token * prefill_tokens + self.per_decode_token * decode_tokens;
        let factor = 1.0 + self.noise * random.random_range(-1.0..=1.0);
        time.mul_f64(factor.max(0.0))
    }
}

fn is_decode(sequence: &StepSequence) -> bool {
    sequence.num_tokens == 1 && sequence.sample.is_some_and(|sample| sample.output_index > 0)
}

/// Recites a passage, token by token, at the modelled pace.
pub struct SimulatedExecutor {
    time_model: StepTimeModel,
    random: StdRng,
    passage: Arc<[TokenId]>,
    pace: Box<dyn FnMut(Duration) + Send>,
}

impl SimulatedExecutor {
    /// An executor whose sequences each recite `passage` from its start, over and over; an empty passage
    /// stands for token 0. `pace` lets the step's time pass: it sleeps, or moves a virtual clock.
    pub fn new(
        time_model: StepTimeModel,
        passage: Arc<[TokenId]>,
        pace: impl FnMut(Duration) + Send + 'static,
    ) -> Self {
        let random = StdRng::seed_from_u64(time_model.seed);
        Self { time_model, random, passage, pace: Box::new(pace) }
    }

    /// An executor whose steps take real time.
    pub fn in_real_time(time_model: StepTimeModel, passage: Arc<[TokenId]>) -> Self {
        Self::new(time_model, passage, |time| {
            if !time.is_zero() {
                std::thread::sleep(time);
            }
        })
    }
}

impl Executor for SimulatedExecutor {
    fn execute(&mut self, input: &StepInput, tokens: &mut Vec<TokenId>) -> Result<(), ExecutorError> {
        (self.pace)(self.time_model.duration(input, &mut self.random));
        let samples = input.sequences.iter().filter_map(|sequence| sequence.sample);
        tokens.extend(samples.map(|sample| {
            let position = sample.output_index as usize % self.passage.len().max(1);
            self.passage.get(position).copied().unwrap_or(0)
        }));
        Ok(())
    }
}

impl fmt::Debug for SimulatedExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedExecutor").field("time_model", &self.time_model).finish_non_exhaustive()
    }
}
