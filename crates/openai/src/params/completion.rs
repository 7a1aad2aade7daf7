//! The body of `POST /v1/completions`.

use serde_json::Value;
use wayfare_engine::TokenId;

use crate::error::ApiError;

use super::fields::{Fields, wrong_type};
use super::sampling::{CommonParams, logprobs, token_id};

/// Most prompts of one request.
const MAX_PROMPTS: usize = 1024;

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
    /// At least one.
    pub(crate) prompts: Vec<Prompt>,
    /// Whether each answer begins with its prompt.
    pub(crate) echo: bool,
    /// How many likely tokens are shown beside each token; `None` shows no log-probabilities.
    pub(crate) logprobs: Option<u32>,
}

impl CompletionParams {
    /// Reads the fields of a body.
    pub(crate) fn read(mut fields: Fields) -> Result<Self, ApiError> {
        let common = CommonParams::take(&mut fields)?;
        let echo = fields.boolean("echo")?.unwrap_or(false);
        let logprobs = logprobs(&mut fields, "logprobs")?;
        let prompt = fields.take("prompt").ok_or(ApiError::MissingParameter { param: "prompt" })?;
        fields.finish()?;
        if common.max_tokens == Some(0) && !echo {
            return Err(ApiError::invalid("max_tokens", "0 is allowed only with 'echo'"));
        }
        Ok(Self { common, prompts: read_prompts(prompt)?, echo, logprobs })
    }
}

const EXPECTED: &str = "a string, a list of token ids, or a list of such";

/// A text, tokens, or a list of both. A list of numbers is one prompt.
fn read_prompts(value: Value) -> Result<Vec<Prompt>, ApiError> {
    let list = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(list) => list,
        other => return Err(wrong_type("prompt", EXPECTED, &other)),
    };
    if list.is_empty() {
        return Err(ApiError::invalid("prompt", "it must not be empty"));
    }
    if list[0].is_number() {
        return Ok(vec![tokens(&list, "prompt")?]);
    }
    if list.len() > MAX_PROMPTS {
        return Err(ApiError::invalid("prompt", format!("at most {MAX_PROMPTS} prompts are allowed")));
    }
    let prompts = list.into_iter().enumerate().map(|(index, item)| match item {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(list) => tokens(&list, &format!("prompt[{index}]")),
        other => Err(wrong_type(&format!("prompt[{index}]"), "a string or a list of token ids", &other)),
    });
    prompts.collect()
}

fn tokens(list: &[Value], param: &str) -> Result<Prompt, ApiError> {
    if list.is_empty() {
        return Err(ApiError::invalid(param, "it must not be empty"));
    }
    list.iter().map(|item| token_id(param, item)).collect::<Result<_, _>>().map(Prompt::Tokens)
}
