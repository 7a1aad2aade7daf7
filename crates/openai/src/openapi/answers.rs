//! The fields that answers have.

use super::schema::{COUNT, FieldDoc, Shape, TEXT, optional, required};

/// Of `POST /v1/chat/completions`, in one piece.
pub(super) const CHAT: &[FieldDoc] = &[
    required("id", TEXT, ""),
    required("object", Shape::Words(&["chat.completion"]), ""),
    CREATED,
    required("model", Shape::Model, ""),
    required("choices", Shape::List { of: &Shape::Object(CHAT_CHOICE), min: 1, max: None }, ""),
    required("usage", Shape::Object(USAGE), ""),
    METRICS,
];
const CHAT_CHOICE: &[FieldDoc] = &[
    required("index", COUNT, ""),
    required("message", Shape::Object(MESSAGE), ""),
    optional("logprobs", Shape::Null, ""),
    FINISH_REASON,
    STOP_REASON,
];
const MESSAGE: &[FieldDoc] = &[
    required("role", Shape::Words(&["assistant"]), ""),
    required("content", TEXT, ""),
    optional("refusal", Shape::Null, ""),
];

/// Of `POST /v1/completions`, in one piece.
pub(super) const COMPLETION: &[FieldDoc] = &[
    required("id", TEXT, ""),
    required("object", Shape::Words(&["text_completion"]), ""),
    CREATED,
    required("model", Shape::Model, ""),
    required("choices", Shape::List { of: &Shape::Object(COMPLETION_CHOICE), min: 1, max: None }, ""),
    required("usage", Shape::Object(USAGE), ""),
    METRICS,
];
const COMPLETION_CHOICE: &[FieldDoc] = &[
    required("index", COUNT, ""),
    required("text", TEXT, ""),
    optional("logprobs", Shape::Null, ""),
    FINISH_REASON,
    STOP_REASON,
];

const CREATED: FieldDoc = required("created", COUNT, "Seconds since 1970.");
const METRICS: FieldDoc = optional("metrics", Shape::OpenObject(&[]), "See docs/per-request-metrics.md.");
const FINISH_REASON: FieldDoc = required("finish_reason", Shape::Words(&["stop", "length"]), "");
const STOP_REASON: FieldDoc = optional(
    "stop_reason",
    Shape::Either(&[TEXT, Shape::TokenId]),
    "The stop string or token that ended the answer.",
);
const USAGE: &[FieldDoc] = &[
    required("prompt_tokens", COUNT, ""),
    required("completion_tokens", COUNT, ""),
    required("total_tokens", COUNT, ""),
    optional("prompt_tokens_details", Shape::Object(&[required("cached_tokens", COUNT, "")]), ""),
];

/// Of `POST /tokenize`.
pub(super) const TOKENIZED: &[FieldDoc] = &[
    required("count", COUNT, "How many tokens there are."),
    required("max_model_len", COUNT, "How many the model can hold."),
    required("tokens", Shape::List { of: &Shape::TokenId, min: 0, max: None }, ""),
    optional("token_strs", Shape::List { of: &TEXT, min: 0, max: None }, "Their spellings, if asked for."),
];

/// Of `POST /detokenize`.
pub(super) const DETOKENIZED: &[FieldDoc] = &[required("prompt", TEXT, "")];

/// Of `GET /v1/models`.
pub(super) const MODELS: &[FieldDoc] = &[
    required("object", Shape::Words(&["list"]), ""),
    required("data", Shape::List { of: &Shape::Object(MODEL), min: 1, max: None }, ""),
];

/// Of `GET /v1/models/{id}`.
pub(super) const MODEL: &[FieldDoc] = &[
    required("id", Shape::Model, ""),
    required("object", Shape::Words(&["model"]), ""),
    CREATED,
    required("owned_by", TEXT, ""),
    required("root", TEXT, ""),
    optional("parent", TEXT, ""),
    required("max_model_len", COUNT, "How many tokens the model can hold."),
];

/// Of `GET /version`.
pub(super) const VERSION: &[FieldDoc] = &[required("version", TEXT, "")];

/// Of everything that fails.
pub(super) const ERROR: &[FieldDoc] = &[required(
    "error",
    Shape::Object(&[
        required("message", TEXT, "What is wrong and what to do."),
        required("type", TEXT, ""),
        optional("param", TEXT, "The field that is wrong."),
        required("code", TEXT, ""),
    ]),
    "",
)];
