//! The body of `POST /v1/responses`: OpenAI's newer form of a chat, brought into that of the older one.
//!
//! Source: OpenAI API reference, "Responses". Nothing is kept between requests, so everything that refers to an
//! earlier one is refused.

use serde_json::{Map, Value, json};

use crate::error::ApiError;

use super::chat::ChatParams;
use super::fields::{Fields, quoted, wrong_type};

/// Fields that chats have under other names or not at all; they are unknown here.
const NOT_HERE: [&str; 14] = [
    "messages",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "prompt_logprobs",
    "echo",
    "response_format",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "reasoning_effort",
    "functions",
    "function_call",
    "modalities",
];

/// What is repeated in the answer as it was asked for.
#[derive(Debug)]
pub(crate) struct ResponsesEcho {
    pub(crate) instructions: Value,
    pub(crate) max_output_tokens: Value,
    pub(crate) metadata: Value,
    pub(crate) parallel_tool_calls: Value,
    pub(crate) reasoning: Value,
    pub(crate) text: Value,
    pub(crate) tool_choice: Value,
    pub(crate) tools: Value,
    pub(crate) user: Value,
}

/// A request for a response.
#[derive(Debug)]
pub(crate) struct ResponsesParams {
    pub(crate) chat: ChatParams,
    pub(crate) echo: ResponsesEcho,
}

impl ResponsesParams {
    /// Reads the fields of a body.
    pub(crate) fn read(mut fields: Fields) -> Result<Self, ApiError> {
        if let Some(name) = NOT_HERE.into_iter().find(|name| fields.has(name)) {
            return Err(ApiError::UnknownParameter { param: name.to_owned() });
        }
        refuse_state(&mut fields)?;
        let instructions = fields.string("instructions")?;
        let max_output_tokens = fields.integer("max_output_tokens", 1..=i128::from(i64::MAX))?;
        let effort = reasoning(&mut fields)?;
        let (format, text) = text(&mut fields)?;
        let (nested, tools) = tools(&mut fields)?;
        let shows_logprobs = include(&mut fields)?;
        let input = fields.take("input").ok_or(ApiError::MissingParameter { param: "input" })?;
        let messages = messages(input, instructions.as_deref())?;
        let echo = ResponsesEcho {
            instructions: instructions.map_or(Value::Null, Value::String),
            max_output_tokens: max_output_tokens.map_or(Value::Null, |tokens| json!(tokens as i64)),
            metadata: fields.peek("metadata").unwrap_or_else(|| json!({})),
            parallel_tool_calls: fields.peek("parallel_tool_calls").unwrap_or(Value::Bool(true)),
            reasoning: json!({"effort": effort, "summary": null}),
            text,
            tool_choice: fields.peek("tool_choice").unwrap_or_else(|| json!("auto")),
            tools,
            user: fields.peek("user").unwrap_or(Value::Null),
        };
        for (name, value) in [
            ("messages", Some(Value::Array(messages))),
            ("max_completion_tokens", max_output_tokens.map(|tokens| json!(tokens as i64))),
            ("reasoning_effort", effort.map(Value::String)),
            ("response_format", format),
            ("tools", nested),
            ("logprobs", shows_logprobs.then_some(Value::Bool(true))),
        ] {
            if let Some(value) = value {
                fields.put(name, value);
            }
        }
        let chat = ChatParams::read(fields).map_err(renamed)?;
        Ok(Self { chat, echo })
    }
}

/// What needs a memory, or something else that this server does not have.
fn refuse_state(fields: &mut Fields) -> Result<(), ApiError> {
    for name in ["previous_response_id", "conversation", "prompt", "max_tool_calls", "context_management"] {
        if fields.take(name).is_some() {
            return Err(ApiError::unsupported(
                name,
                "the server keeps nothing between requests; leave it out",
            ));
        }
    }
    for (name, accepted) in [("store", false), ("background", false)] {
        if fields.boolean(name)?.is_some_and(|asked| asked != accepted) {
            return Err(ApiError::unsupported(
                name,
                "the server keeps no responses; leave it out, or send false",
            ));
        }
    }
    match fields.string("truncation")?.as_deref() {
        None | Some("disabled") => Ok(()),
        Some(_) => Err(ApiError::unsupported("truncation", "leave it out, or send 'disabled'")),
    }
}

/// Whether log-probabilities are to be included.
fn include(fields: &mut Fields) -> Result<bool, ApiError> {
    let list = match fields.take("include") {
        None => return Ok(false),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong_type("include", "a list", &other)),
    };
    let mut shows_logprobs = false;
    for item in list {
        match item.as_str() {
            Some("message.output_text.logprobs") => shows_logprobs = true,
            // There is none to include: reasoning comes as text.
            Some("reasoning.encrypted_content") => {}
            Some(other) => {
                let problem = format!("'{}' is not available here", quoted(other));
                return Err(ApiError::unsupported("include", problem));
            }
            None => return Err(wrong_type("include", "a list of strings", &item)),
        }
    }
    Ok(shows_logprobs)
}

