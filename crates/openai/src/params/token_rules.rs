//! The fields that change which tokens are chosen.

use serde_json::Value;
use wayfare_engine::TokenId;

use crate::error::ApiError;

use super::fields::{Fields, quoted, wrong_type};
use super::sampling::token_ids;

/// OpenAI allows 1 024 entries.
const MAX_BIASED_TOKENS: usize = 1024;
const MAX_BIAS: f64 = 100.0;
/// Each is looked for before every token.
const MAX_BAD_WORDS: usize = 256;
const MAX_BAD_WORD_BYTES: usize = 256;
/// More than any vocabulary has.
const MAX_ALLOWED_TOKENS: usize = 1 << 20;
/// vLLM takes any above 0; beyond these, nothing but the penalty decides, and far beyond no logit stays finite.
const REPETITION_PENALTIES: std::ops::RangeInclusive<f64> = 0.01..=100.0;

/// What the client wants of the tokens. Words are still text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RuleParams {
    pub(crate) presence_penalty: f32,
    pub(crate) frequency_penalty: f32,
    pub(crate) repetition_penalty: f32,
    pub(crate) logit_bias: Vec<(TokenId, f32)>,
    pub(crate) bad_words: Vec<String>,
    pub(crate) allowed_token_ids: Option<Vec<TokenId>>,
    pub(crate) min_tokens: u32,
}

impl RuleParams {
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(Self {
            presence_penalty: penalty(fields, "presence_penalty")?,
            frequency_penalty: penalty(fields, "frequency_penalty")?,
            repetition_penalty: fields.number("repetition_penalty", REPETITION_PENALTIES)?.unwrap_or(1.0)
                as f32,
            logit_bias: logit_bias(fields)?,
            bad_words: bad_words(fields)?,
            allowed_token_ids: allowed_token_ids(fields)?,
            min_tokens: fields.integer("min_tokens", 0..=i128::from(u32::MAX))?.unwrap_or(0) as u32,
        })
    }
}

fn penalty(fields: &mut Fields, name: &str) -> Result<f32, ApiError> {
    Ok(fields.number(name, -2.0..=2.0)?.unwrap_or(0.0) as f32)
}

fn logit_bias(fields: &mut Fields) -> Result<Vec<(TokenId, f32)>, ApiError> {
    let name = "logit_bias";
    let given = match fields.take(name) {
        None => return Ok(Vec::new()),
        Some(Value::Object(given)) => given,
        Some(other) => return Err(wrong_type(name, "an object", &other)),
    };
    if given.len() > MAX_BIASED_TOKENS {
        return Err(ApiError::invalid(name, format!("at most {MAX_BIASED_TOKENS} tokens are allowed")));
    }
    given
        .iter()
        .map(|(token, bias)| {
            let id = token
                .parse()
                .map_err(|_| ApiError::invalid(name, format!("'{}' is not a token id", quoted(token))))?;
            let param = || format!("{name}.{id}");
            let bias = bias.as_f64().ok_or_else(|| wrong_type(&param(), "a number", bias))?;
            if !(-MAX_BIAS..=MAX_BIAS).contains(&bias) {
                return Err(ApiError::invalid(param(), format!("{bias} is not between -100 and 100")));
            }
            Ok((id, bias as f32))
        })
        .collect()
}

fn bad_words(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let name = "bad_words";
    let list = match fields.take(name) {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong_type(name, "a list of strings", &other)),
    };
    if list.len() > MAX_BAD_WORDS {
        return Err(ApiError::invalid(name, format!("at most {MAX_BAD_WORDS} are allowed")));
    }
    list.into_iter()
        .map(|item| match item {
            Value::String(word) if word.trim_start().is_empty() => {
                Err(ApiError::invalid(name, "a bad word must not be empty"))
            }
            Value::String(word) if word.len() > MAX_BAD_WORD_BYTES => {
                Err(ApiError::invalid(name, format!("a bad word may have {MAX_BAD_WORD_BYTES} bytes")))
            }
            Value::String(word) => Ok(word),
            other => Err(wrong_type(name, "a list of strings", &other)),
        })
        .collect()
}

fn allowed_token_ids(fields: &mut Fields) -> Result<Option<Vec<TokenId>>, ApiError> {
    let name = "allowed_token_ids";
    let ids = token_ids(fields, name, MAX_ALLOWED_TOKENS)?;
    match ids {
        Some(ids) if ids.is_empty() => Err(ApiError::invalid(name, "no token would be allowed")),
        Some(mut ids) => {
            ids.sort_unstable();
            ids.dedup();
            Ok(Some(ids))
        }
        None => Ok(None),
    }
}
