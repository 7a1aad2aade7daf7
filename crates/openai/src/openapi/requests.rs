//! The fields that requests may have. Whoever teaches `params` a field describes it here.

use super::schema::{FieldDoc, Shape, TEXT, optional, required};

/// What a route understands: its own fields, and names of those that it accepts only where they change nothing;
/// `None` for all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestDoc {
    pub(super) fields: &'static [&'static [FieldDoc]],
    pub(super) neutral: Option<&'static [&'static str]>,
}

/// `POST /v1/chat/completions`
pub(super) const CHAT: RequestDoc = RequestDoc { fields: &[CHAT_FIELDS, COMMON_FIELDS], neutral: None };

/// `POST /v1/completions`
pub(super) const COMPLETION: RequestDoc =
    RequestDoc { fields: &[COMPLETION_FIELDS, COMMON_FIELDS], neutral: None };

/// `POST /tokenize` with a text.
pub(super) const TOKENIZE_TEXT: RequestDoc =
    RequestDoc { fields: &[TOKENIZE_TEXT_FIELDS, TOKENIZE_FIELDS], neutral: Some(TOKENIZE_NEUTRAL) };

/// `POST /tokenize` with messages.
pub(super) const TOKENIZE_CHAT: RequestDoc =
    RequestDoc { fields: &[TOKENIZE_CHAT_FIELDS, TOKENIZE_FIELDS], neutral: Some(TOKENIZE_NEUTRAL) };

/// `POST /detokenize`
pub(super) const DETOKENIZE: RequestDoc = RequestDoc { fields: &[DETOKENIZE_FIELDS], neutral: Some(&[]) };

const CHAT_FIELDS: &[FieldDoc] =
    &[required("messages", Shape::Messages(MESSAGE_FIELDS), "The conversation so far.")];

const MESSAGE_FIELDS: &[FieldDoc] = &[
    required("role", Shape::Words(&["system", "developer", "user", "assistant"]), "Who says it."),
    required("content", Shape::Either(&[TEXT, PARTS]), "What is said; parts are put together line by line."),
    optional("name", TEXT, "Passed on to the chat template."),
    optional("refusal", Shape::Null, ""),
    optional("audio", Shape::Null, ""),
    optional("function_call", Shape::Null, ""),
    optional("tool_call_id", Shape::Null, ""),
    optional("reasoning", Shape::Null, ""),
    optional("reasoning_content", Shape::Null, ""),
    optional("tool_calls", EMPTY_LIST, ""),
    optional("annotations", EMPTY_LIST, ""),
];

const PARTS: Shape = Shape::List { of: &PART, min: 0, max: None };
const PART: Shape = Shape::Either(&[TEXT, Shape::OpenObject(PART_FIELDS)]);
const PART_FIELDS: &[FieldDoc] = &[
    required("type", Shape::Words(&["text"]), "Other parts are not supported."),
    required("text", TEXT, ""),
];
const EMPTY_LIST: Shape = Shape::List { of: &Shape::Null, min: 0, max: Some(0) };

const COMPLETION_FIELDS: &[FieldDoc] = &[required(
    "prompt",
    Shape::Either(&[
        PROMPT_TEXT,
        PROMPT_TOKENS,
        Shape::List { of: &Shape::Either(&[PROMPT_TEXT, PROMPT_TOKENS]), min: 1, max: Some(1) },
    ]),
    "A text, token ids, or a list of one of these.",
)];
const PROMPT_TEXT: Shape = Shape::Text { min: 1, max: None };
const PROMPT_TOKENS: Shape = Shape::List { of: &Shape::TokenId, min: 1, max: None };

