//! One choice of an answer: tokens in, text and what belongs to it out.
//!
//! HOT PATH: runs for each token.

use std::sync::Arc;

use wayfare_engine::{Finish, OutputDetails, SequenceOutput, Terminator, TokenId, TokenLogprobs};
use wayfare_text::{AnswerEvent, AnswerParser, DecodeError, TextStream, Tokenizer, ToolFormat};

use crate::prepare::Prepared;

/// How a choice ended, in OpenAI's and vLLM's terms.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChoiceEnd {
    /// `stop`, `length` or `tool_calls`.
    pub(crate) finish_reason: &'static str,
    pub(crate) stop_reason: Option<StopReason>,
}

/// What exactly stopped a choice; nothing when it was the end of the text.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub(crate) enum StopReason {
    Text(String),
    Token(u32),
}

/// What has become of a choice since somebody looked.
#[derive(Debug, Default)]
pub(crate) struct ChoiceDelta {
    /// Empty where the answer is taken apart.
    pub(crate) text: String,
    /// The parts of an answer that is taken apart. Every call has an id.
    pub(crate) events: Vec<AnswerEvent>,
    /// The tokens, when their ids or log-probabilities are shown.
    pub(crate) tokens: Vec<TokenId>,
    /// One for each token, when they are shown.
    pub(crate) logprobs: Vec<TokenLogprobs>,
    /// Those of the prompt, once.
    pub(crate) prompt_logprobs: Option<Vec<TokenLogprobs>>,
    pub(crate) end: Option<ChoiceEnd>,
}

impl ChoiceDelta {
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.events.is_empty() && self.end.is_none() && self.tokens.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.events.clear();
        self.tokens.clear();
        self.logprobs.clear();
        self.prompt_logprobs = None;
        self.end = None;
    }
}

#[derive(Debug)]
pub(super) struct Choice {
    text: TextStream,
    pub(super) delta: ChoiceDelta,
    pub(super) generated_tokens: u32,
    pub(super) reasoning_tokens: u32,
    pub(super) finish_reason: Option<&'static str>,
    /// Text that goes before the first.
    echo: Option<Arc<str>>,
    /// Whether the token that ends the text is a part of it.
    includes_terminator: bool,
    shows_tokens: bool,
    /// Whether the answer is the prompt, and what is generated is left out.
    prompt_only: bool,
    has_stop: bool,
    message: Option<Box<MessageParts>>,
}

/// Takes an answer apart as its text comes.
#[derive(Debug)]
struct MessageParts {
    parser: AnswerParser,
    tool_format: ToolFormat,
    include_reasoning: bool,
    /// Whether the text that came last was reasoning.
    is_reasoning: bool,
}

impl Choice {
    pub(super) fn new(tokenizer: Tokenizer, prepared: &Prepared, echo: Option<&Arc<str>>) -> Self {
        let Prepared { text, form, .. } = prepared;
        let message = prepared.message.as_ref().map(|reader| {
            Box::new(MessageParts {
                parser: reader.parser.clone(),
                tool_format: reader.tool_format,
                include_reasoning: reader.include_reasoning,
                is_reasoning: false,
            })
        });
        Self {
            text: TextStream::new(tokenizer, text),
            delta: ChoiceDelta::default(),
            generated_tokens: 0,
            reasoning_tokens: 0,
            finish_reason: None,
            echo: echo.cloned(),
            includes_terminator: text.include_stop,
            shows_tokens: form.token_ids || form.logprobs,
            prompt_only: form.prompt_only,
            has_stop: !text.stop.is_empty(),
            message,
        }
    }

