//! The tokeniser: Hugging Face's library for encoding, our own table for decoding.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wayfare_engine::TokenId;

use crate::detokenizer::Detokenizer;
use crate::gguf::{self, GgufVocabulary, GgufVocabularyError};

pub(crate) mod token_texts;

use token_texts::TokenTexts;

/// The largest token id that is taken; decoding keeps a table from zero up to the largest id of a vocabulary.
const MAX_TOKEN_ID: TokenId = (1 << 24) - 1;

type BoxError = Box<dyn Error + Send + Sync>;

/// Turns text into tokens and back. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
    /// Ids from the vocabulary's size up to here exist in the model only, and have no text.
    model_vocab_size: usize,
}

struct Inner {
    library: tokenizers::Tokenizer,
    texts: TokenTexts,
    framing: Framing,
}

/// Tokens put around a text when special tokens are asked for, beyond what the library itself adds.
#[derive(Default)]
pub(crate) struct Framing {
    pub(crate) before: Option<TokenId>,
    pub(crate) after: Option<TokenId>,
}

/// Why a tokeniser could not be built.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a tokeniser that the library understands.
    #[error("{} is not a valid tokenizer.json", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What the library said.
        #[source]
        source: BoxError,
    },
    /// Its decoder cannot be run token by token.
    #[error(
        "decoder {decoder} of the tokenizer is not supported here: supported are ByteLevel, Metaspace, and sequences of Replace, ByteFallback, Fuse and Strip"
    )]
    UnsupportedDecoder {
        /// The decoder's type, and what about it is not supported.
        decoder: String,
    },
    /// A token id is out of all proportion.
    #[error("token id {id} is too large: ids up to {MAX_TOKEN_ID} are supported")]
    TokenIdTooLarge {
        /// The id.
        id: TokenId,
    },
    /// The vocabulary of a GGUF file cannot be used.
    #[error(transparent)]
    Gguf(#[from] GgufVocabularyError),
    /// The library refused the tokeniser.
    #[error("the tokenizer could not be built")]
    Library(#[source] BoxError),
}

/// Why a text could not be turned into tokens.
#[derive(Debug, thiserror::Error)]
#[error("the text could not be tokenised")]
pub struct EncodeError(#[source] BoxError);

/// Why tokens could not be turned into text.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No token has this id.
    #[error("token {id} is not in the vocabulary of {vocab_size} tokens")]
    UnknownToken {
        /// The id.
        id: TokenId,
        /// One more than the largest id that is known.
        vocab_size: usize,
    },
}

impl Tokenizer {
    /// Reads a Hugging Face `tokenizer.json`. Truncation and padding that the file asks for are left out: a
    /// server must see the whole text.
    ///
    /// # Errors
    /// When the file cannot be read, is malformed, or decodes in a way that does not work token by token.
    pub fn from_file(tokenizer_json: &Path) -> Result<Self, TokenizerError> {
        let path = || tokenizer_json.to_path_buf();
        let content =
            std::fs::read(tokenizer_json).map_err(|source| TokenizerError::Read { path: path(), source })?;
        let library = guarded(|| {
            let mut library = tokenizers::Tokenizer::from_bytes(&content)?;
            library.with_truncation(None)?;
            library.with_padding(None);
            Ok(library)
        })
        .map_err(|source| TokenizerError::Invalid { path: path(), source })?;
        Self::new(library, Framing::default())
    }

    /// Builds the tokeniser that a GGUF file describes.
    ///
    /// # Errors
    /// When the vocabulary contradicts itself, or is of a kind that is not supported; the error lists what is.
    pub fn from_gguf(vocabulary: &GgufVocabulary) -> Result<Self, TokenizerError> {
        vocabulary.validate()?;
        let library = guarded(|| gguf::build(vocabulary)).map_err(TokenizerError::Library)?;
        Self::new(library, vocabulary.framing())
    }

    fn new(library: tokenizers::Tokenizer, framing: Framing) -> Result<Self, TokenizerError> {
        let texts = TokenTexts::compile(&library)?;
        let model_vocab_size = texts.len();
        Ok(Self { inner: Arc::new(Inner { library, texts, framing }), model_vocab_size })
    }

    /// The same tokeniser for a model whose output layer is padded to `size` tokens: ids that only the padding
    /// has decode to nothing instead of being refused. A smaller size changes nothing.
    #[must_use]
    pub fn with_model_vocab_size(mut self, size: usize) -> Self {
        self.model_vocab_size = self.inner.texts.len().max(size);
        self
    }

    /// The tokens of a text. Special tokens that are spelled out in the text are recognised, as chat templates
    /// need; `add_special_tokens` adds those that the tokeniser puts around every text (often a
    /// begin-of-text token), which a rendered template usually spells out itself.
    ///
    /// Takes time (about a microsecond) and memory (about a hundred bytes) per byte of text: limit the text's
    /// length before. Behind a run of more than a million spaces the library stops splitting into words; no text
    /// is lost, but the tokens there are not those that the model was trained with.
    ///
    /// # Errors
    /// When the library cannot handle the text; no known text does that with a well-formed tokeniser.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<TokenId>, EncodeError> {
        let encoding =
            guarded(|| self.inner.library.encode_fast(text, add_special_tokens)).map_err(EncodeError)?;
        let Framing { before, after } = self.inner.framing;
        let frame = |token: Option<TokenId>| token.filter(|_| add_special_tokens);
        let ids = encoding.get_ids().iter().copied();
        Ok(frame(before).into_iter().chain(ids).chain(frame(after)).collect())
    }

    /// The text of tokens, special ones left out if asked. Bytes that are not UTF-8 become U+FFFD, one for each
    /// maximal part of a character (as [`String::from_utf8_lossy`] does).
    ///
    /// # Errors
    /// When a token is not in the vocabulary.
    pub fn decode(&self, tokens: &[TokenId], skip_special_tokens: bool) -> Result<String, DecodeError> {
        let mut detokenizer = Detokenizer::new(self);
        let mut text = String::new();
        for &token in tokens {
            detokenizer.push(self, token, skip_special_tokens, &mut text)?;
        }
        detokenizer.finish(&mut text);
        Ok(text)
    }

    /// One more than the largest token id, added tokens included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.texts.len()
    }

    /// The id of a token as the vocabulary spells it (a byte-level vocabulary spells a space `Ġ`).
    #[must_use]
    pub fn token_to_id(&self, token: &str) -> Option<TokenId> {
        self.inner.library.token_to_id(token)
    }

    /// How the vocabulary spells a token; the text it stands for comes from [`decode`](Self::decode).
    #[must_use]
    pub fn id_to_token(&self, id: TokenId) -> Option<String> {
        self.inner.library.id_to_token(id)
    }

    /// The bytes that a token stands for in the middle of a text, perhaps a part of a character; those of a special
    /// token are its spelling. `None` for an id that is not in the vocabulary.
    #[must_use]
    pub fn token_bytes(&self, id: TokenId) -> Option<&[u8]> {
        self.inner.texts.get(id).map(|text| text.bytes)
    }

    pub(crate) fn texts(&self) -> &TokenTexts {
        &self.inner.texts
    }

    /// Whether an id without a text is one of the model's padding.
    pub(crate) fn is_padding(&self, id: TokenId) -> bool {
        (self.inner.texts.len()..self.model_vocab_size).contains(&(id as usize))
    }

    pub(crate) fn unknown_token(&self, id: TokenId) -> DecodeError {
        DecodeError::UnknownToken { id, vocab_size: self.model_vocab_size }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

/// Runs the library and makes an error of a panic: it indexes and unwraps in places that a malformed
/// `tokenizer.json` can reach (a merge longer than every token, an added token that starts inside the spaces
/// another one takes).
pub(crate) fn guarded<T>(operation: impl FnOnce() -> Result<T, BoxError>) -> Result<T, BoxError> {
    catch_unwind(AssertUnwindSafe(operation))
        .unwrap_or_else(|panic| Err(panic_message(panic.as_ref()).into()))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the tokenizer library panicked: {}", text.unwrap_or("no message"))
}
