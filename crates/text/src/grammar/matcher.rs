//! HOT PATH. One sequence on its way through a grammar.

use std::fmt;
use std::sync::Arc;

use llguidance::Matcher;
use wayfare_engine::{ConstraintError, TokenConstraint, TokenId, TokenSet};

use super::readable;

/// Follows a grammar. Setting up the allowed tokens is `llguidance`'s work, which makes one bit set per step;
/// nothing else is allocated in steady state.
pub(super) struct GrammarMatcher {
    matcher: Matcher,
    end_of_text: Arc<[TokenId]>,
    /// The end of text has come.
    ended: bool,
}

impl GrammarMatcher {
    pub(super) fn new(matcher: Matcher, end_of_text: Arc<[TokenId]>) -> Self {
        Self { matcher, end_of_text, ended: false }
    }

    fn may_end(&mut self) -> Result<bool, ConstraintError> {
        // A parser that can go on nowhere has stopped; that it has not failed is asked next.
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(true);
        }
        self.matcher.is_accepting().map_err(|error| failure(&error))
    }
}

impl TokenConstraint for GrammarMatcher {
    fn allow(&mut self, allowed: &mut TokenSet) -> Result<(), ConstraintError> {
        allowed.clear();
        if self.ended {
            self.end_of_text.iter().for_each(|token| allowed.insert(*token));
            return Ok(());
        }
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| failure(&error))?;
        for (word, bits) in allowed.words_mut().iter_mut().zip(mask.as_slice()) {
            *word = *bits;
        }
        Ok(())
    }

    fn accept(&mut self, token: TokenId) -> Result<(), ConstraintError> {
        if self.end_of_text.contains(&token) {
            self.ended = self.ended || self.may_end()?;
            return if self.ended {
                Ok(())
            } else {
                Err(ConstraintError("the text is not complete".to_owned()))
            };
        }
        if self.ended || self.matcher.is_stopped() && !self.matcher.is_error() {
            return Err(ConstraintError("the text is complete, nothing may follow".to_owned()));
        }
        self.matcher.consume_token(token).map_err(|error| failure(&error))
    }
}

impl fmt::Debug for GrammarMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarMatcher").field("ended", &self.ended).finish_non_exhaustive()
    }
}

fn failure(error: &impl fmt::Display) -> ConstraintError {
    ConstraintError(readable(&error.to_string()))
}
