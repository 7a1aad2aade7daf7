//! The fields about tools.

use serde_json::Value;
use wayfare_text::Tool;

use crate::error::ApiError;

use super::fields::{Fields, quoted, wrong_type};

/// OpenAI's limit.
const MAX_TOOLS: usize = 128;

/// Whether and what the model is to call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// Nothing.
    #[default]
    None,
    /// What it likes.
    Auto,
    /// At least one of the tools.
    Required,
    /// This one.
    Named(String),
}

/// What the model may call.
#[derive(Debug, Default)]
pub(crate) struct ToolParams {
    /// For the chat template: a list as the client sent it. `None` where there are none.
    pub(crate) for_template: Option<Value>,
    pub(crate) tools: Vec<Tool>,
    pub(crate) choice: ToolChoice,
    pub(crate) parallel: bool,
}

impl ToolParams {
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
        let choice = fields.take("tool_choice").as_ref().map(tool_choice).transpose()?;
        let list = match fields.take("tools") {
            None => Vec::new(),
            Some(Value::Array(list)) => list,
            Some(other) => return Err(wrong_type("tools", "a list", &other)),
        };
        if list.len() > MAX_TOOLS {
            return Err(ApiError::invalid("tools", format!("at most {MAX_TOOLS} are allowed")));
        }
        let tools: Vec<Tool> = list
            .iter()
            .enumerate()
            .map(|(index, value)| tool(value, &format!("tools[{index}]")))
            .collect::<Result<_, _>>()?;
        let choice = match (choice, tools.is_empty()) {
            (None | Some(ToolChoice::Auto | ToolChoice::None), true) => ToolChoice::None,
            (None, false) => ToolChoice::Auto,
            (Some(ToolChoice::Required | ToolChoice::Named(_)), true) => {
                return Err(ApiError::invalid("tool_choice", "there are no 'tools' to call"));
            }
            (Some(ToolChoice::Named(name)), false) if !tools.iter().any(|tool| tool.name == name) => {
                let problem = format!("'{}' is not among the 'tools'", quoted(&name));
                return Err(ApiError::invalid("tool_choice", problem));
            }
            (Some(choice), false) => choice,
        };
        // A model that must not call anything does not hear of tools either, as OpenAI has it.
        let for_template = (!list.is_empty() && choice != ToolChoice::None).then_some(Value::Array(list));
        Ok(Self { for_template, tools, choice, parallel })
    }
}

fn tool(value: &Value, param: &str) -> Result<Tool, ApiError> {
    let Value::Object(tool) = value else { return Err(wrong_type(param, "an object", value)) };
    if tool.get("type").is_none_or(|kind| kind != "function") {
        return Err(ApiError::unsupported(format!("{param}.type"), "it must be 'function'"));
    }
    let Some(Value::Object(function)) = tool.get("function") else {
        return Err(ApiError::invalid(format!("{param}.function"), "it must be an object"));
    };
    let name = match function.get("name") {
        Some(Value::String(name)) if is_name(name) => name.clone(),
        Some(Value::String(_)) => {
            let problem = "it must be 1 to 64 letters, digits, '_', '-' and '.'";
            return Err(ApiError::invalid(format!("{param}.function.name"), problem));
        }
        _ => return Err(ApiError::invalid(format!("{param}.function.name"), "it must be a string")),
    };
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => None,
        Some(schema @ Value::Object(_)) => Some(schema.clone()),
        Some(other) => return Err(wrong_type(&format!("{param}.function.parameters"), "an object", other)),
    };
    Ok(Tool { name, parameters })
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(fits)
}

fn tool_choice(value: &Value) -> Result<ToolChoice, ApiError> {
    match value {
        Value::String(text) => match text.as_str() {
            "none" => Ok(ToolChoice::None),
            "auto" => Ok(ToolChoice::Auto),
            "required" => Ok(ToolChoice::Required),
            other => {
                let problem = format!("'{}' is none of none, auto and required", quoted(other));
                Err(ApiError::invalid("tool_choice", problem))
            }
        },
        Value::Object(choice) if choice.get("type").is_some_and(|kind| kind == "function") => {
            // The Responses route has the name at the top.
            let name = choice.get("function").and_then(|function| function.get("name"));
            match name.or_else(|| choice.get("name")) {
                Some(Value::String(name)) => Ok(ToolChoice::Named(name.clone())),
                _ => Err(ApiError::invalid("tool_choice.function.name", "it must be a string")),
            }
        }
        Value::Object(_) => Err(ApiError::unsupported("tool_choice.type", "it must be 'function'")),
        other => Err(wrong_type("tool_choice", "a string or an object", other)),
    }
}
