//! The bodies that clients get, typed, and written without an intermediate tree.

use std::sync::Arc;

use serde::Serialize;
use wayfare_engine::TokenId;
use wayfare_text::Tokenizer;

use crate::generation::{ChoiceDelta, StopReason, TokenUsage};
use crate::logprobs::{ChatLogprobs, CompletionLogprobs, PromptLogprobs, TokenWriter};
use crate::prepare::{AnswerForm, Prepared};
use crate::request_metrics::RequestMetrics;

/// Token counts in OpenAI's form.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u64,
    prompt_tokens_details: PromptTokensDetails,
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
        self.form.logprobs.then(|| ChatLogprobs { tokens: &delta.logprobs, writer: self.writer() })
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
    pub(crate) content: &'a str,
    pub(crate) refusal: Option<()>,
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
#[derive(Debug, Serialize)]
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
}
