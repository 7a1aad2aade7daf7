//! The parts of an answer: reasoning, content and tool calls, told apart as the text comes.

use crate::reasoning::ReasoningParser;
use crate::tools::ToolParser;

/// A piece of an answer. Pieces of one kind that follow each other belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerEvent {
    /// What the model thinks before it answers.
    Reasoning(String),
    /// The answer.
    Content(String),
    /// A tool call begins.
    CallStart {
        /// Its place among the calls of the answer, from 0.
        index: u32,
        /// The tool.
        name: String,
        /// The call's id, where the model gives one itself.
        id: Option<String>,
    },
    /// More of the arguments of the call that began last, JSON as the model wrote it.
    Arguments {
        /// The call.
        index: u32,
        /// The text.
        text: String,
    },
}

/// Takes an answer apart: first the reasoning, if the model is of that kind; what follows is searched for tool calls,
/// if there are tools. The pieces do not depend on where the text is cut.
#[derive(Clone, Debug, Default)]
pub struct AnswerParser {
    reasoning: Option<ReasoningParser>,
    tools: Option<ToolParser>,
}

impl AnswerParser {
    /// At the start of an answer. Without either parser everything is content.
    #[must_use]
    pub fn new(reasoning: Option<ReasoningParser>, tools: Option<ToolParser>) -> Self {
        Self { reasoning, tools }
    }

    /// Takes more text; appends what is clear by now to `events`.
    pub fn push(&mut self, text: &str, events: &mut Vec<AnswerEvent>) {
        let Some(reasoning) = &mut self.reasoning else {
            return push_content(&mut self.tools, text, events);
        };
        let mut content = String::new();
        reasoning.push(text, &mut |thought| append(events, Kind::Reasoning, thought), &mut |text| {
            content.push_str(text)
        });
        push_content(&mut self.tools, &content, events);
    }

    /// Ends the answer; appends what was held back.
    pub fn finish(&mut self, events: &mut Vec<AnswerEvent>) {
        if let Some(reasoning) = &mut self.reasoning {
            let mut content = String::new();
            reasoning.finish(&mut |thought| append(events, Kind::Reasoning, thought), &mut |text| {
                content.push_str(text)
            });
            push_content(&mut self.tools, &content, events);
        }
        if let Some(tools) = &mut self.tools {
            tools.finish(events);
        }
    }

    /// How many tool calls have begun.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.tools.as_ref().map_or(0, ToolParser::calls)
    }
}

fn push_content(tools: &mut Option<ToolParser>, text: &str, events: &mut Vec<AnswerEvent>) {
    match tools {
        Some(tools) => tools.push(text, events),
        None => append(events, Kind::Content, text),
    }
}

/// What text may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Reasoning,
    Content,
    Arguments(u32),
}

/// Appends text, to the last event if that is of the same kind.
pub(crate) fn append(events: &mut Vec<AnswerEvent>, kind: Kind, text: &str) {
    if text.is_empty() {
        return;
    }
    match (events.last_mut(), kind) {
        (Some(AnswerEvent::Reasoning(last)), Kind::Reasoning)
        | (Some(AnswerEvent::Content(last)), Kind::Content) => {
            last.push_str(text);
        }
        (Some(AnswerEvent::Arguments { index, text: last }), Kind::Arguments(call)) if *index == call => {
            last.push_str(text);
        }
        (_, Kind::Reasoning) => events.push(AnswerEvent::Reasoning(text.to_owned())),
        (_, Kind::Content) => events.push(AnswerEvent::Content(text.to_owned())),
        (_, Kind::Arguments(index)) => events.push(AnswerEvent::Arguments { index, text: text.to_owned() }),
    }
}
