//! The fields that requests may have. Whoever teaches `params` a field describes it here.

use super::schema::{FieldDoc, Shape, TEXT, optional, required};

/// What a route understands.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestDoc {
    pub(super) fields: &'static [&'static [FieldDoc]],
    pub(super) neutral: NeutralDoc,
}

/// Which of the fields that are accepted where they change nothing a route has.
#[derive(Clone, Copy, Debug)]
pub(super) enum NeutralDoc {
    AllBut(&'static [&'static str]),
    Only(&'static [&'static str]),
}

impl NeutralDoc {
    pub(super) fn has(self, name: &str) -> bool {
        match self {
            Self::AllBut(names) => !names.contains(&name),
            Self::Only(names) => names.contains(&name),
        }
    }
}

/// `POST /v1/chat/completions`
pub(super) const CHAT: RequestDoc = RequestDoc {
    fields: &[CHAT_FIELDS, PROMPT_FIELDS, TOOL_FIELDS, CHOICE_FIELDS, COMMON_FIELDS],
    neutral: NeutralDoc::AllBut(&[]),
};

/// `POST /v1/completions`
pub(super) const COMPLETION: RequestDoc = RequestDoc {
    fields: &[COMPLETION_FIELDS, CHOICE_FIELDS, COMMON_FIELDS],
    neutral: NeutralDoc::AllBut(&[]),
};

/// `POST /v1/responses`
pub(super) const RESPONSES: RequestDoc = RequestDoc {
    fields: &[RESPONSES_FIELDS, PROMPT_FIELDS, TOOL_FIELDS, COMMON_FIELDS],
    neutral: NeutralDoc::AllBut(crate::params::NOT_IN_RESPONSES),
};

/// `POST /tokenize` with a text.
pub(super) const TOKENIZE_TEXT: RequestDoc = RequestDoc {
    fields: &[TOKENIZE_TEXT_FIELDS, TOKENIZE_FIELDS],
    neutral: NeutralDoc::Only(TOKENIZE_NEUTRAL),
};

/// `POST /tokenize` with messages.
pub(super) const TOKENIZE_CHAT: RequestDoc = RequestDoc {
    fields: &[TOKENIZE_CHAT_FIELDS, PROMPT_FIELDS, TOOL_FIELDS, TOKENIZE_FIELDS],
    neutral: NeutralDoc::Only(TOKENIZE_NEUTRAL),
};

/// `POST /detokenize`
pub(super) const DETOKENIZE: RequestDoc =
    RequestDoc { fields: &[DETOKENIZE_FIELDS], neutral: NeutralDoc::Only(&[]) };

const CHAT_FIELDS: &[FieldDoc] = &[
    required("messages", Shape::Messages(&MESSAGE), "The conversation so far."),
    optional("echo", Shape::Boolean, "Begins the answer with the message that it continues."),
    INCLUDE_REASONING,
    optional("logprobs", Shape::Boolean, "Shows how likely each token was."),
    optional(
        "top_logprobs",
        Shape::Checked(&LOGPROBS),
        "Shows so many likely tokens beside each. Only with `logprobs`.",
    ),
    EFFORT,
];

const INCLUDE_REASONING: FieldDoc =
    optional("include_reasoning", Shape::Boolean, "Whether reasoning is shown where it is told apart.");
const LOGPROBS: Shape = Shape::Integer { min: 0, max: 20 };
const EFFORT: FieldDoc = optional(
    "reasoning_effort",
    Shape::Words(&["none", "minimal", "low", "medium", "high", "xhigh"]),
    "Passed on to the chat template.",
);

const MESSAGE: Shape = Shape::Either(&[Shape::Object(MESSAGE_FIELDS), Shape::Object(CALLING_FIELDS)]);

const MESSAGE_FIELDS: &[FieldDoc] = &[
    required("role", Shape::Words(&["system", "developer", "user", "assistant", "tool"]), "Who says it."),
    required("content", CONTENT, "What is said; parts are put together line by line."),
    optional("tool_calls", EMPTY_LIST, ""),
    NAME,
    TOOL_CALL_ID,
    REASONING,
    REASONING_CONTENT,
    REFUSAL,
    AUDIO,
    FUNCTION_CALL,
    ANNOTATIONS,
];

