//! HOT PATH. Tokens to text, one token at a time.

use wayfare_engine::TokenId;

use crate::tokenizer::token_texts::TextStart;
use crate::tokenizer::{DecodeError, Tokenizer};

/// The state of decoding one sequence: at most the first bytes of one character.
///
/// The texts that the calls append, put together, are the decoding of all tokens; each call takes time in the
/// length of its token's text only.
#[derive(Clone, Debug)]
pub(crate) struct Detokenizer {
    /// The beginning of a character whose other bytes have not come yet.
    partial: Vec<u8>,
    /// Characters that may still be dropped from the start of the text.
    strip: Option<(char, usize)>,
    started: bool,
}

impl Detokenizer {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let strip = match tokenizer.texts().start() {
            TextStart::Strip { content, count } => Some((content, count)),
            TextStart::Plain | TextStart::FirstToken { .. } => None,
        };
        Self { partial: Vec::new(), strip, started: false }
    }

    /// Appends what `token` completes.
    pub(crate) fn push(
        &mut self,
        tokenizer: &Tokenizer,
        token: TokenId,
        skip_special_tokens: bool,
        text: &mut String,
    ) -> Result<(), DecodeError> {
        let texts = tokenizer.texts();
        let Some(token_text) = texts.get(token) else {
            return if tokenizer.is_padding(token) { Ok(()) } else { Err(tokenizer.unknown_token(token)) };
        };
        if token_text.special && skip_special_tokens {
            return Ok(());
        }
        if self.started {
            self.append(texts.separator().as_bytes(), text);
        } else {
            self.started = true;
            if let TextStart::FirstToken { marker } = texts.start()
                && let Some(spelling) = tokenizer.id_to_token(token)
                && spelling.contains(marker)
            {
                self.append(spelling.replace(marker, "").as_bytes(), text);
                return Ok(());
            }
        }
        self.append(token_text.bytes, text);
        Ok(())
    }

    /// Appends what is left of an unfinished character: one U+FFFD, or nothing.
    pub(crate) fn finish(&mut self, text: &mut String) {
        if !self.partial.is_empty() {
            self.partial.clear();
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }

    fn append(&mut self, bytes: &[u8], text: &mut String) {
        let before = text.len();
        let rest = self.complete_partial(bytes, text);
        append_complete(rest, text, &mut self.partial);
        if let Some((content, count)) = self.strip {
            self.strip_start(content, count, before, text);
        }
    }

    /// Goes on with the unfinished character, if there is one, and returns the bytes that were not used up.
    fn complete_partial<'a>(&mut self, mut bytes: &'a [u8], text: &mut String) -> &'a [u8] {
        while !self.partial.is_empty()
            && let Some((&byte, rest)) = bytes.split_first()
        {
            self.partial.push(byte);
            match std::str::from_utf8(&self.partial) {
                Ok(character) => {
                    text.push_str(character);
                    self.partial.clear();
                }
                Err(error) if error.error_len().is_none() => {}
                // The new byte does not go on with the character: it starts anew behind a broken one.
                Err(_) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.partial.clear();
                    break;
                }
            }
            bytes = rest;
        }
        bytes
    }

    fn strip_start(&mut self, content: char, mut count: usize, before: usize, text: &mut String) {
        let mut end = before;
        for character in text[before..].chars() {
            if count == 0 || character != content {
                count = 0;
                break;
            }
            count -= 1;
            end += content.len_utf8();
        }
        text.drain(before..end);
        self.strip = (count > 0).then_some((content, count));
    }
}

/// Appends all characters that `bytes` completes, U+FFFD for each maximal part of one that is broken, and puts
/// the beginning of a character that may still be completed (at most three bytes) into `partial`.
fn append_complete(mut bytes: &[u8], text: &mut String, partial: &mut Vec<u8>) {
    loop {
        let error = match std::str::from_utf8(bytes) {
            Ok(all) => return text.push_str(all),
            Err(error) => error,
        };
        let (valid, rest) = bytes.split_at(error.valid_up_to());
        text.push_str(std::str::from_utf8(valid).unwrap_or_default());
        match error.error_len() {
            Some(broken) => {
                text.push(char::REPLACEMENT_CHARACTER);
                bytes = &rest[broken..];
            }
            None => return partial.extend_from_slice(rest),
        }
    }
}
