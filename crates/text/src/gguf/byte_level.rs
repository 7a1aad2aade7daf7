//! Byte-level BPE (`tokenizer.ggml.model` = `gpt2`).
//!
//! The expressions that split text into words are those of the models' own `tokenizer.json`; which name stands
//! for which is llama.cpp's convention (`src/llama-vocab.cpp`).

use std::error::Error;

use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

use super::{GgufVocabulary, GgufVocabularyError, bpe, library, split_merge};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is split into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PreTokenizer {
    /// What llama.cpp does when a file does not say.
    Default,
    Gpt2,
    /// Each digit alone, then as GPT-2.
    Digits,
    Llama3,
    /// Llama 3's expression, but words that are tokens are merged like all others.
    Smaug,
    Qwen2,
    /// Qwen2's expression without its normalisation.
    DeepseekQwen,
    Tekken,
}

impl PreTokenizer {
    const NAMES: [(&'static str, Self); 17] = [
        ("default", Self::Default),
        ("gpt-2", Self::Gpt2),
        ("gpt2", Self::Gpt2),
        ("phi-2", Self::Gpt2),
        ("olmo", Self::Gpt2),
        ("smollm", Self::Digits),
        ("starcoder", Self::Digits),
        ("refact", Self::Digits),
        ("llama-bpe", Self::Llama3),
        ("llama3", Self::Llama3),
        ("llama-v3", Self::Llama3),
        ("falcon3", Self::Llama3),
        ("pixtral", Self::Llama3),
        ("smaug-bpe", Self::Smaug),
        ("qwen2", Self::Qwen2),
        ("deepseek-r1-qwen", Self::DeepseekQwen),
        ("tekken", Self::Tekken),
    ];

    /// The one that a file names.
    pub(super) fn named(pre: Option<&str>) -> Result<Self, GgufVocabularyError> {
        let pre = pre.unwrap_or("default");
        let known = Self::NAMES.iter().find(|(name, _)| *name == pre);
        known
            .map(|&(_, kind)| kind)
            .ok_or_else(|| GgufVocabularyError::UnsupportedPreTokenizer { pre: pre.to_owned() })
    }

    /// The names of all, for messages.
    pub(super) fn supported() -> String {
        Self::NAMES.map(|(name, _)| name).join(", ")
    }

    /// Whether a begin-of-text token is added when the file does not say.
    pub(super) fn adds_bos(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }

    /// Whether a word that is a token becomes that token, whatever the merges say.
    fn ignores_merges(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }

    /// Qwen2's `tokenizer.json` composes characters first.
    fn composes(self) -> bool {
        self == Self::Qwen2
    }

    /// The expressions by which text is split, one after the other; what they leave between matches is a piece
    /// too.
    fn expressions(self) -> &'static [&'static str] {
        match self {
            Self::Default => &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
            Self::Gpt2 => &[GPT2],
            Self::Digits => &[r"\p{N}", GPT2],
            Self::Llama3 | Self::Smaug => &[LLAMA3],
            Self::Qwen2 | Self::DeepseekQwen => &[QWEN2],
            Self::Tekken => &[TEKKEN],
        }
    }
}

pub(super) fn build(
    vocabulary: &GgufVocabulary,
    pre: PreTokenizer,
) -> Result<Tokenizer, Box<dyn Error + Send + Sync>> {
    let pair = |merge: &String| split_merge(merge).map(|(left, right)| (left.to_owned(), right.to_owned()));
    let merges = vocabulary.merges.iter().filter_map(pair).collect();
    let mut tokenizer = library(bpe(vocabulary, merges).ignore_merges(pre.ignores_merges()).build()?);
    let mut steps = Vec::new();
    for expression in pre.expressions() {
        let pattern = SplitPattern::Regex((*expression).to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
        steps.push(PreTokenizerWrapper::Split(split));
    }
    steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)));
    tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(steps))));
    if pre.composes() {
        tokenizer.with_normalizer(Some(NFC))?;
    }
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}
