//! The fields that say what an answer must be.

use serde_json::{Map, Value};
use wayfare_engine::OutputGrammar;

use crate::error::ApiError;

use super::fields::{Fields, quoted, wrong_type};

/// Most texts to choose from.
const MAX_CHOICES: usize = 1024;

/// What the answer must be: `response_format` as OpenAI has it, `structured_outputs` and the older `guided_…` as
/// vLLM has them. At most one of them.
pub(super) fn output_grammar(fields: &mut Fields) -> Result<Option<(&'static str, OutputGrammar)>, ApiError> {
    let mut found: Option<(&'static str, OutputGrammar)> = None;
    let given = [
        ("response_format", response_format(fields)?),
        ("structured_outputs", structured_outputs(fields)?),
        ("guided_json", constraint(fields, "guided_json", "json")?),
        ("guided_regex", constraint(fields, "guided_regex", "regex")?),
        ("guided_choice", constraint(fields, "guided_choice", "choice")?),
        ("guided_grammar", constraint(fields, "guided_grammar", "grammar")?),
    ];
    for (name, grammar) in given {
        match (&found, grammar) {
            (_, None) => {}
            (None, Some(grammar)) => found = Some((name, grammar)),
            (Some((other, _)), Some(_)) => {
                return Err(ApiError::invalid(
                    name,
                    format!("'{other}' says already what the answer must be"),
                ));
            }
        }
    }
    Ok(found)
}

fn response_format(fields: &mut Fields) -> Result<Option<OutputGrammar>, ApiError> {
    let name = "response_format";
    let mut format = match fields.take(name) {
        None => return Ok(None),
        Some(Value::Object(format)) => format,
        Some(other) => return Err(wrong_type(name, "an object", &other)),
    };
    let kind = take_string(&mut format, &format!("{name}.type"), "type")?;
    let schema = format.swap_remove("json_schema").filter(|schema| !schema.is_null());
    if let Some((key, _)) = format.iter().find(|(_, value)| !value.is_null()) {
        return Err(ApiError::UnknownParameter { param: format!("{name}.{}", quoted(key)) });
    }
    match (kind.as_str(), schema) {
        ("text", None) => Ok(None),
        ("json_object", None) => Ok(Some(OutputGrammar::JsonObject)),
        ("json_schema", Some(Value::Object(schema))) => json_schema(schema).map(Some),
        ("json_schema", Some(other)) => Err(wrong_type("response_format.json_schema", "an object", &other)),
        ("json_schema", None) => Err(ApiError::invalid("response_format.json_schema", "it is missing")),
        ("text" | "json_object", Some(_)) => {
            let problem = format!("it belongs to the type 'json_schema', not to '{kind}'");
            Err(ApiError::invalid("response_format.json_schema", problem))
        }
        (other, _) => {
            let problem = format!("'{}' is none of text, json_object and json_schema", quoted(other));
            Err(ApiError::unsupported("response_format.type", problem))
        }
    }
}

/// OpenAI's wrapper around a schema. Output follows the schema whether or not it is to be `strict`.
fn json_schema(mut wrapper: Map<String, Value>) -> Result<OutputGrammar, ApiError> {
    let at = |field: &str| format!("response_format.json_schema.{field}");
    let schema = wrapper.swap_remove("schema").filter(|schema| !schema.is_null());
    for (field, value) in &wrapper {
        match (field.as_str(), value) {
            (_, Value::Null) | ("name" | "description", Value::String(_)) | ("strict", Value::Bool(_)) => {}
            ("name" | "description", other) => return Err(wrong_type(&at(field), "a string", other)),
            ("strict", other) => return Err(wrong_type(&at(field), "a boolean", other)),
            _ => return Err(ApiError::UnknownParameter { param: at(&quoted(field)) }),
        }
    }
    match schema {
        // Without a schema any object will do.
        None => Ok(OutputGrammar::JsonObject),
        Some(schema) => schema_grammar(&schema, &at("schema")),
    }
}

fn structured_outputs(fields: &mut Fields) -> Result<Option<OutputGrammar>, ApiError> {
    let name = "structured_outputs";
    let given = match fields.take(name) {
        None => return Ok(None),
        Some(Value::Object(given)) => given,
        Some(other) => return Err(wrong_type(name, "an object", &other)),
    };
    let mut found = None;
    for (key, value) in given {
        let param = format!("{name}.{}", quoted(&key));
        let grammar = match (key.as_str(), value) {
            (_, Value::Null) => continue,
            ("json_object", Value::Bool(true)) => OutputGrammar::JsonObject,
            (
                "json_object"
                | "disable_any_whitespace"
                | "disable_additional_properties"
                | "disable_fallback",
                Value::Bool(false),
            ) => continue,
            ("json_object", other) => return Err(wrong_type(&param, "a boolean", &other)),
            (kind @ ("json" | "regex" | "choice" | "grammar"), value) => of_kind(kind, value, &param)?,
            (
                "whitespace_pattern"
                | "structural_tag"
                | "disable_any_whitespace"
                | "disable_additional_properties"
                | "disable_fallback",
                _,
            ) => return Err(ApiError::unsupported(param, "leave it out")),
            _ => return Err(ApiError::UnknownParameter { param }),
        };
        if found.replace(grammar).is_some() {
            return Err(ApiError::invalid(name, "it must say one thing about the answer, not several"));
        }
    }
    Ok(found)
}

fn constraint(fields: &mut Fields, name: &str, kind: &str) -> Result<Option<OutputGrammar>, ApiError> {
    fields.take(name).map(|value| of_kind(kind, value, name)).transpose()
}

fn of_kind(kind: &str, value: Value, param: &str) -> Result<OutputGrammar, ApiError> {
    match (kind, value) {
        ("json", Value::String(text)) => match serde_json::from_str(&text) {
            Ok(schema) => schema_grammar(&schema, param),
            Err(error) => Err(ApiError::invalid(param, format!("it is not valid JSON: {error}"))),
        },
        ("json", schema) => schema_grammar(&schema, param),
        ("regex", Value::String(text)) => Ok(OutputGrammar::Regex(text.into())),
        ("grammar", Value::String(text)) => Ok(OutputGrammar::Grammar(text.into())),
        ("choice", Value::Array(list)) => choice(list, param),
        ("choice", other) => Err(wrong_type(param, "a list of strings", &other)),
        (_, other) => Err(wrong_type(param, "a string", &other)),
    }
}

fn schema_grammar(schema: &Value, param: &str) -> Result<OutputGrammar, ApiError> {
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(OutputGrammar::JsonSchema(schema.to_string().into())),
        other => Err(wrong_type(param, "a JSON schema", other)),
    }
}

fn choice(list: Vec<Value>, param: &str) -> Result<OutputGrammar, ApiError> {
    if list.is_empty() || list.len() > MAX_CHOICES {
        return Err(ApiError::invalid(param, format!("there must be 1 to {MAX_CHOICES} texts")));
    }
    let texts = list.into_iter().map(|item| match item {
        Value::String(text) if text.is_empty() => Err(ApiError::invalid(param, "a text must not be empty")),
        Value::String(text) => Ok(text),
        other => Err(wrong_type(param, "a list of strings", &other)),
    });
    Ok(OutputGrammar::Choice(texts.collect::<Result<Vec<_>, _>>()?.into()))
}

fn take_string(from: &mut Map<String, Value>, param: &str, key: &str) -> Result<String, ApiError> {
    match from.swap_remove(key) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(ApiError::invalid(param, "it is missing")),
        Some(other) => Err(wrong_type(param, "a string", &other)),
    }
}
