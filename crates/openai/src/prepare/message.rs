//! What an answer is searched for: reasoning and tool calls.

use wayfare_engine::{OutputConstraint, OutputGrammar};
use wayfare_text::{
    AnswerParser, CompiledGrammar, ForcedChoice, ReasoningParser, ToolFormat, ToolParser, forced_grammar,
};

use crate::error::ApiError;
use crate::params::{ToolChoice, ToolParams};

use super::{Prepared, Preparer};

/// What takes an answer apart.
#[derive(Clone, Debug)]
pub(crate) struct MessageReader {
    /// At the start of an answer.
    pub(crate) parser: AnswerParser,
    /// What of it tells reasoning from content.
    reasoning: Option<ReasoningParser>,
    /// How calls are written.
    pub(crate) tool_format: ToolFormat,
    /// Whether reasoning is shown.
    pub(crate) include_reasoning: bool,
    /// Whether the parser looks for special tokens in the text.
    pub(crate) needs_special_tokens: bool,
}

impl MessageReader {
    /// The grammar for one answer; reasoning before it is free.
    fn constraint(&self, grammar: &CompiledGrammar) -> OutputConstraint {
        match &self.reasoning {
            None => grammar.constraint(),
            Some(reasoning) => grammar.constraint_behind(reasoning),
        }
    }
}

impl Prepared {
    /// What the engine follows in one answer, if anything.
    pub(crate) fn constraint(&self) -> Option<OutputConstraint> {
        let grammar = self.grammar.as_ref()?;
        Some(self.message.as_ref().map_or_else(|| grammar.constraint(), |reader| reader.constraint(grammar)))
    }
}

/// The form in which calls are demanded of a model whose own form is not known.
const DEFAULT_FORMAT: ToolFormat = ToolFormat::Hermes;

impl Preparer {
    /// How the model writes calls, as far as that is known.
    fn tool_format(&self) -> Option<ToolFormat> {
        self.chat.tool_format.or_else(|| self.chat.template.as_ref()?.tool_format())
    }

    /// The grammar of an answer that must call a tool, and the field that says so.
    pub(super) fn forced_calls(
        &self,
        tools: &ToolParams,
    ) -> Result<Option<(&'static str, OutputGrammar)>, ApiError> {
        let choice = match &tools.choice {
            ToolChoice::None | ToolChoice::Auto => return Ok(None),
            ToolChoice::Required => ForcedChoice::Required { parallel: tools.parallel },
            ToolChoice::Named(name) => ForcedChoice::Named(name),
        };
        let format = self.tool_format().unwrap_or(DEFAULT_FORMAT);
        let grammar = forced_grammar(format, &tools.tools, choice)
            .map_err(|error| ApiError::invalid("tools", error.to_string()))?;
        Ok(Some(("tools", grammar)))
    }

    /// What takes answers to `prompt` apart; `None` where there is nothing to look for.
    pub(super) fn message_reader(
        &self,
        prompt: &str,
        tools: &ToolParams,
        include_reasoning: bool,
    ) -> Result<Option<MessageReader>, ApiError> {
        let format = self.tool_format();
        let parser = match &tools.choice {
            ToolChoice::None => None,
            ToolChoice::Auto => match format {
                Some(format) => Some(ToolParser::new(format)),
                None => {
                    let problem = "the form of this model's tool calls is not known; start the server with \
                                   --tool-call-parser, or demand a call with 'tool_choice'";
                    return Err(ApiError::unsupported("tools", problem));
                }
            },
            ToolChoice::Required | ToolChoice::Named(_) => {
                Some(ToolParser::forced(format.unwrap_or(DEFAULT_FORMAT)))
            }
        };
        let reasoning = self.chat.reasoning_format.map(|format| format.start(prompt));
        if parser.is_none() && reasoning.is_none() {
            return Ok(None);
        }
        let tool_format = format.unwrap_or(DEFAULT_FORMAT);
        let needs_special_tokens = parser.is_some() && tool_format.needs_special_tokens()
            || self.chat.reasoning_format.is_some_and(|format| format.needs_special_tokens());
        let parser = AnswerParser::new(reasoning.clone(), parser);
        Ok(Some(MessageReader { parser, reasoning, tool_format, include_reasoning, needs_special_tokens }))
    }
}
