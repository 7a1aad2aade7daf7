//! The bytes that each token stands for, worked out once so that decoding is a look-up.
//!
//! Hugging Face describes decoding as a chain of steps over the whole list of tokens. For the chains that
//! generative models use, every step either works on each token alone or only on the start of the text, so the
//! chain can be run ahead of time on every token of the vocabulary.

use std::borrow::Cow;

use tokenizers::{Decoder, DecoderWrapper};
use wayfare_engine::TokenId;

use super::{MAX_TOKEN_ID, TokenizerError};

/// What one token stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenText<'a> {
    /// The bytes it adds, perhaps only part of a character.
    pub(crate) bytes: &'a [u8],
    /// Whether it is left out when special tokens are skipped.
    pub(crate) special: bool,
}

/// What is different at the start of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextStart {
    /// Nothing.
    Plain,
    /// Up to `count` leading characters `content` are dropped.
    Strip { content: char, count: usize },
    /// All characters `marker` of the first token are dropped, as the library's `Metaspace` does.
    FirstToken { marker: char },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Missing,
    Text,
    Special,
}

/// The texts of all tokens of a vocabulary.
#[derive(Debug)]
pub(crate) struct TokenTexts {
    bytes: Vec<u8>,
    /// Token `i` has the bytes from `starts[i]` to `starts[i + 1]`.
    starts: Vec<usize>,
    kinds: Vec<Kind>,
    start: TextStart,
    /// Put between tokens.
    separator: &'static str,
}

impl TokenTexts {
    /// Runs the tokeniser's decoder on each of its tokens.
    pub(super) fn compile(library: &tokenizers::Tokenizer) -> Result<Self, TokenizerError> {
        let added = library.get_added_vocabulary();
        let largest = library.get_vocab(true).into_values().max();
        if let Some(id) = largest.filter(|&id| id > MAX_TOKEN_ID) {
            return Err(TokenizerError::TokenIdTooLarge { id });
        }
        let chain = Chain::of(library.get_decoder())?;
        let byte_of_char = ByteOfChar::new();
        let mut texts = Self {
            bytes: Vec::new(),
            starts: vec![0],
            kinds: Vec::new(),
            start: chain.start,
            separator: if library.get_decoder().is_none() { " " } else { "" },
        };
        for id in 0..largest.map_or(0, |id| id + 1) {
            let added_token = added.get_added_tokens_decoder().get(&id);
            let kind = match (added_token, library.id_to_token(id)) {
                // The library would read an added token's `é` as the byte E9; an added token is spelled as text.
                (Some(token), _) if chain.bytes == Bytes::ByteLevel => {
                    texts.bytes.extend_from_slice(token.content.as_bytes());
                    if token.special { Kind::Special } else { Kind::Text }
                }
                (_, Some(spelling)) => {
                    chain.append(&spelling, &byte_of_char, &mut texts.bytes)?;
                    if added_token.is_some_and(|token| token.special) { Kind::Special } else { Kind::Text }
                }
                (_, None) => Kind::Missing,
            };
            texts.starts.push(texts.bytes.len());
            texts.kinds.push(kind);
        }
        Ok(texts)
    }

    /// One more than the largest id.
    pub(crate) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The text of a token, if there is one of this id.
    pub(crate) fn get(&self, id: TokenId) -> Option<TokenText<'_>> {
        let index = id as usize;
        let kind = self.kinds.get(index).filter(|&&kind| kind != Kind::Missing)?;
        let bytes = self.bytes.get(*self.starts.get(index)?..*self.starts.get(index + 1)?)?;
        Some(TokenText { bytes, special: *kind == Kind::Special })
    }

    /// What is different at the start of a text.
    pub(crate) fn start(&self) -> TextStart {
        self.start
    }

    /// What stands between tokens.
    pub(crate) fn separator(&self) -> &'static str {
        self.separator
    }
}

/// How a token's spelling becomes bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bytes {
    /// The spelling is text.
    Text,
    /// Each character stands for a byte, by GPT-2's alphabet.
    ByteLevel,
    /// The spelling is text, but `<0x0A>` is the byte 0A.
    Fallback,
}

/// A decoder that is known to work token by token.
struct Chain<'a> {
    each_token: Vec<&'a DecoderWrapper>,
    bytes: Bytes,
    start: TextStart,
}

