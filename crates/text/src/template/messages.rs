//! Messages as templates expect them, from messages as clients send them.
//!
//! What changes is what vLLM changes (`vllm/entrypoints/chat_utils.py`): content is text where the template prints it
//! and a list of parts where the template loops over it, and the arguments of tool calls are values, not JSON text.

use std::borrow::Cow;

use serde_json::{Map, Value as Json, json};

use super::RenderError;

/// What stands between the texts of several parts.
const BETWEEN_PARTS: &str = "\n";

/// Names for the reasoning of a message.
const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Where the final message's text ends, while it is rendered. The space at its end is for seeing whether the template
/// trims.
const END_MARK: &str = "\u{e000}END_OF_FINAL_MESSAGE\u{e000} ";

/// Whether a template loops over the content of messages, as those do that take parts of several kinds. They get
/// lists always, the others texts always.
pub(super) fn loops_over_content(template: &str) -> bool {
    template.split("{%").skip(1).any(|tag| {
        let tag = tag.split("%}").next().unwrap_or_default().trim_matches(['-', '+', ' ', '\n', '\t']);
        let Some((_, list)) = tag.strip_prefix("for ").and_then(|rest| rest.split_once(" in ")) else {
            return false;
        };
        let list = list.split([' ', '|', '\n']).next().unwrap_or_default();
        list == "content"
            || [".content", "['content']", "[\"content\"]"].iter().any(|end| list.ends_with(end))
    })
}

/// The messages for a template; those that need no change are not copied.
///
/// # Errors
/// When a message is not what it should be; the error names it.
pub(super) fn prepared(messages: &Json, as_lists: bool) -> Result<Cow<'_, Json>, RenderError> {
    let Json::Array(list) = messages else {
        return Err(bad("messages", "must be a list"));
    };
    if list.iter().all(|message| is_plain(message, as_lists)) {
        return Ok(Cow::Borrowed(messages));
    }
    let prepared = list.iter().enumerate().map(|(place, message)| prepare(place, message, as_lists));
    Ok(Cow::Owned(Json::Array(prepared.collect::<Result<_, _>>()?)))
}

fn is_plain(message: &Json, as_lists: bool) -> bool {
    let Json::Object(message) = message else { return false };
    let content = matches!(message.get("content"), Some(Json::String(_))) && !as_lists;
    content && ["tool_calls"].iter().chain(&REASONING_FIELDS).all(|field| !message.contains_key(*field))
}

fn prepare(place: usize, message: &Json, as_lists: bool) -> Result<Json, RenderError> {
    let Json::Object(message) = message else {
        return Err(bad(&format!("messages[{place}]"), "must be an object"));
    };
    let mut message = message.clone();
    let content = message.remove("content").unwrap_or(Json::Null);
    let content = content_of(&format!("messages[{place}].content"), content, as_lists)?;
    message.insert("content".to_owned(), content);
    alias_reasoning(&mut message);
    let calls = message.get_mut("tool_calls").and_then(Json::as_array_mut);
    for (call, value) in calls.into_iter().flatten().enumerate() {
        let Some(function) = value.get_mut("function").and_then(Json::as_object_mut) else { continue };
        parse_arguments(&format!("messages[{place}].tool_calls[{call}].function.arguments"), function)?;
    }
    // An empty list would make most templates announce calls.
    if message
        .get("tool_calls")
        .is_some_and(|calls| calls.is_null() || calls.as_array().is_some_and(Vec::is_empty))
    {
        message.remove("tool_calls");
    }
    Ok(Json::Object(message))
}

/// Gives the reasoning the names under which templates read it, as `transformers` does.
fn alias_reasoning(message: &mut Map<String, Json>) {
    let given =
        REASONING_FIELDS.iter().filter_map(|field| message.get(*field)).find(|given| !given.is_null());
    if let Some(reasoning) = given.cloned() {
        message.entry("thinking").or_insert_with(|| reasoning.clone());
        message.insert("reasoning_content".to_owned(), reasoning);
    }
}

fn content_of(field: &str, content: Json, as_lists: bool) -> Result<Json, RenderError> {
    let texts = match content {
        Json::Null => Vec::new(),
        Json::String(text) => vec![text],
        Json::Array(parts) => {
            let parts = parts.into_iter().enumerate();
            parts
                .map(|(place, part)| text_of(&format!("{field}[{place}]"), part))
                .collect::<Result<_, _>>()?
        }
        _ => return Err(bad(field, "must be a string or a list of parts")),
    };
    if as_lists {
        return Ok(texts.into_iter().map(|text| json!({"type": "text", "text": text})).collect());
    }
    Ok(Json::String(texts.join(BETWEEN_PARTS)))
}

fn text_of(field: &str, part: Json) -> Result<String, RenderError> {
    let mut part = match part {
        Json::String(text) => return Ok(text),
        Json::Object(part) => part,
        _ => return Err(bad(field, "must be an object with a type")),
    };
    let kind = part.get("type").and_then(Json::as_str).unwrap_or("text");
    let name = match kind {
        "text" | "input_text" | "output_text" => "text",
        "refusal" => "refusal",
        other => return Err(bad(field, &format!("type {other:?} is not supported here: only text is"))),
    };
    match part.remove(name) {
        Some(Json::String(text)) => Ok(text),
        _ => Err(bad(&format!("{field}.{name}"), "must be a string")),
    }
}

fn parse_arguments(field: &str, function: &mut Map<String, Json>) -> Result<(), RenderError> {
    let parsed = match function.get("arguments") {
        None | Some(Json::Null) => json!({}),
        Some(Json::String(text)) if text.trim().is_empty() => json!({}),
        Some(Json::String(text)) => {
            serde_json::from_str(text).map_err(|error| bad(field, &format!("must be JSON: {error}")))?
        }
        Some(_) => return Ok(()),
    };
    function.insert("arguments".to_owned(), parsed);
    Ok(())
}

fn bad(field: &str, problem: &str) -> RenderError {
    RenderError::Message { field: field.to_owned(), problem: problem.to_owned() }
}

/// The messages with a mark at the end of the last one's text, and that text.
///
/// # Errors
/// When there is no text to go on with.
pub(super) fn marked(messages: Cow<'_, Json>) -> Result<(Json, String), RenderError> {
    let mut messages = messages.into_owned();
    let content =
        messages.as_array_mut().and_then(|list| list.last_mut()).and_then(|last| last.get_mut("content"));
    let text = match content {
        Some(Json::Array(parts)) => parts.last_mut().and_then(|part| part.get_mut("text")),
        content => content,
    };
    let Some(Json::String(text)) = text else {
        return Err(bad("continue_final_message", "there is no text in a last message to continue"));
    };
    let last = text.clone();
    text.push_str(END_MARK);
    Ok((messages, last))
}

/// The prompt up to the end of `last`, the last message's text. If the template trims texts, the end is trimmed too.
///
/// # Errors
/// When the template does not print the message as it is.
pub(super) fn cut_at_mark(mut prompt: String, last: &str) -> Result<String, RenderError> {
    let place = prompt.rfind(END_MARK.trim_end());
    if let Some(place) = place {
        let trims = !prompt[place..].starts_with(END_MARK);
        prompt.truncate(place);
        if trims {
            prompt.truncate(prompt.trim_end().len());
        }
    }
    if place.is_none() || !prompt.trim_end().ends_with(last.trim()) {
        return Err(bad(
            "continue_final_message",
            "the chat template does not print the last message as it is",
        ));
    }
    Ok(prompt)
}