/// `reasoning.effort`.
fn reasoning(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let given = match fields.take("reasoning") {
        None => return Ok(None),
        Some(Value::Object(given)) => given,
        Some(other) => return Err(wrong_type("reasoning", "an object", &other)),
    };
    let mut effort = None;
    for (name, value) in given {
        match (name.as_str(), value) {
            (_, Value::Null) => {}
            ("effort", Value::String(text)) => effort = Some(text),
            ("summary" | "generate_summary", Value::String(text)) if text == "auto" => {}
            ("effort" | "summary" | "generate_summary", other) => {
                let problem = format!("{} is not available here", quoted(&other.to_string()));
                return Err(ApiError::unsupported(format!("reasoning.{name}"), problem));
            }
            _ => return Err(ApiError::UnknownParameter { param: format!("reasoning.{}", quoted(&name)) }),
        }
    }
    Ok(effort)
}

/// `text` as the answer's format, and as it is repeated.
fn text(fields: &mut Fields) -> Result<(Option<Value>, Value), ApiError> {
    let plain = json!({"format": {"type": "text"}});
    let given = match fields.take("text") {
        None => return Ok((None, plain)),
        Some(Value::Object(given)) => given,
        Some(other) => return Err(wrong_type("text", "an object", &other)),
    };
    let mut format = None;
    for (name, value) in &given {
        match (name.as_str(), value) {
            (_, Value::Null) => {}
            ("verbosity", Value::String(text)) if text == "medium" => {}
            ("verbosity", _) => {
                return Err(ApiError::unsupported("text.verbosity", "leave it out, or send 'medium'"));
            }
            ("format", Value::Object(given)) => format = Some(chat_format(given.clone())),
            ("format", other) => return Err(wrong_type("text.format", "an object", other)),
            _ => return Err(ApiError::UnknownParameter { param: format!("text.{}", quoted(name)) }),
        }
    }
    let repeated = if format.is_some() { Value::Object(given) } else { plain };
    Ok((format, repeated))
}

/// A chat has a schema one level deeper.
fn chat_format(mut format: Map<String, Value>) -> Value {
    if format.get("type").is_none_or(|kind| kind != "json_schema") {
        return Value::Object(format);
    }
    format.swap_remove("type");
    json!({"type": "json_schema", "json_schema": format})
}

/// The tools as a chat has them, one level deeper, and as they are repeated.
fn tools(fields: &mut Fields) -> Result<(Option<Value>, Value), ApiError> {
    let list = match fields.take("tools") {
        None => return Ok((None, json!([]))),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong_type("tools", "a list", &other)),
    };
    let nested = list.iter().enumerate().map(|(index, tool)| {
        let Value::Object(tool) = tool else {
            return Err(wrong_type(&format!("tools[{index}]"), "an object", tool));
        };
        let mut function = tool.clone();
        match function.swap_remove("type") {
            Some(kind) if kind == "function" => Ok(json!({"type": "function", "function": function})),
            _ => Err(ApiError::unsupported(format!("tools[{index}].type"), "it must be 'function'")),
        }
    });
    Ok((Some(Value::Array(nested.collect::<Result<_, _>>()?)), Value::Array(list)))
}

/// The messages of a chat, from a text or a list of items.
fn messages(input: Value, instructions: Option<&str>) -> Result<Vec<Value>, ApiError> {
    let mut messages = Vec::new();
    if let Some(text) = instructions {
        messages.push(json!({"role": "system", "content": text}));
    }
    let items = match input {
        Value::String(text) => {
            messages.push(json!({"role": "user", "content": text}));
            return Ok(messages);
        }
        Value::Array(items) => items,
        other => return Err(wrong_type("input", "a string or a list of items", &other)),
    };
    if items.is_empty() {
        return Err(ApiError::invalid("input", "there must be at least one item"));
    }
    let mut reasoning = None;
    for (index, item) in items.into_iter().enumerate() {
        let param = format!("input[{index}]");
        let Value::Object(item) = item else { return Err(wrong_type(&param, "an object", &item)) };
        match item.get("type").and_then(Value::as_str).unwrap_or("message") {
            "message" => messages.push(message(item, &param, &mut reasoning)?),
            "function_call" => call(&item, &param, &mut messages, &mut reasoning)?,
            "function_call_output" => messages.push(call_output(&item, &param)?),
            // Goes with what the assistant did next.
            "reasoning" => reasoning = reasoning_text(&item),
            other => {
                let problem = format!("items of type '{}' are not supported", quoted(other));
                return Err(ApiError::unsupported(format!("{param}.type"), problem));
            }
        }
    }
    Ok(messages)
}