impl<'a> Chain<'a> {
    fn of(decoder: Option<&'a DecoderWrapper>) -> Result<Self, TokenizerError> {
        let mut steps = Vec::new();
        if let Some(decoder) = decoder {
            flatten(decoder, &mut steps);
        }
        let mut chain = Self { each_token: Vec::new(), bytes: Bytes::Text, start: TextStart::Plain };
        let mut fused = false;
        for step in steps {
            match step {
                DecoderWrapper::Fuse(_) => fused = true,
                DecoderWrapper::ByteLevel(_) if !fused && chain.bytes == Bytes::Text => {
                    chain.bytes = Bytes::ByteLevel;
                    fused = true;
                }
                DecoderWrapper::ByteFallback(_) if !fused && chain.bytes == Bytes::Text => {
                    chain.bytes = Bytes::Fallback;
                }
                DecoderWrapper::Replace(_) if !fused => chain.each_token.push(step),
                DecoderWrapper::Metaspace(metaspace) if !fused && chain.start == TextStart::Plain => {
                    chain.each_token.push(step);
                    if metaspace.get_prepend_scheme() != tokenizers::decoders::metaspace::PrependScheme::Never
                    {
                        chain.start = TextStart::FirstToken { marker: metaspace.get_replacement() };
                    }
                }
                DecoderWrapper::Strip(strip) if strip.stop == 0 && !fused => chain.each_token.push(step),
                DecoderWrapper::Strip(strip) if strip.stop == 0 && chain.start == TextStart::Plain => {
                    chain.start = TextStart::Strip { content: strip.content, count: strip.start };
                }
                other => return Err(TokenizerError::UnsupportedDecoder { decoder: name(other, fused) }),
            }
        }
        Ok(chain)
    }

    fn append(&self, spelling: &str, alphabet: &ByteOfChar, out: &mut Vec<u8>) -> Result<(), TokenizerError> {
        if self.bytes == Bytes::Fallback
            && let Some(byte) = fallback_byte(spelling)
        {
            out.push(byte);
            return Ok(());
        }
        let mut text = Cow::Borrowed(spelling);
        for step in &self.each_token {
            text = Cow::Owned(match step {
                // Not the first token of the text; that one is seen to by `TextStart::FirstToken`.
                DecoderWrapper::Metaspace(metaspace) => text.replace(metaspace.get_replacement(), " "),
                other => {
                    other.decode_chain(vec![text.into_owned()]).map_err(TokenizerError::Library)?.concat()
                }
            });
        }
        if self.bytes != Bytes::ByteLevel || !alphabet.append(&text, out) {
            out.extend_from_slice(text.as_bytes());
        }
        Ok(())
    }
}

fn flatten<'a>(decoder: &'a DecoderWrapper, steps: &mut Vec<&'a DecoderWrapper>) {
    match decoder {
        DecoderWrapper::Sequence(sequence) => {
            for step in sequence.get_decoders() {
                flatten(step, steps);
            }
        }
        step => steps.push(step),
    }
}

fn name(decoder: &DecoderWrapper, fused: bool) -> String {
    let name = match decoder {
        DecoderWrapper::BPE(_) => "BPEDecoder",
        DecoderWrapper::ByteLevel(_) => "ByteLevel",
        DecoderWrapper::WordPiece(_) => "WordPiece",
        DecoderWrapper::Metaspace(_) => "Metaspace",
        DecoderWrapper::CTC(_) => "CTC",
        DecoderWrapper::Sequence(_) => "Sequence",
        DecoderWrapper::Replace(_) => "Replace",
        DecoderWrapper::Fuse(_) => "Fuse",
        DecoderWrapper::Strip(_) => "Strip at the end of text",
        DecoderWrapper::ByteFallback(_) => "ByteFallback",
    };
    if fused { format!("{name} after Fuse") } else { name.to_owned() }
}

/// The byte of a byte token, spelled `<0x0A>`.
pub(crate) fn fallback_byte(spelling: &str) -> Option<u8> {
    let digits = spelling.strip_prefix("<0x")?.strip_suffix('>')?;
    let two_digits = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| two_digits)
}

/// GPT-2's alphabet, backwards: printable Latin-1 characters stand for their own byte, the characters from
/// U+0100 on for the other bytes in order (`bytes_to_unicode` in openai/gpt-2, `src/encoder.py`).
struct ByteOfChar([Option<u8>; 0x144]);

impl ByteOfChar {
    fn new() -> Self {
        let mut bytes = [None; 0x144];
        let mut substitutes = 0x100..;
        for byte in 0..=u8::MAX {
            let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
            let character = if printable { Some(usize::from(byte)) } else { substitutes.next() };
            if let Some(place) = character.and_then(|character| bytes.get_mut(character)) {
                *place = Some(byte);
            }
        }
        Self(bytes)
    }

    /// Appends the bytes of a spelling; appends nothing and says so if a character is not of the alphabet.
    fn append(&self, spelling: &str, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        for character in spelling.chars() {
            if let Some(byte) = self.0.get(character as usize).copied().flatten() {
                out.push(byte);
            } else {
                out.truncate(before);
                return false;
            }
        }
        true
    }
}
