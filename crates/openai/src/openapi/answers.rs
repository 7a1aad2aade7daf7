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
    PROMPT_LOGPROBS,
    PROMPT_TOKEN_IDS,
];
const CHAT_CHOICE: &[FieldDoc] = &[
    required("index", COUNT, ""),
    required("message", Shape::Object(MESSAGE), ""),
    LOGPROBS,
    required("finish_reason", Shape::Words(&["stop", "length", "tool_calls"]), ""),
    STOP_REASON,
    TOKEN_IDS,
];
const MESSAGE: &[FieldDoc] = &[
    required("role", Shape::Words(&["assistant"]), ""),
    optional("content", TEXT, "Nothing where there are calls and no text."),
    optional("refusal", Shape::Null, ""),
    optional("reasoning", TEXT, "Where it is told apart."),
    optional("tool_calls", Shape::List { of: &Shape::Object(CALL), min: 1, max: None }, ""),
];
const CALL: &[FieldDoc] = &[
    required("id", TEXT, ""),
    required("type", Shape::Words(&["function"]), ""),
    required(
        "function",
        Shape::Object(&[required("name", TEXT, ""), required("arguments", TEXT, "JSON.")]),
        "",
    ),
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
    LOGPROBS,
    required("finish_reason", Shape::Words(&["stop", "length"]), ""),
    STOP_REASON,
    TOKEN_IDS,
    PROMPT_LOGPROBS,
    PROMPT_TOKEN_IDS,
];

const CREATED: FieldDoc = required("created", COUNT, "Seconds since 1970.");
const METRICS: FieldDoc = optional("metrics", Shape::OpenObject(&[]), "See docs/per-request-metrics.md.");
const LOGPROBS: FieldDoc = optional("logprobs", Shape::OpenObject(&[]), "As OpenAI has them, if asked for.");
const TOKEN_IDS: FieldDoc = optional("token_ids", IDS, "If asked for.");
const PROMPT_TOKEN_IDS: FieldDoc = optional("prompt_token_ids", IDS, "If asked for.");
const IDS: Shape = Shape::List { of: &Shape::TokenId, min: 0, max: None };
const PROMPT_LOGPROBS: FieldDoc = optional(
    "prompt_logprobs",
    Shape::List { of: &Shape::Either(&[Shape::Null, Shape::OpenObject(&[])]), min: 0, max: None },
    "As vLLM has them, if asked for: an object by token id for each token but the first.",
);
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
    optional("completion_tokens_details", Shape::Object(&[required("reasoning_tokens", COUNT, "")]), ""),
];

/// Of `POST /v1/responses`, in one piece.
pub(super) const RESPONSE: &[FieldDoc] = &[
    required("id", TEXT, ""),
    required("object", Shape::Words(&["response"]), ""),
    required("created_at", COUNT, "Seconds since 1970."),
    required("status", Shape::Words(&["completed", "incomplete"]), ""),
    required("background", Shape::Only(false), ""),
    optional("error", Shape::Null, ""),
    optional("incomplete_details", Shape::Object(&[required("reason", TEXT, "")]), ""),
    optional("instructions", TEXT, ""),
    optional("max_output_tokens", COUNT, ""),
    required("metadata", Shape::OpenObject(&[]), ""),
    required("model", Shape::Model, ""),
    required("output", Shape::List { of: &Shape::OpenObject(ITEM), min: 1, max: None }, ""),
    required("parallel_tool_calls", Shape::Boolean, ""),
    optional("previous_response_id", Shape::Null, ""),
    required("reasoning", Shape::OpenObject(&[]), ""),
    required("service_tier", TEXT, ""),
    required("store", Shape::Only(false), ""),
    required("temperature", Shape::Number { min: 0.0, max: 2.0 }, ""),
    required("text", Shape::OpenObject(&[]), ""),
    required("tool_choice", Shape::Either(&[TEXT, Shape::OpenObject(&[])]), ""),
    required("tools", Shape::List { of: &Shape::OpenObject(&[]), min: 0, max: None }, ""),
    required("top_p", Shape::Positive(1.0), ""),
    required("truncation", Shape::Words(&["disabled"]), ""),
    required("usage", Shape::Object(RESPONSE_USAGE), ""),
    optional("user", TEXT, ""),
    METRICS,
];
const ITEM: &[FieldDoc] = &[
    required("id", TEXT, ""),
    required("type", Shape::Words(&["message", "reasoning", "function_call"]), ""),
    required("status", Shape::Words(&["completed", "incomplete"]), ""),
];
const RESPONSE_USAGE: &[FieldDoc] = &[
    required("input_tokens", COUNT, ""),
    required("input_tokens_details", Shape::Object(&[required("cached_tokens", COUNT, "")]), ""),
    required("output_tokens", COUNT, ""),
    required("output_tokens_details", Shape::Object(&[required("reasoning_tokens", COUNT, "")]), ""),
    required("total_tokens", COUNT, ""),
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
