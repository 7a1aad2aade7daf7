//! Outputs of a given form: grammars become sets of allowed tokens.
//!
//! A [`GrammarCompiler`] knows the vocabulary and turns an [`OutputGrammar`] into a [`CompiledGrammar`], which
//! hands out one constraint per sequence. The work is `llguidance`'s; here is what a server needs around it:
//! limits for grammars that nobody vouches for, errors that a client can act on, and a cache.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::TokEnv;
use llguidance::{Matcher, ParserFactory};
use parking_lot::Mutex;
use wayfare_engine::{OutputConstraint, OutputGrammar, TokenId};

use crate::{ReasoningParser, Tokenizer};

mod behind_reasoning;
mod cache;
mod gbnf;
mod matcher;
pub(crate) mod source;
#[cfg(test)]
mod tests;
mod vocabulary;

use behind_reasoning::BehindReasoning;
use cache::Cache;
use matcher::GrammarMatcher;

/// Compiling recurses along references and nesting, whose depth only the size of the text bounds. The pages are
/// used only where that happens.
const COMPILE_STACK_BYTES: usize = 512 << 20;

/// What a grammar may cost. Compiling: what the largest published schemas take. A step, for which the whole batch
/// waits: about ten milliseconds. The library's own limits on the parser's items are for grammars that somebody vouches
/// for: an ambiguous grammar of three lines keeps within them and takes more than a second for a step, since the work
/// grows with a power of the items. An object with 500 optional properties keeps within these.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 500,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 100_000,
        step_max_items: 3_000,
        max_lexer_states: 20_000,
        max_grammar_size: 200_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// Why grammars cannot be followed with a model's vocabulary at all: for the operator.
#[derive(Debug, thiserror::Error)]
pub enum GrammarCompilerError {
    /// Without a token that ends the text, no output can be said to be complete.
    #[error("structured output needs an end-of-text token, and the model names none in its vocabulary")]
    NoEndOfText,
    /// What tokens stand for depends on their neighbours.
    #[error("structured output does not work with a tokenizer that puts {separator:?} between tokens")]
    Separator {
        /// What stands between tokens.
        separator: &'static str,
    },
    /// The library refused the vocabulary.
    #[error("the vocabulary cannot be used for structured output: {0}")]
    Vocabulary(String),
}

/// Why a grammar cannot be used: the client's to mend, except for [`NoThread`](Self::NoThread).
#[derive(Debug, thiserror::Error)]
pub enum GrammarError {
    /// The text is too long.
    #[error("the {kind} has {bytes} bytes, more than the {limit} that are allowed")]
    TooLong {
        /// What was given.
        kind: &'static str,
        /// Its length.
        bytes: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// It is malformed, contradicts itself, or uses what is not supported.
    #[error("the {kind} cannot be used: {message}")]
    Invalid {
        /// What was given.
        kind: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// Following it would take too much time or memory.
    #[error("the {kind} is too complex: {message}; simplify it")]
    TooComplex {
        /// What was given.
        kind: &'static str,
        /// Which limit it exceeds.
        message: String,
    },
    /// The system has no thread to compile in: the server's fault, not the client's.
    #[error("cannot start a thread for the grammar")]
    NoThread(#[source] io::Error),
}

/// Compiles grammars for one vocabulary. Building it takes time and memory in the size of the vocabulary (about
/// 0.1 s and some megabytes for 50 000 tokens): once per server. To be shared; compiling takes `&self`.
pub struct GrammarCompiler {
    factory: ParserFactory,
    environment: TokEnv,
    end_of_text: Arc<[TokenId]>,
    cache: Mutex<Cache>,
}

impl GrammarCompiler {
    /// A compiler for a vocabulary and the tokens of it that end an output.
    ///
    /// Special tokens are not text: no grammar allows them, except one in Lark form that names them.
    ///
    /// # Errors
    /// When the vocabulary does not work with grammars.
    pub fn new(tokenizer: &Tokenizer, end_of_text: &[TokenId]) -> Result<Self, GrammarCompilerError> {
        let (environment, end_of_text) = vocabulary::environment(tokenizer, end_of_text)?;
        let mut factory = quietly(|| ParserFactory::new_simple(&environment).map_err(|e| e.to_string()))
            .map_err(GrammarCompilerError::Vocabulary)?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self {
            factory,
            environment,
            end_of_text: end_of_text.into(),
            cache: Mutex::new(Cache::default()),
        })
    }

    /// The grammar, compiled; from the cache of the last ones if it is there. Compiling takes from a tenth of a
    /// millisecond to tens of milliseconds and more for hostile input: not for an I/O thread.
    ///
    /// # Errors
    /// When the grammar is not one, is not supported or is too large.
    pub fn compile(&self, grammar: &OutputGrammar) -> Result<CompiledGrammar, GrammarError> {
        if let Some(compiled) = self.cached(grammar) {
            return Ok(compiled);
        }
        let compiled = self.compile_anew(grammar)?;
        self.cache.lock().insert(compiled.clone());
        Ok(compiled)
    }

    /// The grammar if it was compiled before and is still in the cache. Takes microseconds.
    #[must_use]
    pub fn cached(&self, grammar: &OutputGrammar) -> Option<CompiledGrammar> {
        self.cache.lock().get(grammar)
    }

    fn compile_anew(&self, grammar: &OutputGrammar) -> Result<CompiledGrammar, GrammarError> {
        let kind = source::kind(grammar);
        let builder = thread::Builder::new().name("grammar".to_owned()).stack_size(COMPILE_STACK_BYTES);
        let outcome = thread::scope(|scope| {
            let compiling = builder
                .spawn_scoped(scope, || source::top_level(grammar).and_then(|top| self.build(kind, top)))
                .map_err(GrammarError::NoThread)?;
            compiling.join().unwrap_or_else(|panic| Err(invalid(kind, &panic_message(panic.as_ref()))))
        })?;
        let compiled = Compiled {
            grammar: grammar.clone(),
            fresh: outcome,
            environment: self.environment.clone(),
            end_of_text: self.end_of_text.clone(),
        };
        Ok(CompiledGrammar(Arc::new(compiled)))
    }

    fn build(&self, kind: &'static str, grammar: TopLevelGrammar) -> Result<Matcher, GrammarError> {
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        // Says what is wrong now rather than at the first token, and leaves the lexer's first states in place for
        // all sequences.
        let first = matcher.compute_mask_or_eos();
        first.map(|_| matcher).map_err(|error| refusal(kind, &error.to_string()))
    }
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").field("end_of_text", &self.end_of_text).finish_non_exhaustive()
    }
}

/// A grammar that sequences can follow. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct CompiledGrammar(Arc<Compiled>);

struct Compiled {
    grammar: OutputGrammar,
    /// Never advanced; sequences take copies.
    fresh: Matcher,
    environment: TokEnv,
    end_of_text: Arc<[TokenId]>,
}

impl CompiledGrammar {
    /// What was compiled.
    #[must_use]
    pub fn grammar(&self) -> &OutputGrammar {
        &self.0.grammar
    }

