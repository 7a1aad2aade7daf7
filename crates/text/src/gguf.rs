//! Tokenisers from the metadata of GGUF files.
//!
//! Keys and token types are those of the GGUF specification (ggml, `docs/gguf.md`, section "Tokenizer").

use std::collections::{HashMap, HashSet};
use std::error::Error;

use tokenizers::models::bpe::{BPE, BpeBuilder, Merges, Vocab};
use tokenizers::{AddedToken, ModelWrapper};
use wayfare_engine::TokenId;

use crate::template::SpecialTokens;
use crate::tokenizer::Framing;

mod byte_level;
mod sentencepiece;
#[cfg(test)]
mod tests;

use byte_level::PreTokenizer;

/// The longest token, in bytes, that is taken. SentencePiece merges are looked for at every place of a token.
const MAX_TOKEN_BYTES: usize = 4096;

/// The tokeniser's part of a GGUF file's metadata; each field is named for its key.
#[derive(Clone, Debug, Default)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: `gpt2` or `llama`.
    pub model: String,
    /// `tokenizer.ggml.pre`: how a `gpt2` tokeniser splits text into words.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`: the spelling of each token, by id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`: by id, 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    /// Empty if the file has none: all tokens are normal.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.scores`: by id; needed for `llama`.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.merges`: two tokens with a space between them; needed for `gpt2`.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos_token_id: Option<TokenId>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos_token_id: Option<TokenId>,
    /// `tokenizer.ggml.eot_token_id`.
    pub eot_token_id: Option<TokenId>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unknown_token_id: Option<TokenId>,
    /// `tokenizer.ggml.padding_token_id`.
    pub padding_token_id: Option<TokenId>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos_token: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos_token: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`: whether text starts with a space, in a `llama` tokeniser.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

/// What is wrong with the vocabulary of a GGUF file.
#[derive(Debug, thiserror::Error)]
pub enum GgufVocabularyError {
    /// Not one of the kinds of tokeniser that are supported.
    #[error("tokenizer.ggml.model {model:?} is not supported: supported are \"gpt2\" and \"llama\"")]
    UnsupportedModel {
        /// The value in the file.
        model: String,
    },
    /// Not one of the ways to split text that are supported.
    #[error("tokenizer.ggml.pre {pre:?} is not supported: supported are {}", PreTokenizer::supported())]
    UnsupportedPreTokenizer {
        /// The value in the file.
        pre: String,
    },
    /// There are no tokens.
    #[error("tokenizer.ggml.tokens is empty")]
    NoTokens,
    /// A list does not have one entry per token.
    #[error("{key} has {len} entries for {tokens} tokens")]
    WrongLength {
        /// The key of the list.
        key: &'static str,
        /// Its entries.
        len: usize,
        /// How many there should be.
        tokens: usize,
    },
    /// Two tokens are spelled alike.
    #[error("tokens {first} and {second} are both spelled {token:?}")]
    DuplicateToken {
        /// The spelling.
        token: String,
        /// The smaller id.
        first: usize,
        /// The larger id.
        second: usize,
    },
    /// A token is empty or too long.
    #[error("token {id} has {len} bytes: tokens have 1 to {MAX_TOKEN_BYTES}")]
    TokenLength {
        /// The token.
        id: usize,
        /// Its length.
        len: usize,
    },
    /// A number that stands for no type.
    #[error("token {id} has the unknown type {token_type}")]
    UnknownTokenType {
        /// The token.
        id: usize,
        /// The number.
        token_type: i32,
    },
    /// A score by which nothing can be ordered.
    #[error("the score of token {id} is not a number")]
    BadScore {
        /// The token.
        id: usize,
    },
    /// A special token's id is not one of a token.
    #[error("{key} is {id}, but there are only {tokens} tokens")]
    IdOutOfRange {
        /// The key of the id.
        key: &'static str,
        /// The id.
        id: TokenId,
        /// The size of the vocabulary.
        tokens: usize,
    },
    /// A merge is not two tokens that make a third.
    #[error("merge {rank} ({merge:?}) is not two tokens whose joined spelling is a token")]
    BadMerge {
        /// Its place in the list.
        rank: usize,
        /// The entry.
        merge: String,
    },
    /// A token is asked for but not named.
    #[error("{flag} is set, but {id} is missing")]
    MissingId {
        /// The key that asks for it.
        flag: &'static str,
        /// The key that would name it.
        id: &'static str,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ByteLevel(PreTokenizer),
    SentencePiece,
}

impl GgufVocabulary {
    /// What a chat template may print.
    #[must_use]
    pub fn special_tokens(&self) -> SpecialTokens {
        let spelling = |id: Option<TokenId>| self.tokens.get(id? as usize).cloned();
        SpecialTokens {
            bos_token: spelling(self.bos_token_id),
            eos_token: spelling(self.eos_token_id),
            unk_token: spelling(self.unknown_token_id),
            pad_token: spelling(self.padding_token_id),
        }
    }

    /// The tokens that end an answer, in ascending order: those the file names, and control tokens that models
    /// are known to end a turn with. A GGUF file names one end-of-text token, while the model's original
    /// `generation_config.json` often lists several.
    #[must_use]
    pub fn end_of_text_ids(&self) -> Vec<TokenId> {
        const KNOWN: [&str; 9] = [
            "<|eot_id|>",
            "<|eom_id|>",
            "<|im_end|>",
            "<|end|>",
            "<|endoftext|>",
            "<|end_of_text|>",
            "<end_of_turn>",
            "<|END_OF_TURN_TOKEN|>",
            "</s>",
        ];
        let named = [self.eos_token_id, self.eot_token_id].into_iter().flatten();
        let known = (0..)
            .zip(&self.tokens)
            .filter(|&(id, token)| {
                KNOWN.contains(&token.as_str()) && self.token_type(id as usize) == TokenType::Control
            })
            .map(|(id, _)| id);
        let mut ids: Vec<TokenId> = named.chain(known).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Checks everything that [`build`] relies on.
    pub(crate) fn validate(&self) -> Result<(), GgufVocabularyError> {
        let kind = self.kind()?;
        self.validate_tokens()?;
        self.validate_ids()?;
        match kind {
            Kind::ByteLevel(_) => self.validate_merges(),
            Kind::SentencePiece => self.validate_scores(),
        }
    }

    /// The tokens around a text. Files without the keys mean what llama.cpp makes of that.
    pub(crate) fn framing(&self) -> Framing {
        let (bos, eos) = (self.adds_bos(), self.adds_eos());
        Framing { before: self.bos_token_id.filter(|_| bos), after: self.eos_token_id.filter(|_| eos) }
    }

    fn adds_bos(&self) -> bool {
        self.add_bos_token.unwrap_or(match self.kind() {
            Ok(Kind::ByteLevel(pre)) => pre.adds_bos(),
            Ok(Kind::SentencePiece) => true,
            Err(_) => false,
        })
    }

    fn adds_eos(&self) -> bool {
        self.add_eos_token.unwrap_or(false)
    }

    fn kind(&self) -> Result<Kind, GgufVocabularyError> {
        match self.model.as_str() {
            "gpt2" => PreTokenizer::named(self.pre.as_deref()).map(Kind::ByteLevel),
            "llama" => Ok(Kind::SentencePiece),
            model => Err(GgufVocabularyError::UnsupportedModel { model: model.to_owned() }),
        }
    }

    fn token_type(&self, id: usize) -> TokenType {
        self.token_types
            .get(id)
            .and_then(|&number| TokenType::from_number(number))
            .unwrap_or(TokenType::Normal)
    }

    fn validate_tokens(&self) -> Result<(), GgufVocabularyError> {
        if self.tokens.is_empty() {
            return Err(GgufVocabularyError::NoTokens);
        }
        self.validate_length("tokenizer.ggml.token_type", self.token_types.len())?;
        self.validate_length("tokenizer.ggml.scores", self.scores.len())?;
        let mut ids = HashMap::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
                return Err(GgufVocabularyError::TokenLength { id, len: token.len() });
            }
            if let Some(first) = ids.insert(token, id) {
                return Err(GgufVocabularyError::DuplicateToken { token: token.clone(), first, second: id });
            }
        }
        match self
            .token_types
            .iter()
            .enumerate()
            .find(|&(_, &number)| TokenType::from_number(number).is_none())
        {
            Some((id, &token_type)) => Err(GgufVocabularyError::UnknownTokenType { id, token_type }),
            None => Ok(()),
        }
    }

    /// A list is absent or has one entry per token.
    fn validate_length(&self, key: &'static str, len: usize) -> Result<(), GgufVocabularyError> {
        let tokens = self.tokens.len();
        if len == 0 || len == tokens {
            Ok(())
        } else {
            Err(GgufVocabularyError::WrongLength { key, len, tokens })
        }
    }

    fn validate_ids(&self) -> Result<(), GgufVocabularyError> {
        let ids = [
            ("tokenizer.ggml.bos_token_id", self.bos_token_id),
            ("tokenizer.ggml.eos_token_id", self.eos_token_id),
            ("tokenizer.ggml.eot_token_id", self.eot_token_id),
            ("tokenizer.ggml.unknown_token_id", self.unknown_token_id),
            ("tokenizer.ggml.padding_token_id", self.padding_token_id),
        ];
        for (key, id) in ids {
            if let Some(id) = id.filter(|&id| id as usize >= self.tokens.len()) {
                return Err(GgufVocabularyError::IdOutOfRange { key, id, tokens: self.tokens.len() });
            }
        }
        let missing = |flag, id| Err(GgufVocabularyError::MissingId { flag, id });
        if self.add_bos_token == Some(true) && self.bos_token_id.is_none() {
            return missing("tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id");
        }
        if self.add_eos_token == Some(true) && self.eos_token_id.is_none() {
            return missing("tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id");
        }
        Ok(())
    }

    fn validate_merges(&self) -> Result<(), GgufVocabularyError> {
        let key = "tokenizer.ggml.merges";
        // Without merges no text becomes a longer token; a vocabulary of single bytes needs none.
        let is_longer = |&(id, token): &(usize, &String)| {
            self.token_type(id) == TokenType::Normal && token.chars().nth(1).is_some()
        };
        if self.merges.is_empty() && self.tokens.iter().enumerate().any(|entry| is_longer(&entry)) {
            return Err(GgufVocabularyError::WrongLength { key, len: 0, tokens: self.tokens.len() });
        }
        let tokens: HashSet<&str> = self.tokens.iter().map(String::as_str).collect();
        for (rank, merge) in self.merges.iter().enumerate() {
            let makes_token = split_merge(merge).is_some_and(|(left, right)| {
                [left, right, &format!("{left}{right}")].into_iter().all(|token| tokens.contains(token))
            });
            if !makes_token {
                return Err(GgufVocabularyError::BadMerge { rank, merge: merge.clone() });
            }
        }
        Ok(())
    }

    fn validate_scores(&self) -> Result<(), GgufVocabularyError> {
        if self.scores.is_empty() {
            let key = "tokenizer.ggml.scores";
            return Err(GgufVocabularyError::WrongLength { key, len: 0, tokens: self.tokens.len() });
        }
        match self.scores.iter().position(|score| score.is_nan()) {
            Some(id) => Err(GgufVocabularyError::BadScore { id }),
            None => Ok(()),
        }
    }

    /// Control and user-defined tokens, which are found in text as they are spelled.
    fn added_tokens(&self) -> impl Iterator<Item = AddedToken> + '_ {
        self.tokens.iter().enumerate().filter_map(|(id, token)| {
            let special = match self.token_type(id) {
                TokenType::Control => true,
                TokenType::UserDefined => false,
                TokenType::Normal | TokenType::Unknown | TokenType::Unused | TokenType::Byte => return None,
            };
            Some(AddedToken::from(token.as_str(), special).normalized(false))
        })
    }
}

impl TokenType {
    fn from_number(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::Normal),
            2 => Some(Self::Unknown),
            3 => Some(Self::Control),
            4 => Some(Self::UserDefined),
            5 => Some(Self::Unused),
            6 => Some(Self::Byte),
            _ => None,
        }
    }
}

/// Builds the library's tokeniser of a validated vocabulary.
pub(crate) fn build(
    vocabulary: &GgufVocabulary,
) -> Result<tokenizers::Tokenizer, Box<dyn Error + Send + Sync>> {
    let mut library = match vocabulary.kind()? {
        Kind::ByteLevel(pre) => byte_level::build(vocabulary, pre)?,
        Kind::SentencePiece => sentencepiece::build(vocabulary)?,
    };
    library.add_tokens(vocabulary.added_tokens())?;
    Ok(library)
}

/// The two tokens of a merge. The first space that is not the first character divides them.
fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let (space, _) = merge.char_indices().skip(1).find(|&(_, character)| character == ' ')?;
    Some((&merge[..space], &merge[space + 1..]))
}

fn bpe(vocabulary: &GgufVocabulary, merges: Merges) -> BpeBuilder {
    let ids = (0..).zip(&vocabulary.tokens).map(|(id, token)| (token.clone(), id));
    BPE::builder().vocab_and_merges(ids.collect::<Vocab>(), merges)
}

fn library(model: BPE) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::new(ModelWrapper::BPE(model))
}
