//! What a prompt is in tokens, and back.

use serde::Serialize;
use wayfare_engine::TokenId;

use crate::endpoint::Endpoint;
use crate::error::ApiError;
use crate::params::{DetokenizeParams, Fields, TokenizeParams, TokenizePrompt};

use super::{Preparer, error_chain};

/// The answer of `POST /tokenize`.
#[derive(Debug, Serialize)]
pub(crate) struct Tokenized {
    count: usize,
    max_model_len: u32,
    tokens: Vec<TokenId>,
    /// How the vocabulary spells them, when that was asked for.
    token_strs: Option<Vec<String>>,
}

/// The answer of `POST /detokenize`.
#[derive(Debug, Serialize)]
pub(crate) struct Detokenized {
    prompt: String,
}

impl Preparer {
    /// The tokens that a generating route would make of the prompt in `body`.
    pub(crate) fn tokenize(&self, body: &[u8]) -> Result<Tokenized, ApiError> {
        let params = TokenizeParams::read(Fields::parse(body)?, self.max_messages)?;
        self.model(params.model.as_deref())?;
        let tokens = match params.prompt {
            TokenizePrompt::Text(text) => {
                self.encode(&text, params.add_special_tokens.unwrap_or(true), Endpoint::Completion)?
            }
            TokenizePrompt::Messages { messages, prompt, tools } => {
                let text = self.render(&messages, *prompt, &tools)?;
                self.encode(&text, params.add_special_tokens.unwrap_or(false), Endpoint::Chat)?
            }
        };
        let spelled = |token: &TokenId| self.tokenizer.id_to_token(*token).unwrap_or_default();
        Ok(Tokenized {
            count: tokens.len(),
            max_model_len: self.limits.context_tokens(),
            token_strs: params.return_token_strs.then(|| tokens.iter().map(spelled).collect()),
            tokens,
        })
    }

    /// The text of the tokens in `body`, special ones included.
    pub(crate) fn detokenize(&self, body: &[u8]) -> Result<Detokenized, ApiError> {
        let DetokenizeParams { model, tokens } = DetokenizeParams::read(Fields::parse(body)?)?;
        self.model(model.as_deref())?;
        // A token may be a hundred times as long as its number.
        let limit = self.limits.context_tokens();
        if tokens.len() > limit as usize {
            let problem = format!("at most {limit} are allowed, as many as the model can take");
            return Err(ApiError::invalid("tokens", problem));
        }
        self.check_tokens("tokens", &tokens)?;
        let prompt = self
            .tokenizer
            .decode(&tokens, false)
            .map_err(|error| ApiError::invalid("tokens", error_chain(&error)))?;
        Ok(Detokenized { prompt })
    }
}
