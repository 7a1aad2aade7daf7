//! The fields that both generating routes have.

use std::sync::Arc;

use serde_json::Value;
use wayfare_engine::{OutputGrammar, TokenId};

use crate::error::ApiError;

use super::fields::{Fields, integer, wrong_type};
use super::grammar::output_grammar;
use super::stream_options::StreamOptions;
use super::token_rules::RuleParams;

/// OpenAI allows 4 stop strings and vLLM any number; each costs time per token.
const MAX_STOP_STRINGS: usize = 16;
const MAX_STOP_STRING_BYTES: usize = 4096;
const MAX_STOP_TOKENS: usize = 256;
/// Widest range of a seed: OpenAI's are signed, ours unsigned 64-bit numbers; negative ones wrap.
const SEED_RANGE: std::ops::RangeInclusive<i128> = i64::MIN as i128..=u64::MAX as i128;

const PRIORITY_RANGE: std::ops::RangeInclusive<i128> = i32::MIN as i128..=i32::MAX as i128;
/// OpenAI's limit; each choice is a sequence of its own in the engine.
const MAX_CHOICES: i128 = 128;
/// vLLM's default limit on the log-probabilities beside that of a token.
pub(super) const MAX_LOGPROBS: i128 = 20;
/// A salt is a name or a random string; it is hashed once per request.
const MAX_CACHE_SALT_BYTES: usize = 1024;

/// How to generate and how to answer, as the client asked.
#[derive(Debug)]
pub(crate) struct CommonParams {
    pub(crate) model: Option<String>,
    /// Answers to each prompt.
    pub(crate) n: u32,
    pub(crate) temperature: f32,
    pub(crate) top_p: f32,
    /// `None` considers all tokens.
    pub(crate) top_k: Option<u32>,
    pub(crate) min_p: f32,
    pub(crate) seed: Option<u64>,
    pub(crate) max_tokens: Option<u32>,
    /// The field that says it.
    pub(crate) max_tokens_param: &'static str,
    pub(crate) stop: Arc<[String]>,
    pub(crate) stop_token_ids: Arc<[TokenId]>,
    pub(crate) include_stop_str_in_output: bool,
    pub(crate) skip_special_tokens: bool,
    pub(crate) ignore_eos: bool,
    /// What changes the logits.
    pub(crate) rules: RuleParams,
    /// What the answer must be, if it is not free, and the field that says so.
    pub(crate) grammar: Option<(&'static str, OutputGrammar)>,
    /// How many likely tokens are shown beside each token of the prompt; `None` shows nothing of it.
    pub(crate) prompt_logprobs: Option<u32>,
    /// Whether tokens are shown as `token_id:NUMBER` where their texts would be.
    pub(crate) return_tokens_as_token_ids: bool,
    /// Whether the ids of prompt and answer are shown.
    pub(crate) return_token_ids: bool,
    pub(crate) priority: i32,
    pub(crate) cache_salt: Option<Arc<str>>,
    /// Whether the tokeniser adds its own special tokens around the prompt.
    pub(crate) add_special_tokens: Option<bool>,
    pub(crate) truncate_prompt: Truncation,
    pub(crate) stream: bool,
    pub(crate) stream_options: StreamOptions,
    /// Whether the answer is to say what its request's time went into.
    pub(crate) include_metrics: bool,
}

/// What happens to prompts that are too long. The last tokens stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truncation {
    /// They are refused.
    Never,
    /// They are cut to what leaves room for the answer.
    ToFit,
    /// They are cut to so many tokens.
    To(u32),
}

impl CommonParams {
    /// Takes the common fields.
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let stream = fields.boolean("stream")?.unwrap_or(false);
        let max_completion_tokens = max_tokens(fields, "max_completion_tokens")?;
        let max_tokens = max_tokens(fields, "max_tokens")?;
        let prompt_logprobs = logprobs(fields, "prompt_logprobs")?;
        if stream && prompt_logprobs.is_some() {
            let problem = "it is not available when 'stream' is true";
            return Err(ApiError::unsupported("prompt_logprobs", problem));
        }
        let rules = RuleParams::take(fields)?;
        let grammar = output_grammar(fields)?;
        if let (Some(_), Some((name, _))) = (&rules.allowed_token_ids, &grammar) {
            let problem = format!("it is not possible with '{name}': there may be no token that both allow");
            return Err(ApiError::invalid("allowed_token_ids", problem));
        }
        Ok(Self {
            model: fields.string("model")?,
            n: fields.integer("n", 1..=MAX_CHOICES)?.unwrap_or(1) as u32,
            temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(1.0) as f32,
            top_p: top_p(fields)?,
            top_k: top_k(fields)?,
            min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(0.0) as f32,
            seed: fields.integer("seed", SEED_RANGE)?.map(|seed| seed as u64),
            // As in vLLM, the newer name wins.
            max_tokens: max_completion_tokens.or(max_tokens),
            max_tokens_param: if max_completion_tokens.is_some() {
                "max_completion_tokens"
            } else {
                "max_tokens"
            },
            stop: stop_strings(fields)?,
            stop_token_ids: stop_tokens(fields)?,
            include_stop_str_in_output: fields.boolean("include_stop_str_in_output")?.unwrap_or(false),
            skip_special_tokens: fields.boolean("skip_special_tokens")?.unwrap_or(true),
            ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
            rules,
            grammar,
            prompt_logprobs,
            return_tokens_as_token_ids: fields.boolean("return_tokens_as_token_ids")?.unwrap_or(false),
            return_token_ids: fields.boolean("return_token_ids")?.unwrap_or(false),
            priority: fields.integer("priority", PRIORITY_RANGE)?.unwrap_or(0) as i32,
            cache_salt: cache_salt(fields)?,
            add_special_tokens: fields.boolean("add_special_tokens")?,
            truncate_prompt: truncation(fields)?,
            stream_options: StreamOptions::take(fields, stream)?,
            include_metrics: fields.boolean("include_metrics")?.unwrap_or(false),
            stream,
        })
    }
}