    /// A constraint at the start of a sequence. It shares nothing that changes with other constraints: what one
    /// sequence costs or breaks is its own.
    #[must_use]
    pub fn constraint(&self) -> OutputConstraint {
        OutputConstraint { grammar: self.0.grammar.clone(), matcher: Box::new(self.matcher()) }
    }

    /// A constraint for an answer that `reasoning` is going to read from its start: reasoning is free, and the grammar
    /// begins behind it. An answer that has not begun with reasoning for certain may also begin with the grammar.
    #[must_use]
    pub fn constraint_behind(&self, reasoning: &ReasoningParser) -> OutputConstraint {
        let (environment, end_of_text) = (self.0.environment.clone(), self.0.end_of_text.clone());
        let matcher =
            BehindReasoning::new([self.matcher(), self.matcher()], environment, end_of_text, reasoning);
        OutputConstraint { grammar: self.0.grammar.clone(), matcher: Box::new(matcher) }
    }

    fn matcher(&self) -> GrammarMatcher {
        GrammarMatcher::new(self.0.fresh.deep_clone(), self.0.end_of_text.clone())
    }
}

impl fmt::Debug for CompiledGrammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledGrammar").field("grammar", &self.0.grammar).finish_non_exhaustive()
    }
}

fn invalid(kind: &'static str, message: &str) -> GrammarError {
    GrammarError::Invalid { kind, message: message.to_owned() }
}

/// What the library says, as an error for the client: without its traces, and with what to do here.
fn refusal(kind: &'static str, message: &str) -> GrammarError {
    let message = readable(message);
    let too_complex = ["too complex", "too large", "too big", "oo many", "fuel", "items; max is"];
    if too_complex.iter().any(|sign| message.contains(sign)) {
        return GrammarError::TooComplex { kind, message };
    }
    GrammarError::Invalid { kind, message }
}

/// The part of a message of the library that is meant for people.
fn readable(message: &str) -> String {
    const LONGEST: usize = 1_000;
    if let Some(panic) = message.strip_prefix("panic: ") {
        return format!("not supported ({})", panic.lines().next().unwrap_or_default());
    }
    if message.starts_with("NoExtension") {
        return "no text fits it".to_owned();
    }
    let end = ["<non-verbose/>", "<state>", "<backtrace>"].iter().filter_map(|mark| message.find(mark)).min();
    let text = message[..end.unwrap_or(message.len())].trim();
    let text = text.replace(
        "Enable 'coerce_one_of' option to approximate oneOf with anyOf",
        "Use anyOf, or alternatives that a constant property tells apart",
    );
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

/// Runs the library and makes an error of a panic.
fn quietly<T>(operation: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|panic| Err(panic_message(panic.as_ref())))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("not supported ({})", text.unwrap_or("no message"))
}
