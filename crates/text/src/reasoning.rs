//! Reasoning: what a model writes between its thinking tags, told apart from its answer.
//!
//! Names and behaviour are those of vLLM's reasoning parsers (`vllm/reasoning`). Nothing is taken away but the tags.

use std::fmt;

#[cfg(test)]
pub(crate) mod tests;

/// How a model marks its reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasoningFormat {
    /// `deepseek_r1`: the answer begins with reasoning, whether or not `<think>` comes, and `</think>` ends it.
    DeepSeekR1,
    /// `qwen3`, also `mimo` and `glm45`: reasoning stands between `<think>` at the start and `</think>`; an answer
    /// that begins otherwise has none.
    Qwen3,
    /// `mistral`: the same between `[THINK]` and `[/THINK]`.
    Mistral,
}

impl ReasoningFormat {
    /// The names that [`by_name`](Self::by_name) knows.
    pub const NAMES: [&'static str; 5] = ["deepseek_r1", "qwen3", "mimo", "glm45", "mistral"];

    /// The format that vLLM's parser of this name reads.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "deepseek_r1" => Some(Self::DeepSeekR1),
            "qwen3" | "mimo" | "glm45" => Some(Self::Qwen3),
            "mistral" => Some(Self::Mistral),
            _ => None,
        }
    }

    /// The tag that ends reasoning.
    #[must_use]
    pub fn end_tag(self) -> &'static str {
        self.tags().1
    }

    /// The tag that begins it.
    pub(crate) fn start_tag(self) -> &'static str {
        self.tags().0
    }

    /// Whether the tags are special tokens, so that the answer has to be decoded with them.
    #[must_use]
    pub fn needs_special_tokens(self) -> bool {
        self == Self::Mistral
    }

    /// Where an answer to `prompt` begins: a template that turns reasoning off, or on, puts the tags at the end of
    /// the prompt.
    #[must_use]
    pub fn start(self, prompt: &str) -> ReasoningParser {
        let (start_tag, end_tag) = self.tags();
        let prompt = prompt.trim_end();
        let place = if prompt.ends_with(end_tag) {
            Place::Content
        } else if prompt.ends_with(start_tag) {
            Place::Reasoning
        } else {
            Place::Start
        };
        ReasoningParser { format: self, place, held: String::new(), matched: 0 }
    }

    fn tags(self) -> (&'static str, &'static str) {
        match self {
            Self::DeepSeekR1 | Self::Qwen3 => ("<think>", "</think>"),
            Self::Mistral => ("[THINK]", "[/THINK]"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing but white space and the beginning of the start tag has come.
    Start,
    Reasoning,
    Content,
}

/// Tells reasoning from content in one answer, as its text comes.
#[derive(Clone)]
pub struct ReasoningParser {
    format: ReasoningFormat,
    place: Place,
    /// White space before the start tag, and the beginning of a tag.
    held: String,
    /// Bytes of the tag that have come.
    matched: usize,
}

impl ReasoningParser {
    /// The format that is read.
    #[must_use]
    pub fn format(&self) -> ReasoningFormat {
        self.format
    }

    /// Whether the answer is still in its reasoning, or may begin with some.
    #[must_use]
    pub fn may_be_reasoning(&self) -> bool {
        self.place != Place::Content
    }

    /// Whether the answer has reasoning first for certain, so that its content begins behind the end tag.
    #[must_use]
    pub fn is_reasoning(&self) -> bool {
        self.place == Place::Reasoning
            || self.place == Place::Start && self.format == ReasoningFormat::DeepSeekR1
    }

    /// Takes more text and gives out what is clear by now.
    pub fn push(&mut self, text: &str, reasoning: &mut dyn FnMut(&str), content: &mut dyn FnMut(&str)) {
        for (at, character) in text.char_indices() {
            match self.place {
                Place::Content => {
                    content(&text[at..]);
                    return;
                }
                Place::Start => self.start(character, reasoning, content),
                Place::Reasoning => self.reason(character, reasoning),
            }
        }
    }

    /// Ends the answer and gives out what was held back.
    pub fn finish(&mut self, reasoning: &mut dyn FnMut(&str), content: &mut dyn FnMut(&str)) {
        if self.is_reasoning() {
            reasoning(&self.held);
        } else {
            content(&self.held);
        }
        self.held.clear();
        self.place = Place::Content;
    }

    fn start(&mut self, character: char, reasoning: &mut dyn FnMut(&str), content: &mut dyn FnMut(&str)) {
        let tag = self.format.tags().0;
        if self.matched == 0 && character.is_whitespace() {
            self.held.push(character);
        } else if tag[self.matched..].starts_with(character) {
            self.held.push(character);
            self.matched += character.len_utf8();
            if self.matched == tag.len() {
                self.enter(Place::Reasoning);
            }
        } else if self.format == ReasoningFormat::DeepSeekR1 {
            let held = std::mem::take(&mut self.held);
            self.enter(Place::Reasoning);
            // The end tag begins as the start tag does.
            held.chars().chain([character]).for_each(|character| self.reason(character, reasoning));
        } else {
            self.held.push(character);
            content(&self.held);
            self.enter(Place::Content);
        }
    }

    fn reason(&mut self, character: char, reasoning: &mut dyn FnMut(&str)) {
        let tag = self.format.end_tag();
        // No tag's first character comes again in it, so a tag that breaks off can only begin anew.
        if !tag[self.matched..].starts_with(character) && self.matched > 0 {
            reasoning(&self.held);
            self.enter(Place::Reasoning);
        }
        if !tag[self.matched..].starts_with(character) {
            let mut buffer = [0; 4];
            reasoning(character.encode_utf8(&mut buffer));
            return;
        }
        self.held.push(character);
        self.matched += character.len_utf8();
        if self.matched == tag.len() {
            self.enter(Place::Content);
        }
    }

    fn enter(&mut self, place: Place) {
        self.place = place;
        self.held.clear();
        self.matched = 0;
    }
}

impl fmt::Debug for ReasoningParser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReasoningParser")
            .field("format", &self.format)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
