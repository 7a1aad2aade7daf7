//! Taking typed values out of a JSON object, one field at a time.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::ApiError;

use super::neutral;

/// Longest part of a client's text that is repeated in an error message, in characters.
const MAX_QUOTED_CHARS: usize = 64;

/// The fields of a request body that nobody has looked at yet. `null` means absent, as in OpenAI's API.
#[derive(Debug)]
pub(crate) struct Fields {
    left: Map<String, Value>,
}

impl Fields {
    /// Parses a body.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(left)) => Ok(Self { left }),
            Ok(_) => Err(ApiError::BodyNotAnObject),
            Err(error) => Err(ApiError::InvalidJson { detail: error.to_string() }),
        }
    }

    /// Takes a field whatever its type.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.left.swap_remove(name).filter(|value| !value.is_null())
    }

    /// Whether a field is there and says something.
    pub(super) fn has(&self, name: &str) -> bool {
        self.left.get(name).is_some_and(|value| !value.is_null())
    }

    /// A copy of a field that somebody else takes.
    pub(super) fn peek(&self, name: &str) -> Option<Value> {
        self.left.get(name).filter(|value| !value.is_null()).cloned()
    }

    /// Adds a field, or replaces it.
    pub(super) fn put(&mut self, name: &str, value: Value) {
        self.left.insert(name.to_owned(), value);
    }

    pub(super) fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(name, "a boolean", &other)),
        }
    }

    pub(super) fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(name, "a string", &other)),
        }
    }

    pub(super) fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| wrong_type(name, "a number", &value))?;
        if range.contains(&number) {
            return Ok(Some(number));
        }
        Err(ApiError::invalid(name, format!("{number} is not between {} and {}", range.start(), range.end())))
    }

    /// An integer; a number like `16.0` is one too.
    pub(super) fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i128>,
    ) -> Result<Option<i128>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let integer = integer(&value).ok_or_else(|| wrong_type(name, "an integer", &value))?;
        if range.contains(&integer) {
            return Ok(Some(integer));
        }
        Err(ApiError::invalid(
            name,
            format!("{integer} is not between {} and {}", range.start(), range.end()),
        ))
    }

    /// Refuses what is left, unless it changes nothing.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        self.left.iter().try_for_each(|(name, value)| neutral::check(name, value))
    }
}

/// The value as an integer, if it is one.
pub(super) fn integer(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    // Above 2^53 a float is no longer known to be the integer that was meant.
    let exact = |float: &f64| float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0;
    whole.or_else(|| number.as_f64().filter(exact).map(|float| float as i128))
}

/// The error for a value of the wrong type.
pub(super) fn wrong_type(name: &str, expected: &str, value: &Value) -> ApiError {
    ApiError::invalid(quoted(name), format!("expected {expected}, got {}", type_name(value)))
}

/// A client's text, cut so that an error message stays readable.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
