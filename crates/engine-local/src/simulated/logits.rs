//! Logits where there is no model, for sequences whose tokens follow rules or whose log-probabilities are wanted.
//!
//! Every token gets a little noise, and the token that is said stands out: it is chosen unless the rules speak
//! against it.

use std::sync::Arc;

use wayfare_engine::TokenId;

use crate::random::mix;
use crate::{RuleBook, SampleSpec, Sampler, StepSequence};

use super::Answers;

/// How far the token that is said stands out: with it, it has nearly all of the probability among a few hundred
/// tokens.
const SAID: f32 = 10.0;
/// In an output with a grammar, how far the end of text and the first of the closers stand out; more than what is
/// said, so that such outputs come to an end.
const CLOSING: f32 = 30.0;

#[derive(Debug)]
pub(super) struct MadeUpLogits {
    end_of_text: TokenId,
    closers: Arc<[TokenId]>,
    row: Vec<f32>,
}

impl MadeUpLogits {
    pub(super) fn new(answers: &Answers) -> Self {
        Self { end_of_text: answers.end_of_text, closers: Arc::clone(&answers.closers), row: Vec::new() }
    }

    /// Does what the rules of a sequence ask for in this step; gives the token that comes instead of the one that is
    /// said, if one comes.
    pub(super) fn choose(
        &mut self,
        sequence: &StepSequence,
        said: Option<TokenId>,
        book: &mut RuleBook,
        sampler: &mut Sampler,
    ) -> Option<TokenId> {
        let vocab_size = book.vocab_size();
        let Some(rules) = book.of(sequence.id) else { return said };
        let prompt_rows = sequence.num_logits - u32::from(said.is_some()).min(sequence.num_logits);
        for row in 0..prompt_rows {
            if let Some(next) = rules.next_prompt_token() {
                self.fill(vocab_size, u64::from(sequence.first_position + row));
                self.raise(next, SAID);
            }
            rules.take_prompt_row(&self.row);
        }
        let (said, spec) = (said?, sequence.sample.as_ref()?);
        self.fill(vocab_size, mix(spec.seed, u64::from(spec.output_index)));
        self.raise(said, SAID);
        // An error shows again where the token is chosen.
        if let Ok(Some(allowed)) = rules.allowed() {
            let is_allowed = |token: &TokenId| allowed.contains(*token);
            let closer = self.closers.iter().copied().find(is_allowed);
            if let Some(token) = Some(self.end_of_text).filter(is_allowed).or(closer) {
                self.raise(token, CLOSING);
            }
        }
        let greedy = SampleSpec { temperature: 0.0, ..*spec };
        Some(rules.choose(sampler, &mut self.row, &greedy))
    }

    /// Noise from 0 to 1.
    fn fill(&mut self, vocab_size: u32, seed: u64) {
        self.row.clear();
        let noise =
            (0..u64::from(vocab_size)).map(|token| (mix(seed, token) >> 40) as f32 / (1 << 24) as f32);
        self.row.extend(noise);
    }

    fn raise(&mut self, token: TokenId, by: f32) {
        if let Some(logit) = self.row.get_mut(token as usize) {
            *logit += by;
        }
    }
}
