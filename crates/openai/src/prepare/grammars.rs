//! From what an answer must be to what the engine follows.

use std::sync::OnceLock;

use wayfare_engine::{OutputGrammar, TokenId};
use wayfare_text::{CompiledGrammar, GrammarCompiler, GrammarError, Tokenizer};

use crate::error::ApiError;

use super::error_chain;

/// Compiles grammars. The compiler is made when the first request has a grammar, because that takes time and memory in
/// the size of the vocabulary.
#[derive(Debug, Default)]
pub(crate) struct Grammars {
    compiler: OnceLock<Result<GrammarCompiler, String>>,
}

impl Grammars {
    /// The grammar, compiled. `param` is the field that holds it.
    pub(super) fn compile(
        &self,
        tokenizer: &Tokenizer,
        end_of_text: &[TokenId],
        grammar: &OutputGrammar,
        param: &str,
    ) -> Result<CompiledGrammar, ApiError> {
        let compiler = self.compiler.get_or_init(|| {
            GrammarCompiler::new(tokenizer, end_of_text).map_err(|error| {
                tracing::warn!(%error, "answers cannot be given a form");
                error_chain(&error)
            })
        });
        match compiler {
            Err(problem) => Err(ApiError::unsupported(param, problem)),
            Ok(compiler) => compiler.compile(grammar).map_err(|error| match error {
                GrammarError::NoThread(_) => ApiError::Internal { detail: "no thread for a grammar" },
                error => ApiError::invalid(param, error_chain(&error)),
            }),
        }
    }
}
