//! The body of `POST /v1/chat/completions`.

use serde_json::{Map, Value};

use crate::error::ApiError;

use super::fields::{Fields, quoted, wrong_type};
use super::messages::message;
use super::sampling::{CommonParams, logprobs};
use super::tools::ToolParams;

/// Most messages of one request; a conversation is not longer, and templates loop over them.
const MAX_MESSAGES: usize = 4096;
/// Of them, what OpenAI's and vLLM's clients know.
const EFFORTS: [&str; 6] = ["none", "minimal", "low", "medium", "high", "xhigh"];

/// A chat request.
#[derive(Debug)]
pub(crate) struct ChatParams {
    pub(crate) common: CommonParams,
    /// A list of objects: what templates expect.
    pub(crate) messages: Value,
    /// How the messages become a prompt.
    pub(crate) prompt: PromptParams,
    pub(crate) tools: ToolParams,
    /// Whether reasoning is shown.
    pub(crate) include_reasoning: bool,
    /// Whether an answer that continues a message begins with it.
    pub(crate) echo: bool,
    /// How many likely tokens are shown beside each token; `None` shows no log-probabilities.
    pub(crate) logprobs: Option<u32>,
}

/// How messages become a prompt.
#[derive(Debug)]
pub(crate) struct PromptParams {
    pub(crate) add_generation_prompt: bool,
    pub(crate) continue_final_message: bool,
    /// A template to use instead of the model's.
    pub(crate) chat_template: Option<String>,
    /// More variables for the template.
    pub(crate) kwargs: Map<String, Value>,
    pub(crate) documents: Option<Value>,
}

impl ChatParams {
    /// Reads the fields of a body.
    pub(crate) fn read(mut fields: Fields) -> Result<Self, ApiError> {
        let common = CommonParams::take(&mut fields)?;
        let echo = fields.boolean("echo")?.unwrap_or(false);
        let logprobs = chat_logprobs(&mut fields)?;
        let tools = ToolParams::take(&mut fields)?;
        let include_reasoning = fields.boolean("include_reasoning")?.unwrap_or(true);
        let prompt = PromptParams::take(&mut fields)?;
        let messages = match fields.take("messages") {
            None => return Err(ApiError::MissingParameter { param: "messages" }),
            Some(Value::Array(messages)) => messages,
            Some(other) => return Err(wrong_type("messages", "a list", &other)),
        };
        fields.finish()?;
        if common.max_tokens == Some(0) {
            return Err(ApiError::invalid("max_tokens", "it must be at least 1"));
        }
        if messages.is_empty() {
            return Err(ApiError::invalid("messages", "there must be at least one"));
        }
        if messages.len() > MAX_MESSAGES {
            return Err(ApiError::invalid("messages", format!("at most {MAX_MESSAGES} are allowed")));
        }
        let messages = messages.into_iter().enumerate().map(|(index, value)| message(index, value));
        let messages = Value::Array(messages.collect::<Result<_, _>>()?);
        Ok(Self { common, messages, prompt, tools, include_reasoning, echo, logprobs })
    }
}

impl PromptParams {
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let continue_final_message = fields.boolean("continue_final_message")?.unwrap_or(false);
        let add_generation_prompt = fields.boolean("add_generation_prompt")?;
        if continue_final_message && add_generation_prompt == Some(true) {
            let problem = "it is not possible with 'add_generation_prompt': the prompt ends either way";
            return Err(ApiError::invalid("continue_final_message", problem));
        }
        let mut kwargs = match fields.take("chat_template_kwargs") {
            None => Map::new(),
            Some(Value::Object(kwargs)) => kwargs,
            Some(other) => return Err(wrong_type("chat_template_kwargs", "an object", &other)),
        };
        if let Some(effort) = fields.string("reasoning_effort")? {
            if !EFFORTS.contains(&effort.as_str()) {
                let problem = format!("'{}' is none of {}", quoted(&effort), EFFORTS.join(", "));
                return Err(ApiError::invalid("reasoning_effort", problem));
            }
            // As in vLLM: templates of models that know it read it.
            kwargs.entry("reasoning_effort").or_insert(Value::String(effort));
        }
        let documents = match fields.take("documents") {
            None => None,
            Some(Value::Array(list)) if list.is_empty() => None,
            Some(Value::Array(list)) if list.iter().all(Value::is_object) => Some(Value::Array(list)),
            Some(other) => return Err(wrong_type("documents", "a list of objects", &other)),
        };
        Ok(Self {
            // vLLM wants it turned off explicitly; there is only one way to mean it.
            add_generation_prompt: add_generation_prompt.unwrap_or(!continue_final_message),
            continue_final_message,
            chat_template: fields.string("chat_template")?,
            kwargs,
            documents,
        })
    }
}

fn chat_logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    match logprobs(fields, "top_logprobs")? {
        Some(top) if top > 0 && !wanted => {
            Err(ApiError::invalid("top_logprobs", "it is allowed only when 'logprobs' is true"))
        }
        top => Ok(wanted.then(|| top.unwrap_or(0))),
    }
}
