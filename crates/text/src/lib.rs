//! Everything between text and tokens: tokenisers, chat templates, incremental detokenising, stop strings.
//!
//! * [`Tokenizer`] encodes and decodes; it comes from a Hugging Face `tokenizer.json` or from the vocabulary of
//!   a GGUF file ([`GgufVocabulary`]).
//! * [`ChatTemplate`] renders chat messages into a prompt, as the `transformers` library does.
//! * [`TextStream`] turns the tokens of one sequence into text as they come: never half a character, never
//!   any part of a stop string.
//! * [`GrammarCompiler`] turns schemas, expressions and grammars into the tokens that may come next.
//! * [`AnswerParser`] tells the reasoning, the content and the tool calls of an answer apart as its text comes;
//!   [`forced_grammar`] is the grammar of answers that have to call a tool.
//! * [`TextFiles`] reads all of it from a model's directory, or takes it from a GGUF vocabulary.
//!
//! Files and clients are not trusted: what they hold leads to errors, never to a panic, and templates run on a
//! budget. Nothing here knows HTTP or engines.
#![forbid(unsafe_code)]

mod answer;
mod byte_model;
mod detokenizer;
mod files;
mod gguf;
mod grammar;
mod reasoning;
mod stop;
mod stream;
mod template;
mod tokenizer;
mod tools;

pub use answer::{AnswerEvent, AnswerParser};
pub use files::{TextFiles, TextFilesError};
pub use gguf::{GgufVocabulary, GgufVocabularyError};
pub use grammar::{CompiledGrammar, GrammarCompiler, GrammarCompilerError, GrammarError};
pub use reasoning::{ReasoningFormat, ReasoningParser};
pub use stream::{TextDelta, TextOptions, TextStream};
pub use template::{ChatTemplate, NamedTemplate, RenderError, RenderOptions, SpecialTokens, TemplateError};
pub use tokenizer::{DecodeError, EncodeError, Tokenizer, TokenizerError};
pub use tools::{ForcedCallError, ForcedChoice, Tool, ToolFormat, ToolParser, forced_grammar};
