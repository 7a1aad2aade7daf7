//! The bodies that clients get, typed, and written without an intermediate tree.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use wayfare_engine::{TokenId, TokenLogprobs};
use wayfare_text::{AnswerEvent, Tokenizer};

use crate::generation::{ChoiceDelta, StopReason, TokenUsage};
use crate::logprobs::{ChatLogprobs, CompletionLogprobs, PromptLogprobs, TextLogprobs, TokenWriter};
use crate::prepare::{AnswerForm, Prepared};
use crate::request_metrics::RequestMetrics;

/// Token counts in OpenAI's form.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u64,
    prompt_tokens_details: PromptTokensDetails,
    /// Where some of them were reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<CompletionTokensDetails>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct CompletionTokensDetails {
    reasoning_tokens: u32,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct PromptTokensDetails {
    cached_tokens: u32,
}

impl From<TokenUsage> for Usage {
    fn from(usage: TokenUsage) -> Self {
        Self {
            prompt_tokens: usage.prompt,
            completion_tokens: usage.completion,
            total_tokens: u64::from(usage.prompt) + u64::from(usage.completion),
            prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.cached },
            completion_tokens_details: (usage.reasoning > 0)
                .then_some(CompletionTokensDetails { reasoning_tokens: usage.reasoning }),
        }
    }
}

/// What all choices of an answer have in common.
#[derive(Debug)]
pub(crate) struct AnswerShape {
    tokenizer: Tokenizer,
    pub(crate) form: AnswerForm,
    prompts: Vec<Arc<[TokenId]>>,
    choices_per_prompt: usize,
}

impl AnswerShape {
    pub(crate) fn new(tokenizer: Tokenizer, prepared: &Prepared) -> Self {
        Self {
            tokenizer,
            form: prepared.form,
            prompts: prepared.prompts.iter().map(|prompt| Arc::clone(&prompt.tokens)).collect(),
            choices_per_prompt: prepared.n as usize,
        }
    }

    fn writer(&self) -> TokenWriter<'_> {
        TokenWriter { tokenizer: &self.tokenizer, as_ids: self.form.tokens_as_ids }
    }

    /// The tokens of the prompt that a choice answers.
    fn prompt(&self, choice: usize) -> &[TokenId] {
        self.prompts.get(choice / self.choices_per_prompt.max(1)).map_or(&[], |prompt| prompt)
    }

    pub(crate) fn chat_logprobs<'a>(&'a self, delta: &'a ChoiceDelta) -> Option<ChatLogprobs<'a>> {
        self.form
            .logprobs
            .then(|| ChatLogprobs { content: self.text_logprobs(&delta.logprobs), refusal: None })
    }

    pub(crate) fn text_logprobs<'a>(&'a self, tokens: &'a [TokenLogprobs]) -> TextLogprobs<'a> {
        TextLogprobs { tokens, writer: self.writer() }
    }

    /// `text_offset` is the number of characters that the choice's tokens had before.
    pub(crate) fn completion_logprobs<'a>(
        &'a self,
        choice: usize,
        delta: &'a ChoiceDelta,
        text_offset: usize,
    ) -> Option<CompletionLogprobs<'a>> {
        let prompt = delta.prompt_logprobs.as_deref().filter(|_| self.form.echo);
        let first = self.prompt(choice).first().copied();
        self.form.logprobs.then(|| CompletionLogprobs {
            prompt: first.zip(prompt),
            tokens: &delta.logprobs,
            text_offset,
            writer: self.writer(),
        })
    }

    pub(crate) fn prompt_logprobs<'a>(&'a self, delta: &'a ChoiceDelta) -> Option<PromptLogprobs<'a>> {
        let tokens = delta.prompt_logprobs.as_deref().filter(|_| self.form.prompt_logprobs)?;
        Some(PromptLogprobs { tokens, writer: self.writer() })
    }

    /// The ids of the tokens, when they are shown.
    pub(crate) fn token_ids<'a>(&self, delta: &'a ChoiceDelta) -> Option<&'a [TokenId]> {
        self.form.token_ids.then_some(&delta.tokens)
    }

    pub(crate) fn prompt_token_ids(&self, choice: usize) -> Option<&[TokenId]> {
        self.form.token_ids.then(|| self.prompt(choice))
    }
}

/// A whole answer, or one chunk of a streamed one; `C` is the form of its choices.
#[derive(Debug, Serialize)]
pub(crate) struct Envelope<'a, C> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
    pub(crate) choices: &'a [C],
    /// Absent, null (a chunk of a stream that will say it at its end), or the counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<&'a RequestMetrics>,
    /// Of chat answers, which have one prompt.
    #[serde(flatten)]
    pub(crate) prompt: PromptDetails<'a>,
}