/// Of an assistant that calls tools, and need not say anything.
const CALLING_FIELDS: &[FieldDoc] = &[
    required("role", Shape::Words(&["assistant"]), ""),
    optional("content", CONTENT, ""),
    required(
        "tool_calls",
        Shape::List { of: &Shape::OpenObject(CALL_FIELDS), min: 1, max: Some(1024) },
        "What it calls.",
    ),
    NAME,
    TOOL_CALL_ID,
    REASONING,
    REASONING_CONTENT,
    REFUSAL,
    AUDIO,
    FUNCTION_CALL,
    ANNOTATIONS,
];
const CALL_FIELDS: &[FieldDoc] = &[
    optional("id", TEXT, ""),
    optional("type", Shape::Words(&["function"]), ""),
    required(
        "function",
        Shape::OpenObject(&[
            required("name", TEXT, ""),
            optional(
                "arguments",
                Shape::Either(&[Shape::Checked(&TEXT), Shape::OpenObject(&[])]),
                "JSON, as text or as it is.",
            ),
        ]),
        "",
    ),
];
const NAME: FieldDoc = optional("name", TEXT, "Passed on to the chat template.");
const TOOL_CALL_ID: FieldDoc = optional("tool_call_id", TEXT, "Which call a result belongs to.");
const REASONING: FieldDoc = optional("reasoning", TEXT, "What was thought before.");
const REASONING_CONTENT: FieldDoc = optional("reasoning_content", TEXT, "An older name of `reasoning`.");
const REFUSAL: FieldDoc = optional("refusal", Shape::Null, "");
const AUDIO: FieldDoc = optional("audio", Shape::Null, "");
const FUNCTION_CALL: FieldDoc = optional("function_call", Shape::Null, "");
const ANNOTATIONS: FieldDoc = optional("annotations", EMPTY_LIST, "");

const CONTENT: Shape = Shape::Either(&[TEXT, PARTS]);
const PARTS: Shape = Shape::List { of: &PART, min: 0, max: Some(1024) };
const PART: Shape = Shape::Either(&[TEXT, Shape::OpenObject(PART_FIELDS)]);
const PART_FIELDS: &[FieldDoc] = &[
    required("type", Shape::Words(&["text"]), "Other parts are not supported."),
    required("text", TEXT, ""),
];
const EMPTY_LIST: Shape = Shape::List { of: &Shape::Null, min: 0, max: Some(0) };

/// Of all routes that take messages: how they become a prompt.
const PROMPT_FIELDS: &[FieldDoc] = &[
    optional(
        "add_generation_prompt",
        Shape::Boolean,
        "Whether the prompt ends with the beginning of an answer.",
    ),
    optional(
        "continue_final_message",
        Shape::Checked(&Shape::Boolean),
        "Whether the answer goes on with the last message. Not with `add_generation_prompt`.",
    ),
    optional(
        "chat_template",
        Shape::Checked(&TEXT),
        "Instead of the model's own, under `--trust-request-chat-template`.",
    ),
    optional("chat_template_kwargs", Shape::Checked(&OBJECT), "More variables for the template."),
    optional("documents", Shape::List { of: &OBJECT, min: 0, max: None }, "Passed on to the chat template."),
];
const OBJECT: Shape = Shape::OpenObject(&[]);

/// Of all routes that take messages: what may be called.
const TOOL_FIELDS: &[FieldDoc] = &[
    optional(
        "tools",
        Shape::Checked(&Shape::List { of: &OBJECT, min: 0, max: Some(128) }),
        "Functions that the model may call, as OpenAI has them.",
    ),
    optional(
        "tool_choice",
        Shape::Checked(&Shape::Either(&[Shape::Words(&["none", "auto", "required"]), OBJECT])),
        "Whether it must call one, or which.",
    ),
    optional("parallel_tool_calls", Shape::Boolean, "Whether it may call several at once."),
];

