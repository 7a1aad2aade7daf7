//! What a streamed answer has besides text.

use serde_json::Value;

use crate::error::ApiError;

use super::fields::{Fields, quoted, wrong_type};

/// `stream_options`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamOptions {
    /// Whether a last chunk has the token counts.
    pub(crate) include_usage: bool,
    /// Whether every chunk has the counts so far.
    pub(crate) continuous_usage: bool,
}

impl StreamOptions {
    pub(super) fn take(fields: &mut Fields, stream: bool) -> Result<Self, ApiError> {
        let given = match fields.take("stream_options") {
            None => return Ok(Self::default()),
            Some(Value::Object(given)) => given,
            Some(other) => return Err(wrong_type("stream_options", "an object", &other)),
        };
        if !stream {
            return Err(ApiError::invalid("stream_options", "it is allowed only when 'stream' is true"));
        }
        let mut options = Self::default();
        for (name, value) in &given {
            let param = || format!("stream_options.{}", quoted(name));
            match (name.as_str(), value) {
                (_, Value::Null) | ("include_obfuscation", Value::Bool(false)) => {}
                ("include_usage", Value::Bool(asked)) => options.include_usage = *asked,
                ("continuous_usage_stats", Value::Bool(asked)) => options.continuous_usage = *asked,
                ("include_obfuscation", Value::Bool(true)) => {
                    return Err(ApiError::unsupported(param(), "leave it out"));
                }
                ("include_usage" | "continuous_usage_stats" | "include_obfuscation", other) => {
                    return Err(wrong_type(&param(), "a boolean", other));
                }
                _ => return Err(ApiError::UnknownParameter { param: param() }),
            }
        }
        // As in vLLM: counts in every chunk come with those at the end.
        options.continuous_usage &= options.include_usage;
        Ok(options)
    }
}
