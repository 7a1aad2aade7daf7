//! From words to the tokens that may or may not come.

use std::sync::Arc;

use wayfare_engine::{TokenId, TokenRules};

use crate::error::ApiError;
use crate::params::RuleParams;

use super::{Preparer, error_chain};

impl Preparer {
    /// The rules that the engine follows; `None` when nothing is to be changed.
    pub(super) fn token_rules(&self, asked: &RuleParams) -> Result<Option<Arc<TokenRules>>, ApiError> {
        let biased: Vec<TokenId> = asked.logit_bias.iter().map(|(token, _)| *token).collect();
        self.check_tokens("logit_bias", &biased)?;
        self.check_tokens("allowed_token_ids", asked.allowed_token_ids.as_deref().unwrap_or_default())?;
        let mut bad_words = Vec::new();
        for word in &asked.bad_words {
            self.ban_word(word, &mut bad_words)?;
        }
        let rules = TokenRules {
            allowed: asked.allowed_token_ids.clone(),
            bad_words,
            min_tokens: asked.min_tokens,
            logit_bias: asked.logit_bias.clone(),
            repetition_penalty: asked.repetition_penalty,
            frequency_penalty: asked.frequency_penalty,
            presence_penalty: asked.presence_penalty,
        };
        Ok((rules != TokenRules::default()).then(|| Arc::new(rules)))
    }

    /// As vLLM: the word as it begins a text, and, where that is as many tokens but another first one, as it stands
    /// behind a space.
    fn ban_word(&self, word: &str, bad_words: &mut Vec<Vec<TokenId>>) -> Result<(), ApiError> {
        let encode = |text: &str| {
            let tokens = self.tokenizer.encode(text, false);
            tokens.map_err(|error| ApiError::invalid("bad_words", error_chain(&error)))
        };
        let word = word.trim_start();
        let (bare, spaced) = (encode(word)?, encode(&format!(" {word}"))?);
        if spaced.len() == bare.len() && spaced.first() != bare.first() {
            bad_words.push(spaced);
        }
        if !bare.is_empty() {
            bad_words.push(bare);
        }
        Ok(())
    }
}
