//! The body of `POST /v1/chat/completions`.

use serde_json::{Map, Value};

use crate::error::ApiError;

use super::fields::{Fields, quoted, wrong_type};
use super::sampling::CommonParams;

/// A chat request.
#[derive(Debug)]
pub(crate) struct ChatParams {
    pub(crate) common: CommonParams,
    /// A list of objects, each with `role` and `content` as strings, and perhaps `name`: what templates expect.
    pub(crate) messages: Value,
}

impl ChatParams {
    /// Reads the fields of a body, which may hold so many messages.
    pub(crate) fn read(mut fields: Fields, max_messages: usize) -> Result<Self, ApiError> {
        let common = CommonParams::take(&mut fields)?;
        let messages = match fields.take("messages") {
            None => return Err(ApiError::MissingParameter { param: "messages" }),
            Some(Value::Array(messages)) => messages,
            Some(other) => return Err(wrong_type("messages", "a list", &other)),
        };
        fields.finish()?;
        Ok(Self { common, messages: read_messages(messages, max_messages)? })
    }
}

/// A list of messages in the form that templates expect.
pub(super) fn read_messages(messages: Vec<Value>, max_messages: usize) -> Result<Value, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "there must be at least one"));
    }
    if messages.len() > max_messages {
        return Err(ApiError::invalid("messages", format!("at most {max_messages} are allowed")));
    }
    let messages = messages.into_iter().enumerate().map(|(index, value)| message(index, value));
    Ok(Value::Array(messages.collect::<Result<_, _>>()?))
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