const COMPLETION_FIELDS: &[FieldDoc] = &[
    required(
        "prompt",
        Shape::Either(&[
            PROMPT_TEXT,
            PROMPT_TOKENS,
            Shape::List { of: &Shape::Either(&[PROMPT_TEXT, PROMPT_TOKENS]), min: 1, max: Some(1024) },
        ]),
        "A text, token ids, or a list of both.",
    ),
    optional("echo", Shape::Boolean, "Begins each answer with its prompt."),
    optional("logprobs", LOGPROBS, "Shows how likely each token was, and so many likely ones beside it."),
];
const PROMPT_TEXT: Shape = Shape::Text { min: 1, max: None };
const PROMPT_TOKENS: Shape = Shape::List { of: &Shape::TokenId, min: 1, max: None };

/// Of the routes whose answers are choices.
const CHOICE_FIELDS: &[FieldDoc] = &[
    optional("n", Shape::Integer { min: 1, max: 128 }, "How many answers; they differ in their seed."),
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
    optional("response_format", RESPONSE_FORMAT, "What the answer must be."),
    optional(
        "prompt_logprobs",
        LOGPROBS,
        "Shows how likely each token of the prompt was. Not with `stream`.",
    ),
    optional("return_token_ids", Shape::Boolean, "Shows the tokens of prompt and answer as numbers."),
    optional(
        "return_tokens_as_token_ids",
        Shape::Boolean,
        "Writes `token_id:NUMBER` where log-probabilities name tokens.",
    ),
];
const RESPONSE_FORMAT: Shape = Shape::Either(&[
    Shape::Object(&[required("type", Shape::Words(&["text", "json_object"]), "")]),
    Shape::Object(&[
        required("type", Shape::Words(&["json_schema"]), ""),
        required("json_schema", Shape::Checked(&OBJECT), "With the `schema`."),
    ]),
]);

const RESPONSES_FIELDS: &[FieldDoc] = &[
    required(
        "input",
        Shape::Either(&[TEXT, Shape::Checked(&Shape::List { of: &OBJECT, min: 1, max: None })]),
        "A text, or a list of items: messages, function calls and their outputs, reasoning.",
    ),
    INCLUDE_REASONING,
    optional("instructions", TEXT, "A system message before the input."),
    optional("max_output_tokens", Shape::TokenCount, "Most tokens of the answer."),
    optional("text", Shape::Checked(&OBJECT), "The format of the answer."),
    optional(
        "reasoning",
        Shape::Object(&[
            EFFORT_OF_REASONING,
            optional("summary", Shape::Words(&["auto"]), ""),
            optional("generate_summary", Shape::Words(&["auto"]), ""),
        ]),
        "",
    ),
    optional(
        "include",
        Shape::List {
            of: &Shape::Words(&["message.output_text.logprobs", "reasoning.encrypted_content"]),
            min: 0,
            max: None,
        },
        "What else is shown.",
    ),
    optional("top_logprobs", Shape::Checked(&LOGPROBS), "Only with log-probabilities in `include`."),
    optional("truncation", Shape::Words(&["disabled"]), ""),
    optional("store", Shape::Only(false), "Nothing is kept."),
    optional("background", Shape::Only(false), "Not supported."),
    optional("previous_response_id", Shape::Null, "Nothing is kept."),
    optional("conversation", Shape::Null, "Nothing is kept."),
    optional("prompt", Shape::Null, "Nothing is kept."),
    optional("max_tool_calls", Shape::Null, "Not supported."),
    optional("context_management", Shape::Null, "Not supported."),
];
const EFFORT_OF_REASONING: FieldDoc = FieldDoc { name: "effort", ..EFFORT };

