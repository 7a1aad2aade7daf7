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

/// How the text of a sequence is made.
#[derive(Clone, Debug)]
pub struct TextOptions {
    /// Texts that end it.
    pub stop: Arc<[String]>,
    /// Whether the one that ends it is part of it.
    pub include_stop: bool,
    /// Number of tokens that must have come before: a stop string that is completed by one of the first so many
    /// tokens does not end the text.
    pub min_tokens: u32,
    /// Whether special tokens have no text.
    pub skip_special_tokens: bool,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self { stop: Arc::from([]), include_stop: false, min_tokens: 0, skip_special_tokens: true }
    }
}

/// Turns one sequence's tokens into text as they come.
///
/// The texts of all deltas, put together, are what [`Tokenizer::decode`] makes of all tokens, cut before the
/// first stop string. A character is given out when its last byte has come, and text that may be the beginning
/// of a stop string when it is known not to be one, so no part of a stop string is ever given out that is not to be
/// included.
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
    /// Tokens that are still to come before a stop string counts.
    tokens_before_stop: u32,
    ended: bool,
}

impl TextStream {
    /// A stream at the start of a sequence.
    #[must_use]
    pub fn new(tokenizer: Tokenizer, options: &TextOptions) -> Self {
        let detokenizer = Detokenizer::new(&tokenizer);
        let stop = StopSearch::new(&options.stop, options.include_stop);
        Self {
            tokenizer,
            detokenizer,
            skip_special_tokens: options.skip_special_tokens,
            stop,
            tokens_before_stop: options.min_tokens,
            ended: false,
        }
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
            let may_end = self.tokens_before_stop == 0;
            self.tokens_before_stop = self.tokens_before_stop.saturating_sub(1);
            let found = stop.advance(may_end, text);
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