impl<'a> Envelope<'a, ()> {
    /// The same with its choices.
    pub(crate) fn with<C>(self, object: &'static str, choices: &'a [C]) -> Envelope<'a, C> {
        let Self { id, created, model, usage, metrics, prompt, .. } = self;
        Envelope { id, object, created, model, choices, usage, metrics, prompt }
    }
}

/// What is shown of a prompt.
#[derive(Debug, Default, Serialize)]
pub(crate) struct PromptDetails<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_logprobs: Option<PromptLogprobs<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt_token_ids: Option<&'a [TokenId]>,
}

/// A choice of a chat answer.
#[derive(Debug, Serialize)]
pub(crate) struct ChatChoice<'a> {
    pub(crate) index: usize,
    pub(crate) message: Message<'a>,
    pub(crate) logprobs: Option<ChatLogprobs<'a>>,
    pub(crate) finish_reason: Option<&'static str>,
    pub(crate) stop_reason: Option<&'a StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<&'a [TokenId]>,
}

/// The assistant's message.
#[derive(Debug, Serialize)]
pub(crate) struct Message<'a> {
    pub(crate) role: &'static str,
    /// Nothing where there are calls and no text.
    pub(crate) content: Option<Cow<'a, str>>,
    pub(crate) refusal: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<ToolCall<'a>>,
}

/// A call of a tool in an assistant's message.
#[derive(Debug, Serialize)]
pub(crate) struct ToolCall<'a> {
    pub(crate) id: &'a str,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) function: FunctionCall<'a>,
}

#[derive(Debug, Serialize)]
pub(crate) struct FunctionCall<'a> {
    pub(crate) name: &'a str,
    pub(crate) arguments: String,
}

impl<'a> Message<'a> {
    /// The message that a whole answer is.
    pub(crate) fn of(delta: &'a ChoiceDelta) -> Self {
        let mut message = Self {
            role: "assistant",
            content: Some(Cow::Borrowed(&delta.text)),
            refusal: None,
            reasoning: None,
            tool_calls: Vec::new(),
        };
        for event in &delta.events {
            match event {
                AnswerEvent::Reasoning(text) => {
                    message.reasoning.get_or_insert_default().push_str(text);
                }
                AnswerEvent::Content(text) => {
                    message.content.get_or_insert_default().to_mut().push_str(text);
                }
                AnswerEvent::CallStart { name, id, .. } => message.tool_calls.push(ToolCall {
                    id: id.as_deref().unwrap_or_default(),
                    kind: "function",
                    function: FunctionCall { name, arguments: String::new() },
                }),
                AnswerEvent::Arguments { text, .. } => {
                    if let Some(call) = message.tool_calls.last_mut() {
                        call.function.arguments.push_str(text);
                    }
                }
            }
        }
        if !message.tool_calls.is_empty() && message.content.as_deref() == Some("") {
            message.content = None;
        }
        message
    }
}

/// A choice of a completion, whole or in a chunk.
#[derive(Debug, Serialize)]
pub(crate) struct CompletionChoice<'a> {
    pub(crate) index: usize,
    pub(crate) text: &'a str,
    pub(crate) logprobs: Option<CompletionLogprobs<'a>>,
    pub(crate) finish_reason: Option<&'static str>,
    pub(crate) stop_reason: Option<&'a StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<&'a [TokenId]>,
    #[serde(flatten)]
    pub(crate) prompt: PromptDetails<'a>,
}

/// A choice in a chunk of a chat answer.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ChatChunkChoice<'a> {
    pub(crate) index: usize,
    pub(crate) delta: Delta<'a>,
    pub(crate) logprobs: Option<ChatLogprobs<'a>>,
    pub(crate) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_reason: Option<&'a StopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_ids: Option<&'a [TokenId]>,
}

/// What a chunk adds to the assistant's message.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool_calls: Option<[ToolCallDelta<'a>; 1]>,
}

/// What a chunk adds to a call: the first one has its id and name.
#[derive(Debug, Serialize)]
pub(crate) struct ToolCallDelta<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionDelta<'a>,
}

#[derive(Debug, Serialize)]
struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

impl<'a> From<&'a AnswerEvent> for Delta<'a> {
    fn from(event: &'a AnswerEvent) -> Self {
        let call = |delta| Self { tool_calls: Some([delta]), ..Self::default() };
        match event {
            AnswerEvent::Content(text) => Self { content: Some(text), ..Self::default() },
            AnswerEvent::Reasoning(text) => Self { reasoning: Some(text), ..Self::default() },
            AnswerEvent::CallStart { index, name, id } => call(ToolCallDelta {
                index: *index,
                id: id.as_deref(),
                kind: Some("function"),
                function: FunctionDelta { name: Some(name), arguments: "" },
            }),
            AnswerEvent::Arguments { index, text } => call(ToolCallDelta {
                index: *index,
                id: None,
                kind: None,
                function: FunctionDelta { name: None, arguments: text },
            }),
        }
    }
}