/// A number of log-probabilities to show beside each token's own.
pub(super) fn logprobs(fields: &mut Fields, name: &str) -> Result<Option<u32>, ApiError> {
    Ok(fields.integer(name, 0..=MAX_LOGPROBS)?.map(|count| count as u32))
}

fn truncation(fields: &mut Fields) -> Result<Truncation, ApiError> {
    let asked = fields.integer("truncate_prompt_tokens", -1..=i128::from(u32::MAX))?;
    match asked {
        None => Ok(Truncation::Never),
        Some(-1) => Ok(Truncation::ToFit),
        Some(0) => {
            Err(ApiError::invalid("truncate_prompt_tokens", "no prompt would be left; -1 cuts to fit"))
        }
        Some(tokens) => Ok(Truncation::To(tokens as u32)),
    }
}

/// 0 only makes sense where the prompt itself is the answer, which the route checks.
fn max_tokens(fields: &mut Fields, name: &str) -> Result<Option<u32>, ApiError> {
    let asked = fields.integer(name, 0..=i128::from(i64::MAX))?;
    // Nothing above a u32 fits any model; the context check refuses it with the numbers.
    Ok(asked.map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX)))
}

fn top_p(fields: &mut Fields) -> Result<f32, ApiError> {
    let top_p = fields.number("top_p", 0.0..=1.0)?.unwrap_or(1.0);
    // What is above 0 stays above it.
    if top_p > 0.0 {
        Ok((top_p as f32).max(f32::MIN_POSITIVE))
    } else {
        Err(ApiError::invalid("top_p", "it must be above 0"))
    }
}

/// 0 and -1 both mean "off" in vLLM.
fn top_k(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let top_k = fields.integer("top_k", -1..=i128::from(u32::MAX))?;
    Ok(top_k.and_then(|top_k| u32::try_from(top_k).ok()).filter(|top_k| *top_k > 0))
}

/// As in vLLM, an empty salt is a mistake: it would look like one and be none.
fn cache_salt(fields: &mut Fields) -> Result<Option<Arc<str>>, ApiError> {
    let Some(salt) = fields.string("cache_salt")? else { return Ok(None) };
    match salt.len() {
        0 => Err(ApiError::invalid("cache_salt", "it must not be empty; leave it out for none")),
        1..=MAX_CACHE_SALT_BYTES => Ok(Some(salt.into())),
        _ => Err(ApiError::invalid("cache_salt", format!("it may have {MAX_CACHE_SALT_BYTES} bytes"))),
    }
}

fn stop_strings(fields: &mut Fields) -> Result<Arc<[String]>, ApiError> {
    let list = match fields.take("stop") {
        None => Vec::new(),
        Some(Value::String(text)) => vec![Value::String(text)],
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong_type("stop", "a string or a list of strings", &other)),
    };
    if list.len() > MAX_STOP_STRINGS {
        return Err(ApiError::invalid("stop", format!("at most {MAX_STOP_STRINGS} strings are allowed")));
    }
    list.into_iter()
        .map(|item| match item {
            Value::String(text) if text.is_empty() => {
                Err(ApiError::invalid("stop", "a stop string must not be empty"))
            }
            Value::String(text) if text.len() > MAX_STOP_STRING_BYTES => Err(ApiError::invalid(
                "stop",
                format!("a stop string may have {MAX_STOP_STRING_BYTES} bytes"),
            )),
            Value::String(text) => Ok(text),
            other => Err(wrong_type("stop", "a string or a list of strings", &other)),
        })
        .collect()
}

fn stop_tokens(fields: &mut Fields) -> Result<Arc<[TokenId]>, ApiError> {
    let ids = token_ids(fields, "stop_token_ids", MAX_STOP_TOKENS)?;
    Ok(ids.unwrap_or_default().into())
}

/// A field that is a list of at most `most` token ids.
pub(super) fn token_ids(
    fields: &mut Fields,
    name: &str,
    most: usize,
) -> Result<Option<Vec<TokenId>>, ApiError> {
    let list = match fields.take(name) {
        None => return Ok(None),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong_type(name, "a list of token ids", &other)),
    };
    if list.len() > most {
        return Err(ApiError::invalid(name, format!("at most {most} ids are allowed")));
    }
    list.iter().map(|item| token_id(name, item)).collect::<Result<_, _>>().map(Some)
}

/// One token id of a list.
pub(super) fn token_id(name: &str, item: &Value) -> Result<TokenId, ApiError> {
    let id = integer(item).ok_or_else(|| wrong_type(name, "token ids", item))?;
    TokenId::try_from(id).map_err(|_| ApiError::invalid(name, format!("{id} is not a token id")))
}
