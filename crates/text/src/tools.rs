//! Tool calls in a model's own words, read as the text comes.
//!
//! Names and forms are those of vLLM's tool parsers. What turns out not to be a call is content, to the last
//! character; only the marks of calls and the white space around calls go.

use std::fmt;

mod call_object;
mod forced;
mod json_value;
mod parser;
#[cfg(test)]
mod tests;

pub use forced::{ForcedCallError, ForcedChoice, Tool, forced_grammar};
pub use parser::ToolParser;

/// How a model writes tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// Hermes, Qwen 2.5 and Qwen 3: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, one for each call.
    Hermes,
    /// Llama 3: the whole answer, or what follows `<|python_tag|>`, is `{"name": …, "parameters": {…}}`; several calls
    /// are separated by `;`.
    Llama3Json,
    /// Mistral: `[TOOL_CALLS][{"name": …, "arguments": {…}}]`, or since the eleventh version of its tokeniser
    /// `[TOOL_CALLS]name{…}` and `[TOOL_CALLS]name[ARGS]{…}`.
    Mistral,
}

impl ToolFormat {
    /// The names that [`by_name`](Self::by_name) knows.
    pub const NAMES: [&'static str; 4] = ["hermes", "llama3_json", "llama4_json", "mistral"];

    /// The format that vLLM's parser of this name reads.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "hermes" => Some(Self::Hermes),
            "llama3_json" | "llama4_json" => Some(Self::Llama3Json),
            "mistral" => Some(Self::Mistral),
            _ => None,
        }
    }

    /// The format that a chat template teaches, if it is one of these.
    #[must_use]
    pub fn guess(template: &str) -> Option<Self> {
        let has = |text: &str| template.contains(text);
        // Qwen's coders write `<tool_call><function=…>`, which is another format.
        if has("<tool_call>") && !has("<function=") && !has("<arg_key>") {
            return Some(Self::Hermes);
        }
        if has("[TOOL_CALLS]") {
            return Some(Self::Mistral);
        }
        let llama = has("<|start_header_id|>") && has("\"parameters\"");
        (has("<|python_tag|>") || llama).then_some(Self::Llama3Json)
    }

    /// Whether marks of calls are special tokens, so that the answer has to be decoded with them.
    #[must_use]
    pub fn needs_special_tokens(self) -> bool {
        self != Self::Hermes
    }

    /// An id for a call in the form that the model's templates take: nine letters and digits for Mistral,
    /// `chatcmpl-tool-` and 32 hexadecimal digits otherwise. As unique as `random` is.
    #[must_use]
    pub fn call_id(self, random: u128) -> String {
        const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        if self != Self::Mistral {
            return format!("chatcmpl-tool-{random:032x}");
        }
        let letters = (0..9).scan(random, |rest, _| {
            let letter = LETTERS.get((*rest % 62) as usize).copied();
            *rest /= 62;
            letter.map(char::from)
        });
        letters.collect()
    }

    /// What a call begins with.
    fn mark(self) -> &'static str {
        match self {
            Self::Hermes => "<tool_call>",
            Self::Llama3Json => "<|python_tag|>",
            Self::Mistral => "[TOOL_CALLS]",
        }
    }
}

impl fmt::Display for ToolFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hermes => "hermes",
            Self::Llama3Json => "llama3_json",
            Self::Mistral => "mistral",
        })
    }
}
