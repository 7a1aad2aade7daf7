//! The messages of a chat.

use serde_json::{Map, Value, json};

use crate::error::ApiError;

use super::fields::{quoted, wrong_type};

/// Most calls in one message, and parts of one content.
const MAX_PARTS: usize = 1024;

/// What clients send back of an earlier answer, and what belongs to what is not supported here.
const ONLY_NULL: [&str; 3] = ["refusal", "audio", "function_call"];

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
        "system" | "developer" | "user" | "assistant" | "tool" => {}
        "function" => return Err(ApiError::unsupported(at("role"), "send the result with the role 'tool'")),
        other => {
            let problem =
                format!("'{}' is none of system, developer, user, assistant and tool", quoted(other));
            return Err(ApiError::invalid(at("role"), problem));
        }
    }
    let mut message = Map::new();
    let calls = tool_calls(given.swap_remove("tool_calls"), &role, &at("tool_calls"))?;
    let content = content(given.swap_remove("content"), &at("content"))?;
    // An assistant that only calls tools says nothing.
    match content {
        None if calls.is_none() => return Err(ApiError::invalid(at("content"), "it is missing")),
        None => message.insert("content".to_owned(), json!("")),
        Some(content) => message.insert("content".to_owned(), content),
    };
    message.insert("role".to_owned(), Value::String(role));
    if let Some(calls) = calls {
        message.insert("tool_calls".to_owned(), calls);
    }
    for (field, value) in given {
        match (field.as_str(), value) {
            (_, Value::Null) if is_known(&field) => {}
            ("annotations", Value::Array(list)) if list.is_empty() => {}
            ("name" | "tool_call_id" | "reasoning" | "reasoning_content", value @ Value::String(_)) => {
                message.insert(field, value);
            }
            ("name" | "tool_call_id" | "reasoning" | "reasoning_content", other) => {
                return Err(wrong_type(&at(&field), "a string", &other));
            }
            _ if is_known(&field) => return Err(ApiError::unsupported(at(&field), "leave it out")),
            _ => return Err(ApiError::UnknownParameter { param: at(&quoted(&field)) }),
        }
    }
    Ok(Value::Object(message))
}

fn is_known(field: &str) -> bool {
    ONLY_NULL.contains(&field)
        || ["name", "tool_call_id", "annotations", "reasoning", "reasoning_content"].contains(&field)
}

/// A string, or a list of parts that are text.
fn content(value: Option<Value>, param: &str) -> Result<Option<Value>, ApiError> {
    let parts = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(text @ Value::String(_)) => return Ok(Some(text)),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(wrong_type(param, "a string or a list of parts", &other)),
    };
    if parts.len() > MAX_PARTS {
        return Err(ApiError::invalid(param, format!("at most {MAX_PARTS} parts are allowed")));
    }
    let parts = parts.into_iter().enumerate().map(|(index, value)| part(value, &format!("{param}[{index}]")));
    Ok(Some(Value::Array(parts.collect::<Result<_, _>>()?)))
}

fn part(value: Value, param: &str) -> Result<Value, ApiError> {
    let text = match value {
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
        other => return Err(wrong_type(param, "an object", &other)),
    };
    Ok(json!({"type": "text", "text": text}))
}

/// The calls that an assistant has made.
fn tool_calls(value: Option<Value>, role: &str, param: &str) -> Result<Option<Value>, ApiError> {
    let calls = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(calls)) => calls,
        Some(other) => return Err(wrong_type(param, "a list", &other)),
    };
    if calls.is_empty() {
        return Ok(None);
    }
    if role != "assistant" {
        return Err(ApiError::invalid(param, "only an assistant calls tools"));
    }
    if calls.len() > MAX_PARTS {
        return Err(ApiError::invalid(param, format!("at most {MAX_PARTS} are allowed")));
    }
    let calls =
        calls.into_iter().enumerate().map(|(index, call)| tool_call(call, &format!("{param}[{index}]")));
    Ok(Some(Value::Array(calls.collect::<Result<_, _>>()?)))
}

fn tool_call(value: Value, param: &str) -> Result<Value, ApiError> {
    let Value::Object(call) = &value else { return Err(wrong_type(param, "an object", &value)) };
    match call.get("type") {
        None | Some(Value::Null) => {}
        Some(kind) if kind == "function" => {}
        Some(_) => return Err(ApiError::unsupported(format!("{param}.type"), "it must be 'function'")),
    }
    if let Some(id) = call.get("id").filter(|id| !id.is_string() && !id.is_null()) {
        return Err(wrong_type(&format!("{param}.id"), "a string", id));
    }
    let Some(Value::Object(function)) = call.get("function") else {
        return Err(ApiError::invalid(format!("{param}.function"), "it must be an object with a name"));
    };
    if !function.get("name").is_some_and(Value::is_string) {
        return Err(ApiError::invalid(format!("{param}.function.name"), "it must be a string"));
    }
    match function.get("arguments") {
        // That the text is JSON, the template's side says.
        None | Some(Value::Null | Value::String(_) | Value::Object(_)) => Ok(value),
        Some(other) => {
            Err(wrong_type(&format!("{param}.function.arguments"), "a string that holds JSON", other))
        }
    }
}