    /// Takes the tokens of an output; gives the place in the list of the stop string that they complete.
    pub(super) fn advance(&mut self, output: &SequenceOutput) -> Result<Option<usize>, DecodeError> {
        if let Some(echo) = self.echo.take_if(|_| !output.tokens.is_empty()) {
            self.delta.text.push_str(&echo);
        }
        if self.prompt_only {
            self.take_details(output, 0);
            return Ok(None);
        }
        let mut tokens = output.tokens.as_slice();
        // The token that ended the sequence counts as generated but is not part of the text.
        let is_terminated = output.finish.as_ref().is_some_and(|finish| finish.terminator.is_some());
        if let Some((_, text_tokens)) =
            tokens.split_last().filter(|_| is_terminated && !self.includes_terminator)
        {
            tokens = text_tokens;
        }
        let mut found = None;
        if self.has_stop {
            // One by one, so that tokens after the stop string are not counted, however many came together.
            for (index, token) in tokens.iter().enumerate() {
                found = self.text.push_to(std::slice::from_ref(token), &mut self.delta.text)?;
                if found.is_some() {
                    tokens = &tokens[..=index];
                    break;
                }
            }
        } else {
            self.text.push_to(tokens, &mut self.delta.text)?;
        }
        let counted = if found.is_some() { tokens.len() } else { output.tokens.len() };
        let new_tokens = u32::try_from(counted).unwrap_or(u32::MAX);
        self.generated_tokens = self.generated_tokens.saturating_add(new_tokens);
        if self.shows_tokens || output.details.is_some() {
            self.take_details(output, counted);
        }
        if self.message.is_some() {
            self.take_apart(found.is_some());
            let is_reasoning = self.message.as_ref().is_some_and(|message| message.is_reasoning);
            if is_reasoning {
                self.reasoning_tokens = self.reasoning_tokens.saturating_add(new_tokens);
            }
        }
        Ok(found)
    }

    /// Turns the text that has come into parts of the message.
    fn take_apart(&mut self, is_last: bool) {
        let Some(message) = &mut self.message else { return };
        let events = &mut self.delta.events;
        message.parser.push(&self.delta.text, events);
        self.delta.text.clear();
        if is_last {
            message.parser.finish(events);
        }
        if let Some(last) = events.last() {
            message.is_reasoning = matches!(last, AnswerEvent::Reasoning(_));
        }
        if !message.include_reasoning {
            events.retain(|event| !matches!(event, AnswerEvent::Reasoning(_)));
        }
        for event in events {
            if let AnswerEvent::CallStart { id, .. } = event {
                id.get_or_insert_with(|| message.tool_format.call_id(rand::random()));
            }
        }
    }

    /// Why the choice ended, in the client's terms: a model that called tools has not simply stopped.
    pub(super) fn finish_reason(&self, reason: &'static str) -> &'static str {
        let has_called = self.message.as_ref().is_some_and(|message| message.parser.calls() > 0);
        if has_called && reason == "stop" { "tool_calls" } else { reason }
    }

    /// Keeps what is shown of the first `counted` tokens of an output.
    fn take_details(&mut self, output: &SequenceOutput, counted: usize) {
        if self.shows_tokens {
            self.delta.tokens.extend_from_slice(&output.tokens[..counted]);
        }
        let Some(details) = &output.details else { return };
        let OutputDetails { logprobs, prompt_logprobs } = &**details;
        self.delta.logprobs.extend(logprobs.iter().take(counted).cloned());
        if prompt_logprobs.is_some() {
            self.delta.prompt_logprobs.clone_from(prompt_logprobs);
        }
    }

    /// Ends the text, because the engine has ended the sequence; gives the stop string that was completed last.
    pub(super) fn end_text(&mut self) -> Result<Option<usize>, DecodeError> {
        let last = self.text.finish()?;
        self.delta.text.push_str(&last.text);
        self.take_apart(true);
        Ok(last.stop)
    }

    /// The token at which the client asked to stop, if that ended the sequence.
    pub(super) fn stop_token(finish: &Finish) -> Option<StopReason> {
        match finish.terminator {
            Some(Terminator::StopToken(token)) => Some(StopReason::Token(token)),
            Some(Terminator::EndOfText) | None => None,
        }
    }
}
