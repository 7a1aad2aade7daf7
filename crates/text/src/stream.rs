//! HOT PATH. The text of one sequence, as its tokens come.

use std::sync::Arc;

use wayfare_engine::TokenId;

use crate::detokenizer::Detokenizer;
use crate::stop::StopSearch;
use crate::tokenizer::{DecodeError, Tokenizer};

/// Text that became final.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextDelta {
    /// The text; whole characters, perhaps none.
    pub text: String,
    /// The place in the list of the stop string that was found: the text ends before it, and nothing follows.
    /// Reported once.
    pub stop: Option<usize>,
}

/// Turns one sequence's tokens into text as they come.
///
/// The texts of all deltas, put together, are what [`Tokenizer::decode`] makes of all tokens, cut before the
/// first stop string. A character is given out when its last byte has come, and text that may be the beginning
/// of a stop string when it is known not to be one, so no part of a stop string is ever given out.
///
/// Of several stop strings the one that starts first in the text counts, and of those that start at the same
/// place the one that comes first in the list. Stop strings that are empty are never found.
///
/// A token costs time in the length of its own text.
#[derive(Debug)]
pub struct TextStream {
    tokenizer: Tokenizer,
    detokenizer: Detokenizer,
    skip_special_tokens: bool,
    stop: Option<StopSearch>,
    ended: bool,
}

impl TextStream {
    /// A stream at the start of a sequence.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "the list belongs to the request, which hands it over")]
    pub fn new(tokenizer: Tokenizer, stop: Arc<[String]>, skip_special_tokens: bool) -> Self {
        let detokenizer = Detokenizer::new(&tokenizer);
        let stop = StopSearch::new(&stop);
        Self { tokenizer, detokenizer, skip_special_tokens, stop, ended: false }
    }

    /// Takes the next tokens and gives out the text that became final. After a stop string was found, and after
    /// [`finish`](Self::finish), tokens are ignored.
    ///
    /// # Errors
    /// When a token is not in the vocabulary; the stream is of no use then.
    pub fn push(&mut self, tokens: &[TokenId]) -> Result<TextDelta, DecodeError> {
        let mut delta = TextDelta::default();
        delta.stop = self.push_to(tokens, &mut delta.text)?;
        Ok(delta)
    }

    /// The same, with the text appended to `text`; returns the stop string that was found. Allocates nothing
    /// where `text` has room.
    ///
    /// # Errors
    /// When a token is not in the vocabulary; the stream is of no use then.
    pub fn push_to(&mut self, tokens: &[TokenId], text: &mut String) -> Result<Option<usize>, DecodeError> {
        if self.ended {
            return Ok(None);
        }
        let Some(stop) = &mut self.stop else {
            for &token in tokens {
                self.detokenizer.push(&self.tokenizer, token, self.skip_special_tokens, text)?;
            }
            return Ok(None);
        };
        for &token in tokens {
            self.detokenizer.push(&self.tokenizer, token, self.skip_special_tokens, stop.text())?;
            let found = stop.advance(text);
            if found.is_some() {
                self.ended = true;
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Ends the sequence and gives out what was held back; an unfinished character becomes U+FFFD.
    ///
    /// # Errors
    /// None today; the signature leaves room for decoders that can fail at the end.
    pub fn finish(&mut self) -> Result<TextDelta, DecodeError> {
        let mut delta = TextDelta::default();
        if std::mem::replace(&mut self.ended, true) {
            return Ok(delta);
        }
        match &mut self.stop {
            None => self.detokenizer.finish(&mut delta.text),
            Some(stop) => {
                self.detokenizer.finish(stop.text());
                delta.stop = stop.finish(&mut delta.text);
            }
        }
        Ok(delta)
    }
}
