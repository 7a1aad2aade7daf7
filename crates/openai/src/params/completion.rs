//! The body of `POST /v1/completions`.

use serde_json::Value;
use wayfare_engine::TokenId;

use crate::error::ApiError;

use super::fields::{Fields, wrong_type};
use super::sampling::{CommonParams, token_id};

/// What is to be completed.
#[derive(Debug)]
pub(crate) enum Prompt {
    Text(String),
    Tokens(Vec<TokenId>),
}

/// A completion request.
#[derive(Debug)]
pub(crate) struct CompletionParams {
    pub(crate) common: CommonParams,
    pub(crate) prompt: Prompt,
}

impl CompletionParams {
    /// Reads the fields of a body.
    pub(crate) fn read(mut fields: Fields) -> Result<Self, ApiError> {
        let common = CommonParams::take(&mut fields)?;
        let prompt = fields.take("prompt").ok_or(ApiError::MissingParameter { param: "prompt" })?;
        fields.finish()?;
        Ok(Self { common, prompt: read_prompt(prompt)? })
    }
}

fn read_prompt(value: Value) -> Result<Prompt, ApiError> {
    let mut list = match value {
        Value::String(text) => return Ok(Prompt::Text(text)),
        Value::Array(list) => list,
        other => return Err(wrong_type("prompt", EXPECTED, &other)),
    };
    match (list.first(), list.len()) {
        (None, _) => Err(ApiError::invalid("prompt", "it must not be empty")),
        (Some(Value::Number(_)), _) => tokens(&list),
        (Some(Value::String(_) | Value::Array(_)), 1) => match list.swap_remove(0) {
            Value::String(text) => Ok(Prompt::Text(text)),
            Value::Array(list) => tokens(&list),
            other => Err(wrong_type("prompt", EXPECTED, &other)),
        },
        (Some(Value::String(_) | Value::Array(_)), _) => {
            Err(ApiError::unsupported("prompt", "several prompts in one request; send one request for each"))
        }
        (Some(other), _) => Err(wrong_type("prompt", EXPECTED, other)),
    }
}

const EXPECTED: &str = "a string or a list of token ids";

fn tokens(list: &[Value]) -> Result<Prompt, ApiError> {
    if list.is_empty() {
        return Err(ApiError::invalid("prompt", "it must not be empty"));
    }
    list.iter().map(|item| token_id("prompt", item)).collect::<Result<_, _>>().map(Prompt::Tokens)
}