/// Of both generating routes.
const COMMON_FIELDS: &[FieldDoc] = &[
    MODEL,
    optional("stream", Shape::Boolean, "Sends the answer in server-sent events, as it is made."),
    optional("stream_options", Shape::Object(STREAM_OPTIONS), "Only with `stream`."),
    optional(
        "max_tokens",
        Shape::TokenCount,
        "Most tokens of the answer. Prompt and answer must fit the model.",
    ),
    optional(
        "max_completion_tokens",
        Shape::TokenCount,
        "The newer name of `max_tokens`, which it overrides.",
    ),
    optional("temperature", Shape::Number { min: 0.0, max: 2.0 }, "0 always takes the most probable token."),
    optional(
        "top_p",
        Shape::Positive(1.0),
        "Considers the most probable tokens up to this probability together.",
    ),
    optional(
        "top_k",
        Shape::Integer { min: -1, max: u32::MAX as i128 },
        "Considers so many tokens; 0 and -1, all.",
    ),
    optional(
        "min_p",
        Shape::Number { min: 0.0, max: 1.0 },
        "Considers tokens at least so probable, relative to the best.",
    ),
    optional(
        "seed",
        Shape::Integer { min: i64::MIN as i128, max: u64::MAX as i128 },
        "The same seed draws the same tokens.",
    ),
    optional(
        "stop",
        Shape::Either(&[STOP_STRING, Shape::List { of: &STOP_STRING, min: 0, max: Some(16) }]),
        "Texts that end the answer and are not part of it, of at most 4096 bytes.",
    ),
    optional(
        "stop_token_ids",
        Shape::List { of: &Shape::TokenId, min: 0, max: Some(256) },
        "Tokens that end the answer.",
    ),
    optional("ignore_eos", Shape::Boolean, "Goes on beyond the end of the text."),
    optional(
        "add_special_tokens",
        Shape::Boolean,
        "Whether the tokeniser puts its own tokens around the prompt.",
    ),
    optional("priority", Shape::Priority, "The smallest goes first, under `--scheduling-policy priority`."),
    optional(
        "cache_salt",
        Shape::Text { min: 1, max: Some(1024) },
        "Requests with different salts share no cached prefix. At most 1024 bytes.",
    ),
    optional(
        "include_metrics",
        Shape::MetricsSwitch,
        "Whether the answer says where its time went, under `--enable-per-request-metrics`.",
    ),
];
const MODEL: FieldDoc = optional("model", Shape::Model, "One of the served models; the first unless given.");
const STOP_STRING: Shape = Shape::Text { min: 1, max: Some(4096) };
const STREAM_OPTIONS: &[FieldDoc] = &[
    optional("include_usage", Shape::Boolean, "Adds a chunk with the token counts."),
    optional("continuous_usage_stats", Shape::Only(false), "Not supported."),
    optional("include_obfuscation", Shape::Only(false), "Not supported."),
];

const TOKENIZE_FIELDS: &[FieldDoc] = &[
    MODEL,
    optional("add_special_tokens", Shape::Boolean, "By default for a text, and not for messages."),
    optional("return_token_strs", Shape::Boolean, "Adds how the vocabulary spells the tokens."),
];
const TOKENIZE_TEXT_FIELDS: &[FieldDoc] = &[required("prompt", TEXT, "A text.")];
const TOKENIZE_CHAT_FIELDS: &[FieldDoc] = &[
    required("messages", Shape::Messages(MESSAGE_FIELDS), "A conversation, as in a chat request."),
    optional("add_generation_prompt", Shape::Boolean, "Whether the beginning of the answer belongs to it."),
];
const TOKENIZE_NEUTRAL: &[&str] = crate::params::TOKENIZE_NEUTRAL;

const DETOKENIZE_FIELDS: &[FieldDoc] = &[
    MODEL,
    required(
        "tokens",
        Shape::List { of: &Shape::TokenId, min: 0, max: None },
        "As many as the model can hold.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::params::{ASKED_FOR, ChatParams, CompletionParams, DetokenizeParams, Fields, TokenizeParams};

    /// The fields that reading `body` asks for are those that are documented.
    fn check(docs: &[RequestDoc], bodies: &[Value], read: impl Fn(Fields)) {
        ASKED_FOR.take();
        for body in bodies {
            read(Fields::parse(body.to_string().as_bytes()).unwrap());
        }
        let understood = ASKED_FOR.take();
        let documented: BTreeSet<_> = docs
            .iter()
            .flat_map(|doc| doc.fields.iter().copied().flatten())
            .map(|field| field.name.to_owned())
            .collect();
        assert_eq!(understood, documented);
    }

    #[test]
    fn what_is_understood_is_what_is_documented() {
        let messages = json!([{"role": "user", "content": "x"}]);
        check(&[CHAT], &[json!({"messages": messages})], |fields| {
            ChatParams::read(fields, 1).unwrap();
        });
        check(&[COMPLETION], &[json!({"prompt": "x"})], |fields| {
            CompletionParams::read(fields).unwrap();
        });
        let bodies = [json!({"messages": messages}), json!({"prompt": "x"})];
        check(&[TOKENIZE_TEXT, TOKENIZE_CHAT], &bodies, |fields| {
            TokenizeParams::read(fields, 1).unwrap();
        });
        check(&[DETOKENIZE], &[json!({"tokens": [1]})], |fields| {
            DetokenizeParams::read(fields).unwrap();
        });
    }

    #[test]
    fn no_field_is_both_understood_and_without_effect() {
        for doc in [CHAT, COMPLETION] {
            for field in doc.fields.iter().copied().flatten() {
                let is_neutral = crate::params::NEUTRAL_FIELDS.iter().any(|(name, _)| *name == field.name);
                assert!(!is_neutral, "{}", field.name);
            }
        }
    }
}
