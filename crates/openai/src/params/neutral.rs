//! Fields of OpenAI's and vLLM's requests that are not supported, and the values at which that makes no
//! difference.

use serde_json::Value;

use crate::error::ApiError;

use super::fields::{integer, quoted};

/// A value, or a kind of values, at which a field changes nothing.
#[derive(Clone, Copy, Debug)]
enum Neutral {
    Bool(bool),
    Number(i128),
    Text(&'static str),
    EmptyList,
    EmptyObject,
    /// `["text"]`, the only modality there is.
    TextOnly,
    AnyBool,
    AnyText,
    AnyObject,
}

use Neutral::{AnyBool, AnyObject, AnyText, Bool, EmptyList, EmptyObject, Number, Text, TextOnly};

/// Everything known but not supported. `null` is always neutral; a field without other neutral values has an
/// empty list. Sources: OpenAI API reference (chat completions, completions), vLLM 0.33
/// `ChatCompletionRequest` and `CompletionRequest`.
const KNOWN: &[(&str, &[Neutral])] = &[
    // For the client's own book-keeping at OpenAI; no effect on the answer.
    ("user", &[AnyText]),
    ("metadata", &[AnyObject]),
    ("safety_identifier", &[AnyText]),
    ("prompt_cache_key", &[AnyText]),
    ("store", &[Bool(false)]),
    ("service_tier", &[Text("auto"), Text("default")]),
    // How many answers.
    ("best_of", &[Number(1)]),
    ("use_beam_search", &[Bool(false)]),
    ("length_penalty", &[Number(1)]),
    // Which tokens.
    ("logits_processors", &[EmptyList]),
    ("thinking_token_budget", &[]),
    // What is in the answer.
    ("top_logprobs", &[Number(0)]),
    ("suffix", &[]),
    ("spaces_between_special_tokens", &[Bool(true)]),
    ("modalities", &[TextOnly]),
    ("audio", &[]),
    ("verbosity", &[Text("medium")]),
    ("prediction", &[]),
    // Structured output.
    ("guided_decoding_backend", &[]),
    // Tools and reasoning.
    ("tools", &[EmptyList]),
    ("tool_choice", &[Text("none"), Text("auto")]),
    ("parallel_tool_calls", &[AnyBool]),
    ("functions", &[EmptyList]),
    ("function_call", &[Text("none"), Text("auto")]),
    ("reasoning_effort", &[]),
    ("include_reasoning", &[AnyBool]),
    ("web_search_options", &[]),
    // How the prompt is made.
    ("add_generation_prompt", &[Bool(true)]),
    ("continue_final_message", &[Bool(false)]),
    ("chat_template", &[]),
    ("chat_template_kwargs", &[EmptyObject]),
    ("documents", &[EmptyList]),
    ("prompt_embeds", &[]),
    ("mm_processor_kwargs", &[EmptyObject]),
    ("media_io_kwargs", &[EmptyObject]),
    // How the request is treated.
    ("request_id", &[]),
    ("kv_transfer_params", &[]),
    ("vllm_xargs", &[EmptyObject]),
];

/// Lets a field pass whose value changes nothing, and refuses any other by name.
pub(super) fn check(name: &str, value: &Value) -> Result<(), ApiError> {
    let Some((name, neutral)) = KNOWN.iter().find(|(known, _)| *known == name) else {
        return Err(ApiError::UnknownParameter { param: quoted(name) });
    };
    if value.is_null() || neutral.iter().any(|neutral| neutral.holds(value)) {
        return Ok(());
    }
    let accepted: Vec<String> = neutral.iter().map(|neutral| neutral.describe()).collect();
    let problem = match accepted.is_empty() {
        true => "leave it out".to_owned(),
        false => format!("leave it out, or send {}", accepted.join(" or ")),
    };
    Err(ApiError::unsupported(*name, problem))
}

impl Neutral {
    fn holds(self, value: &Value) -> bool {
        match self {
            Bool(wanted) => value.as_bool() == Some(wanted),
            Number(wanted) => integer(value) == Some(wanted),
            Text(wanted) => value.as_str() == Some(wanted),
            EmptyList => value.as_array().is_some_and(Vec::is_empty),
            EmptyObject => value.as_object().is_some_and(serde_json::Map::is_empty),
            TextOnly => value.as_array().is_some_and(|list| list.iter().all(|item| item == "text")),
            AnyBool => value.is_boolean(),
            AnyText => value.is_string(),
            AnyObject => value.is_object(),
        }
    }

    fn describe(self) -> String {
        match self {
            Bool(value) => value.to_string(),
            Number(value) => value.to_string(),
            Text(value) => format!("'{value}'"),
            EmptyList => "an empty list".to_owned(),
            EmptyObject => "an empty object".to_owned(),
            TextOnly => r#"["text"]"#.to_owned(),
            AnyBool => "a boolean".to_owned(),
            AnyText => "a string".to_owned(),
            AnyObject => "an object".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn neutral_values_pass_and_others_are_named() {
        for (name, value) in [
            ("best_of", json!(1)),
            ("best_of", json!(1.0)),
            ("length_penalty", json!(1.0)),
            ("tools", json!([])),
            ("tools", json!(null)),
            ("suffix", json!(null)),
            ("user", json!("me")),
        ] {
            assert!(check(name, &value).is_ok(), "{name} {value}");
        }
        for (name, value) in [
            ("best_of", json!(2)),
            ("length_penalty", json!(0.1)),
            ("tools", json!([{}])),
            ("suffix", json!("x")),
            ("user", json!(1)),
        ] {
            let error = check(name, &value).unwrap_err();
            assert!(
                matches!(&error, ApiError::UnsupportedParameter { param, .. } if param == name),
                "{error:?}"
            );
        }
        assert!(matches!(check("temprature", &json!(null)), Err(ApiError::UnknownParameter { .. })));
    }

    #[test]
    fn each_known_field_is_listed_once() {
        for (index, (name, _)) in KNOWN.iter().enumerate() {
            assert!(KNOWN.iter().skip(index + 1).all(|(other, _)| other != name), "{name}");
        }
    }
}