/// Of all generating routes.
const COMMON_FIELDS: &[FieldDoc] = &[
    MODEL,
    optional("stream", Shape::Boolean, "Sends the answer in server-sent events, as it is made."),
    optional("stream_options", Shape::Object(STREAM_OPTIONS), "Only with `stream`."),
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
    optional(
        "include_stop_str_in_output",
        Shape::Boolean,
        "Whether the text or token that ends the answer is part of it.",
    ),
    optional("skip_special_tokens", Shape::Boolean, "Whether special tokens have no text."),
    optional(
        "min_tokens",
        Shape::Checked(&Shape::Integer { min: 0, max: u32::MAX as i128 }),
        "Tokens before which the answer does not end.",
    ),
    optional("presence_penalty", PENALTY, "Taken off the logits of tokens that have come."),
    optional("frequency_penalty", PENALTY, "The same for each time that they have come."),
    optional(
        "repetition_penalty",
        Shape::Number { min: 0.01, max: 100.0 },
        "Divides the logits of tokens of prompt and answer.",
    ),
    optional(
        "logit_bias",
        Shape::Checked(&Shape::Map(&Shape::Number { min: -100.0, max: 100.0 })),
        "Added to the logits of tokens, by their ids.",
    ),
    optional(
        "bad_words",
        Shape::Checked(&Shape::List { of: &Shape::Text { min: 1, max: Some(256) }, min: 0, max: Some(256) }),
        "Texts that do not come.",
    ),
    optional(
        "allowed_token_ids",
        Shape::Checked(&Shape::List { of: &Shape::TokenId, min: 1, max: None }),
        "No other token comes. Not with a form of the answer.",
    ),
    optional("structured_outputs", Shape::Checked(&OBJECT), "What the answer must be, as vLLM has it."),
    optional(
        "guided_json",
        Shape::Checked(&Shape::Either(&[TEXT, OBJECT, Shape::Boolean])),
        "A JSON schema for the answer.",
    ),
    optional("guided_regex", Shape::Checked(&TEXT), "A regular expression for the answer."),
    optional(
        "guided_choice",
        Shape::Checked(&Shape::List { of: &Shape::Text { min: 1, max: None }, min: 1, max: Some(1024) }),
        "Texts of which the answer is one.",
    ),
    optional("guided_grammar", Shape::Checked(&TEXT), "A grammar for the answer, in Lark or GBNF form."),
    optional(
        "truncate_prompt_tokens",
        Shape::Either(&[Shape::Integer { min: -1, max: -1 }, Shape::TokenCount]),
        "Keeps so many of the prompt's last tokens; -1, as many as leave room for the answer.",
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
const PENALTY: Shape = Shape::Number { min: -2.0, max: 2.0 };
const STOP_STRING: Shape = Shape::Text { min: 1, max: Some(4096) };
const STREAM_OPTIONS: &[FieldDoc] = &[
    optional("include_usage", Shape::Boolean, "Adds a chunk with the token counts."),
    optional("continuous_usage_stats", Shape::Boolean, "Adds the counts so far to every chunk."),
    optional("include_obfuscation", Shape::Only(false), "Not supported."),
];

const TOKENIZE_FIELDS: &[FieldDoc] = &[
    MODEL,
    optional("add_special_tokens", Shape::Boolean, "By default for a text, and not for messages."),
    optional("return_token_strs", Shape::Boolean, "Adds how the vocabulary spells the tokens."),
];
const TOKENIZE_TEXT_FIELDS: &[FieldDoc] = &[required("prompt", TEXT, "A text.")];
const TOKENIZE_CHAT_FIELDS: &[FieldDoc] =
    &[required("messages", Shape::Messages(&MESSAGE), "A conversation, as in a chat request."), EFFORT];
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
    use crate::params::{
        ASKED_FOR, ChatParams, CompletionParams, DetokenizeParams, Fields, NOT_IN_RESPONSES, ResponsesParams,
        TokenizeParams,
    };

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
    fn a_response_understands_what_is_documented_and_what_a_chat_has_under_other_names() {
        ASKED_FOR.take();
        let body = json!({"input": "x"});
        ResponsesParams::read(Fields::parse(body.to_string().as_bytes()).unwrap(), 1).unwrap();
        let understood = ASKED_FOR.take();
        let documented: BTreeSet<_> =
            RESPONSES.fields.iter().copied().flatten().map(|field| field.name.to_owned()).collect();
        let of_chats: BTreeSet<_> = NOT_IN_RESPONSES.iter().map(|name| (*name).to_owned()).collect();
        assert!(documented.is_subset(&understood), "{:?}", documented.difference(&understood));
        let others: BTreeSet<_> = understood.difference(&documented).cloned().collect();
        assert!(others.is_subset(&of_chats), "{:?}", others.difference(&of_chats));
    }

    #[test]
    fn each_field_without_effect_is_without_effect_somewhere() {
        let has = |doc: RequestDoc, name: &str| doc.fields.iter().copied().flatten().any(|f| f.name == name);
        for (name, _) in crate::params::NEUTRAL_FIELDS {
            assert!(!has(CHAT, name) || !has(COMPLETION, name), "{name}");
        }
    }
}
