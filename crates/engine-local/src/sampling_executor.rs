//! An executor made of a model and a sampler.

use wayfare_engine::TokenId;

use crate::{Executor, ExecutorError, LogitsError, Model, RuleBook, Sampler, StepInput, StepSequence};

/// Runs a [`Model`] and samples a token from each row of its logits.
#[derive(Debug)]
pub struct SamplingExecutor<M> {
    model: M,
    sampler: Sampler,
}

impl<M: Model> SamplingExecutor<M> {
    /// An executor over `model`.
    pub fn new(model: M) -> Self {
        Self { model, sampler: Sampler::default() }
    }
}

impl<M: Model> Executor for SamplingExecutor<M> {
    fn execute(
        &mut self,
        input: &StepInput,
        rules: &mut RuleBook,
        tokens: &mut Vec<TokenId>,
    ) -> Result<(), ExecutorError> {
        let sampler = &mut self.sampler;
        let mut rows = input.sequences.iter().flat_map(|sequence| {
            (1..=sequence.num_logits).map(move |row| (sequence, row == sequence.num_logits))
        });
        let mut outcome = Ok(());
        self.model.forward_rows(input, &mut |logits| {
            if let Some((sequence, is_last)) = rows.next()
                && let Err(error) = take_row(sampler, rules, sequence, is_last, logits, tokens)
            {
                outcome = Err(ExecutorError(error.to_string()));
            }
        })?;
        outcome
    }
}

/// Does with one row of logits what it is wanted for.
fn take_row(
    sampler: &mut Sampler,
    rules: &mut RuleBook,
    sequence: &StepSequence,
    is_last: bool,
    logits: &mut [f32],
    tokens: &mut Vec<TokenId>,
) -> Result<(), LogitsError> {
    let rules = if sequence.has_rules { rules.of(sequence.id) } else { None };
    match (rules, &sequence.sample, is_last) {
        (Some(rules), Some(spec), true) => tokens.push(rules.choose(sampler, logits, spec)),
        (None, Some(spec), true) => tokens.push(sampler.choose(logits, spec)?),
        (Some(rules), ..) => rules.take_prompt_row(logits),
        (None, ..) => {}
    }
    Ok(())
}
