//! An executor made of a model and a sampler.

use wayfare_engine::TokenId;

use crate::{Executor, ExecutorError, Model, Sampler, StepInput};

/// Runs a [`Model`] and samples a token from each row of its logits.
#[derive(Debug)]
pub struct SamplingExecutor<M> {
    model: M,
    sampler: Sampler,
    logits: Vec<f32>,
}

impl<M: Model> SamplingExecutor<M> {
    /// An executor over `model`.
    pub fn new(model: M) -> Self {
        Self { model, sampler: Sampler::default(), logits: Vec::new() }
    }
}

impl<M: Model> Executor for SamplingExecutor<M> {
    fn execute(&mut self, input: &StepInput, tokens: &mut Vec<TokenId>) -> Result<(), ExecutorError> {
        self.model.forward(input, &mut self.logits)?;
        let rows = self.logits.chunks_exact(self.model.vocab_size());
        let specs = input.sequences.iter().filter_map(|sequence| sequence.sample.as_ref());
        for (row, spec) in rows.zip(specs) {
            let token = self.sampler.choose(row, spec).map_err(|error| ExecutorError(error.to_string()))?;
            tokens.push(token);
        }
        Ok(())
    }
}