fn message(
    mut item: Map<String, Value>,
    param: &str,
    reasoning: &mut Option<String>,
) -> Result<Value, ApiError> {
    // What an earlier answer of ours has besides.
    for field in ["type", "id", "status", "phase"] {
        item.swap_remove(field);
    }
    if let Some(Value::Array(parts)) = item.get_mut("content") {
        for (index, part) in parts.iter_mut().enumerate() {
            let kind = part.get("type").and_then(Value::as_str);
            if !matches!(kind, Some("input_text" | "output_text" | "text")) {
                let problem = "only 'input_text' and 'output_text' are supported";
                return Err(ApiError::unsupported(format!("{param}.content[{index}].type"), problem));
            }
            let text = part.get("text").cloned().unwrap_or_default();
            if !text.is_string() {
                return Err(wrong_type(&format!("{param}.content[{index}].text"), "a string", &text));
            }
            *part = json!({"type": "text", "text": text});
        }
    }
    if item.get("role").is_some_and(|role| role == "assistant")
        && let Some(text) = reasoning.take()
    {
        item.insert("reasoning".to_owned(), Value::String(text));
    }
    Ok(Value::Object(item))
}

fn string<'a>(item: &'a Map<String, Value>, name: &str, param: &str) -> Result<&'a str, ApiError> {
    let value = item.get(name).and_then(Value::as_str);
    value.ok_or_else(|| ApiError::invalid(format!("{param}.{name}"), "it must be a string"))
}

/// A call of the assistant; calls that follow each other, or a text, are one message.
fn call(
    item: &Map<String, Value>,
    param: &str,
    messages: &mut Vec<Value>,
    reasoning: &mut Option<String>,
) -> Result<(), ApiError> {
    let (id, name) = (string(item, "call_id", param)?, string(item, "name", param)?);
    let function = json!({"name": name, "arguments": string(item, "arguments", param)?});
    let call = json!({"id": id, "type": "function", "function": function});
    if let Some(Value::Object(last)) = messages.last_mut()
        && last.get("role").is_some_and(|role| role == "assistant")
    {
        if let Some(Value::Array(calls)) = last.get_mut("tool_calls") {
            calls.push(call);
        } else {
            last.insert("tool_calls".to_owned(), json!([call]));
        }
        return Ok(());
    }
    let mut message = json!({"role": "assistant", "content": null, "tool_calls": [call]});
    if let Some(text) = reasoning.take() {
        message["reasoning"] = Value::String(text);
    }
    messages.push(message);
    Ok(())
}

fn call_output(item: &Map<String, Value>, param: &str) -> Result<Value, ApiError> {
    let output = match item.get("output") {
        Some(text @ Value::String(_)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().map(|part| part.get("text").and_then(Value::as_str));
            let texts: Option<Vec<&str>> = texts.collect();
            let texts = texts.ok_or_else(|| {
                ApiError::unsupported(format!("{param}.output"), "only parts that are text are supported")
            })?;
            Value::String(texts.join("\n"))
        }
        _ => return Err(ApiError::invalid(format!("{param}.output"), "it must be a string")),
    };
    Ok(json!({"role": "tool", "tool_call_id": string(item, "call_id", param)?, "content": output}))
}

fn reasoning_text(item: &Map<String, Value>) -> Option<String> {
    let parts = item.get("content").and_then(Value::as_array)?;
    let texts: Vec<&str> = parts.iter().filter_map(|part| part.get("text")?.as_str()).collect();
    (!texts.is_empty()).then(|| texts.concat())
}

/// An error of the chat that the request was turned into, by the names that the client knows.
fn renamed(error: ApiError) -> ApiError {
    let rename = |param: String| match () {
        () if param.starts_with("messages") => "input".to_owned(),
        () if param.starts_with("response_format.json_schema") => {
            param.replacen("response_format.json_schema", "text.format", 1)
        }
        () if param.starts_with("response_format") => param.replacen("response_format", "text.format", 1),
        () if param == "max_completion_tokens" => "max_output_tokens".to_owned(),
        () if param == "reasoning_effort" => "reasoning.effort".to_owned(),
        () => param.replacen(".function.", ".", 1),
    };
    match error {
        ApiError::InvalidParameter { param, problem } => {
            ApiError::InvalidParameter { param: rename(param), problem }
        }
        ApiError::UnsupportedParameter { param, problem } => {
            ApiError::UnsupportedParameter { param: rename(param), problem }
        }
        ApiError::UnknownParameter { param } => ApiError::UnknownParameter { param: rename(param) },
        other => other,
    }
}
