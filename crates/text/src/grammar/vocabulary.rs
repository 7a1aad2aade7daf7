//! The vocabulary as grammars see it: the bytes of each token, in a trie.

use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use wayfare_engine::TokenId;

use super::{GrammarCompilerError, quietly};
use crate::Tokenizer;

/// The trie's nodes count their ancestors in ten bits.
const MAX_TOKEN_BYTES: usize = 1_000;

/// The vocabulary, and those of `end_of_text` that are in it.
pub(super) fn environment(
    tokenizer: &Tokenizer,
    end_of_text: &[TokenId],
) -> Result<(TokEnv, Vec<TokenId>), GrammarCompilerError> {
    let texts = tokenizer.texts();
    if !texts.separator().is_empty() {
        return Err(GrammarCompilerError::Separator { separator: texts.separator() });
    }
    let end_of_text: Vec<TokenId> =
        end_of_text.iter().copied().filter(|&token| texts.get(token).is_some()).collect();
    let Some(&first_end) = end_of_text.first() else { return Err(GrammarCompilerError::NoEndOfText) };
    let vocab_size = u32::try_from(texts.len())
        .map_err(|_| GrammarCompilerError::Vocabulary("too many tokens".to_owned()))?;
    let words: Vec<Vec<u8>> = (0..vocab_size)
        .map(|token| word(tokenizer, token, end_of_text.contains(&token)).unwrap_or_default())
        .collect();
    let trie = quietly(|| {
        let trie = TokTrie::from(&TokRxInfo::new(vocab_size, first_end), &words);
        Ok(trie.with_eos_tokens(&end_of_text))
    })
    .map_err(GrammarCompilerError::Vocabulary)?;
    // Not canonical: the model chooses how to spell what the grammar leaves no choice about. Forcing the spelling
    // of the tokeniser would save no computation here, since every token is sampled by itself.
    Ok((Arc::new(ApproximateTokEnv::new(trie)), end_of_text))
}

/// The bytes of a token, or none for a token that no grammar can allow. What is not text (special tokens, the
/// ends of text) is marked by a byte that UTF-8 does not have.
fn word(tokenizer: &Tokenizer, token: TokenId, ends_text: bool) -> Option<Vec<u8>> {
    const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
    let text = tokenizer.texts().get(token)?;
    let word = if text.special || ends_text {
        let spelling = tokenizer.id_to_token(token).unwrap_or_default();
        [&[MARKER], spelling.as_bytes()].concat()
    } else {
        // The byte FF is in no text; a token with it would be taken for a special one.
        Some(text.bytes).filter(|bytes| !bytes.contains(&MARKER))?.to_vec()
    };
    Some(word).filter(|word| word.len() <= MAX_TOKEN_BYTES)
}
