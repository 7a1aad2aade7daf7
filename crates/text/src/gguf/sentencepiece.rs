//! SentencePiece BPE (`tokenizer.ggml.model` = `llama`).
//!
//! SentencePiece joins the neighbours whose joined spelling has the best score; BPE joins those whose merge
//! comes first. So the merges are all ways to make a token of two others, best score first, as in Hugging
//! Face's conversion of such tokenisers (transformers, `convert_slow_tokenizer.py`, `generate_merges`).

use std::cmp::Ordering;
use std::collections::HashMap;
use std::error::Error;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::Merges;
use tokenizers::normalizers::{Prepend, Replace, Sequence as NormalizerSequence};
use tokenizers::{NormalizerWrapper, Tokenizer};

use super::{GgufVocabulary, TokenType, bpe, library};

/// Stands for a space in tokens.
const SPACE: &str = "\u{2581}";

pub(super) fn build(vocabulary: &GgufVocabulary) -> Result<Tokenizer, Box<dyn Error + Send + Sync>> {
    let mut builder = bpe(vocabulary, merges(vocabulary)).byte_fallback(true).fuse_unk(true);
    // SentencePiece's own default.
    let unknown = vocabulary.unknown_token_id.unwrap_or(0);
    if let Some(token) = vocabulary.tokens.get(unknown as usize) {
        builder = builder.unk_token(token.clone());
    }
    let mut tokenizer = library(builder.build()?);

    let space_prefix = vocabulary.add_space_prefix.unwrap_or(true);
    let mut normalizers = Vec::new();
    let mut decoders = vec![
        DecoderWrapper::Replace(Replace::new(SPACE, " ")?),
        DecoderWrapper::ByteFallback(ByteFallback::new()),
        DecoderWrapper::Fuse(Fuse::new()),
    ];
    if space_prefix {
        normalizers.push(NormalizerWrapper::Prepend(Prepend::new(SPACE.to_owned())));
        decoders.push(DecoderWrapper::Strip(Strip::new(' ', 1, 0)));
    }
    normalizers.push(NormalizerWrapper::Replace(Replace::new(" ", SPACE)?));
    tokenizer.with_normalizer(Some(NormalizerSequence::new(normalizers)))?;
    tokenizer.with_decoder(Some(DecoderSequence::new(decoders)));
    Ok(tokenizer)
}

struct Merge<'a> {
    left: (&'a str, usize),
    right: (&'a str, usize),
    score: f32,
}

/// All merges, in the order in which they are to be applied.
fn merges(vocabulary: &GgufVocabulary) -> Merges {
    let pieces: HashMap<&str, usize> = (vocabulary.tokens.iter().enumerate())
        .filter(|&(id, _)| matches!(vocabulary.token_type(id), TokenType::Normal | TokenType::UserDefined))
        .map(|(id, token)| (token.as_str(), id))
        .collect();
    let mut merges = Vec::new();
    for (&piece, &id) in &pieces {
        let score = vocabulary.scores.get(id).copied().unwrap_or_default();
        for (place, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(place);
            if let (Some(&left_id), Some(&right_id)) = (pieces.get(left), pieces.get(right)) {
                merges.push(Merge { left: (left, left_id), right: (right, right_id), score });
            }
        }
    }
    merges.sort_unstable_by(order);
    merges.into_iter().map(|merge| (merge.left.0.to_owned(), merge.right.0.to_owned())).collect()
}

/// Best score first. Among equals the longer left part first, then the longer right part, as the conversion has
/// it; then by id, so that the order is the same every time.
fn order(one: &Merge<'_>, other: &Merge<'_>) -> Ordering {
    let lengths = |merge: &Merge<'_>| (merge.left.0.chars().count(), merge.right.0.chars().count());
    let ids = |merge: &Merge<'_>| (merge.left.1, merge.right.1);
    other
        .score
        .total_cmp(&one.score)
        .then_with(|| lengths(other).cmp(&lengths(one)))
        .then_with(|| ids(one).cmp(&ids(other)))
}
