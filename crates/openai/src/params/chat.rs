//! The body of `POST /v1/chat/completions`.

use serde_json::{Map, Value};

use crate::error::ApiError;

use super::fields::{Fields, quoted, wrong_type};
use super::sampling::{CommonParams, logprobs};

/// Most messages of one request; a conversation is not longer, and templates loop over them.
const MAX_MESSAGES: usize = 4096;

/// A chat request.
#[derive(Debug)]
pub(crate) struct ChatParams {
    pub(crate) common: CommonParams,
    /// A list of objects, each with `role` and `content` as strings, and perhaps `name`: what templates expect.
    pub(crate) messages: Value,
    /// Whether an answer that continues a message begins with it.
    pub(crate) echo: bool,
    /// How many likely tokens are shown beside each token; `None` shows no log-probabilities.
    pub(crate) logprobs: Option<u32>,
}

impl ChatParams {
    /// Reads the fields of a body.
    pub(crate) fn read(mut fields: Fields) -> Result<Self, ApiError> {
        let common = CommonParams::take(&mut fields)?;
        let echo = fields.boolean("echo")?.unwrap_or(false);
        let logprobs = chat_logprobs(&mut fields)?;
        let messages = match fields.take("messages") {
            None => return Err(ApiError::MissingParameter { param: "messages" }),
            Some(Value::Array(messages)) => messages,
            Some(other) => return Err(wrong_type("messages", "a list", &other)),
        };
        fields.finish()?;
        if messages.is_empty() {
            return Err(ApiError::invalid("messages", "there must be at least one"));
        }
        if messages.len() > MAX_MESSAGES {
            return Err(ApiError::invalid("messages", format!("at most {MAX_MESSAGES} are allowed")));
        }
        let messages = messages.into_iter().enumerate().map(|(index, value)| message(index, value));
        if common.max_tokens == Some(0) {
            return Err(ApiError::invalid("max_tokens", "it must be at least 1"));
        }
        Ok(Self { common, messages: Value::Array(messages.collect::<Result<_, _>>()?), echo, logprobs })
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

/// One message in the form that templates expect.
fn message(index: usize, value: Value) -> Result<Value, ApiError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let Value::Object(mut given) = value else {
        return Err(wrong_type(&format!("messages[{index}]"), "an object", &value));
    };
    let role = match given.swap_remove("role") {
        Some(Value::String(role)) => role,
        Some(other) => return Err(wrong_type(&at("role"), "a string", &other)),
        None => return Err(ApiError::invalid(at("role"), "it is missing")),
    };
    match role.as_str() {
        "system" | "developer" | "user" | "assistant" => {}
        "tool" | "function" => {
            return Err(ApiError::unsupported(at("role"), "tool calls are not supported"));
        }
        other => {
            let problem = format!("'{}' is none of system, developer, user and assistant", quoted(other));
            return Err(ApiError::invalid(at("role"), problem));
        }
    }
    let content = match given.swap_remove("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => joined(parts, &at("content"))?,
        None | Some(Value::Null) => return Err(ApiError::invalid(at("content"), "it is missing")),
        Some(other) => return Err(wrong_type(&at("content"), "a string or a list of parts", &other)),
    };
    let mut message = Map::new();
    message.insert("role".to_owned(), Value::String(role));
    message.insert("content".to_owned(), Value::String(content));
    for (field, value) in given {
        match (field.as_str(), value) {
            ("name", Value::String(name)) => {
                message.insert(field, Value::String(name));
            }
            // What clients send back of an earlier answer.
            (
                "name" | "refusal" | "audio" | "function_call" | "tool_calls" | "tool_call_id"
                | "annotations" | "reasoning" | "reasoning_content",
                Value::Null,
            ) => {}
            ("tool_calls" | "annotations", Value::Array(list)) if list.is_empty() => {}
            ("name", other) => return Err(wrong_type(&at("name"), "a string", &other)),
            (
                "refusal" | "audio" | "function_call" | "tool_calls" | "tool_call_id" | "annotations"
                | "reasoning" | "reasoning_content",
                _,
            ) => return Err(ApiError::unsupported(at(&field), "leave it out")),
            _ => return Err(ApiError::UnknownParameter { param: at(&quoted(&field)) }),
        }
    }
    Ok(Value::Object(message))
}

/// The text of a message that comes in parts, which are put together line by line as vLLM does.
fn joined(parts: Vec<Value>, param: &str) -> Result<String, ApiError> {
    let mut joined = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        let param = format!("{param}[{index}]");
        let text = match part {
            Value::String(text) => text,
            Value::Object(mut part) => match part.get("type").and_then(Value::as_str) {
                Some("text") => match part.swap_remove("text") {
                    Some(Value::String(text)) => text,
                    Some(other) => return Err(wrong_type(&format!("{param}.text"), "a string", &other)),
                    None => return Err(ApiError::invalid(format!("{param}.text"), "it is missing")),
                },
                Some(other) => {
                    let problem = format!("parts of type '{}' are not supported, only 'text'", quoted(other));
                    return Err(ApiError::unsupported(format!("{param}.type"), problem));
                }
                None => return Err(ApiError::invalid(format!("{param}.type"), "it must be 'text'")),
            },
            other => return Err(wrong_type(&param, "an object", &other)),
        };
        if index > 0 {
            joined.push('\n');
        }
        joined.push_str(&text);
    }
    Ok(joined)
}
