//! Rules about what an output may be: grammars, schemas, expressions.

use std::fmt::Debug;
use std::sync::Arc;

use crate::TokenId;

/// What an output must be. All text is the client's, checked for size but not for meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputGrammar {
    /// Any JSON object.
    JsonObject,
    /// JSON that the schema, itself JSON, describes.
    JsonSchema(Arc<str>),
    /// Text that the regular expression matches as a whole.
    Regex(Arc<str>),
    /// One of the texts; at least one.
    Choice(Arc<[String]>),
    /// Text of a context-free grammar in Lark or GBNF form.
    Grammar(Arc<str>),
}

/// A grammar, ready to be followed by one sequence.
#[derive(Debug)]
pub struct OutputConstraint {
    /// For engines that follow grammars themselves.
    pub grammar: OutputGrammar,
    /// For engines that ask before every token.
    pub matcher: Box<dyn TokenConstraint>,
}

/// Decides before each token of one sequence which may come. Called on the engine's thread.
pub trait TokenConstraint: Debug + Send {
    /// Replaces `allowed` by the tokens that may come next. End of text is among them where the output may end.
    ///
    /// # Errors
    /// When that cannot be said; the sequence then ends with an error.
    fn allow(&mut self, allowed: &mut TokenSet) -> Result<(), ConstraintError>;

    /// Takes the token that has come.
    ///
    /// # Errors
    /// When it may not come.
    fn accept(&mut self, token: TokenId) -> Result<(), ConstraintError>;
}

/// Why a constraint cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the output's grammar cannot be followed: {0}")]
pub struct ConstraintError(pub String);

/// A set of tokens: one bit per token of the vocabulary, 32 to a word, the lowest bit first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSet {
    words: Vec<u32>,
    vocab_size: u32,
}

impl TokenSet {
    /// An empty set of tokens below `vocab_size`.
    #[must_use]
    pub fn empty(vocab_size: u32) -> Self {
        Self { words: vec![0; vocab_size.div_ceil(u32::BITS) as usize], vocab_size }
    }

    /// Tokens are below it.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// The bits. Those beyond the vocabulary mean nothing.
    pub fn words_mut(&mut self) -> &mut [u32] {
        &mut self.words
    }

    /// Removes every token.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Adds a token; one outside of the vocabulary changes nothing.
    pub fn insert(&mut self, token: TokenId) {
        if token < self.vocab_size
            && let Some(word) = self.words.get_mut((token / u32::BITS) as usize)
        {
            *word |= 1 << (token % u32::BITS);
        }
    }

    /// Whether the token is in the set.
    #[must_use]
    pub fn contains(&self, token: TokenId) -> bool {
        let word = self.words.get((token / u32::BITS) as usize).copied().unwrap_or(0);
        token < self.vocab_size && word >> (token % u32::BITS) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_inserted_and_nothing_beyond_the_vocabulary() {
        let mut set = TokenSet::empty(70);
        for token in [0, 31, 32, 69, 70, 1000] {
            set.insert(token);
        }
        let held: Vec<TokenId> = (0..2000).filter(|token| set.contains(*token)).collect();
        assert_eq!(held, [0, 31, 32, 69]);
        set.words_mut().fill(u32::MAX);
        assert_eq!((0..2000).filter(|token| set.contains(*token)).count(), 70);
        set.clear();
        assert!(!set.contains(0));
    }
}
