//! What a file may get wrong, and a SentencePiece vocabulary small enough to follow.

use super::{GgufVocabulary, GgufVocabularyError};
use crate::tokenizer::{Tokenizer, TokenizerError};

fn strings(strings: &[&str]) -> Vec<String> {
    strings.iter().map(|&string| string.to_owned()).collect()
}

fn byte_level() -> GgufVocabulary {
    GgufVocabulary {
        model: "gpt2".to_owned(),
        pre: Some("gpt-2".to_owned()),
        tokens: strings(&["<|end|>", "<tool>", "a", "b", "c", "Ġ", "ab", "Ġa", "abc"]),
        token_types: vec![3, 4, 1, 1, 1, 1, 1, 1, 1],
        merges: strings(&["a b", "Ġ a", "ab c"]),
        eos_token_id: Some(0),
        ..GgufVocabulary::default()
    }
}

/// Scores as SentencePiece gives them: the negative of the order in which pieces were learnt.
fn sentencepiece() -> GgufVocabulary {
    let mut tokens = strings(&["<unk>", "<s>", "</s>"]);
    let mut token_types = vec![2, 3, 3];
    tokens.extend((0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")));
    token_types.extend([6; 256]);
    tokens.extend(strings(&["▁t", "he", "▁the", "in", "▁", "t", "h", "e", "i", "n"]));
    token_types.extend([1; 10]);
    let mut scores = vec![0.0; 259];
    scores.extend((0_u8..10).map(|order| -f32::from(order)));
    GgufVocabulary {
        model: "llama".to_owned(),
        tokens,
        token_types,
        scores,
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        unknown_token_id: Some(0),
        ..GgufVocabulary::default()
    }
}

fn refusal(vocabulary: &GgufVocabulary) -> GgufVocabularyError {
    match Tokenizer::from_gguf(vocabulary) {
        Err(TokenizerError::Gguf(error)) => error,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn a_small_vocabulary_merges_and_finds_its_added_tokens() {
    let tokenizer = Tokenizer::from_gguf(&byte_level()).unwrap();
    assert_eq!(tokenizer.encode("abc a<tool>b<|end|>", true).unwrap(), [8, 7, 1, 3, 0]);
    assert_eq!(tokenizer.decode(&[8, 7, 1, 3, 0], true).unwrap(), "abc a<tool>b");
    assert_eq!(tokenizer.decode(&[8, 7, 1, 3, 0], false).unwrap(), "abc a<tool>b<|end|>");
    assert_eq!(tokenizer.vocab_size(), 9);
}

#[test]
fn an_unknown_token_is_refused_unless_it_is_padding_of_the_model() {
    let tokenizer = Tokenizer::from_gguf(&byte_level()).unwrap();
    let error = tokenizer.decode(&[2, 9], true).unwrap_err();
    assert_eq!(error.to_string(), "token 9 is not in the vocabulary of 9 tokens");
    let padded = tokenizer.with_model_vocab_size(10);
    assert_eq!(padded.decode(&[2, 9], true).unwrap(), "a");
    assert!(padded.decode(&[10], true).is_err());
    assert!(padded.decode(&[u32::MAX], true).is_err());
}

#[test]
fn sentencepiece_merges_by_score_and_falls_back_to_bytes() {
    let tokenizer = Tokenizer::from_gguf(&sentencepiece()).unwrap();
    let id = |token: &str| tokenizer.token_to_id(token).unwrap();
    // ▁t scores best of all, then he, then ▁the of ▁t and he.
    assert_eq!(tokenizer.encode("the", true).unwrap(), [1, id("▁the")]);
    assert_eq!(tokenizer.encode("the", false).unwrap(), [id("▁the")]);
    let tokens = tokenizer.encode("in é", false).unwrap();
    assert_eq!(tokens, [id("▁"), id("in"), id("▁"), id("<0xC3>"), id("<0xA9>")]);
    assert_eq!(tokenizer.decode(&tokens, true).unwrap(), "in é");
    assert_eq!(tokenizer.decode(&tokens[..4], true).unwrap(), "in \u{fffd}");
    // Text behind a special token begins with a space of its own.
    assert_eq!(tokenizer.encode("<s>the</s>", false).unwrap(), [1, id("▁the"), 2]);
}

#[test]
fn sentencepiece_without_the_leading_space() {
    let vocabulary = GgufVocabulary {
        add_space_prefix: Some(false),
        add_bos_token: Some(false),
        add_eos_token: Some(true),
        ..sentencepiece()
    };
    let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
    let id = |token: &str| tokenizer.token_to_id(token).unwrap();
    assert_eq!(tokenizer.encode("the the", true).unwrap(), [id("t"), id("he"), id("▁the"), 2]);
    assert_eq!(tokenizer.decode(&[id("▁the")], true).unwrap(), " the");
}

#[test]
fn tokens_that_end_answers_are_those_named_and_those_known() {
    let mut vocabulary = byte_level();
    vocabulary.tokens.extend(strings(&["<|im_end|>", "<|eot_id|>"]));
    // The second is spelled like one, but is text.
    vocabulary.token_types.extend([3, 1]);
    vocabulary.eos_token_id = Some(2);
    assert_eq!(vocabulary.end_of_text_ids(), [0, 2, 9]);
}

#[test]
fn a_contradictory_file_is_refused_with_the_reason() {
    let base = byte_level;
    let cases = [
        (
            GgufVocabulary { model: "bert".to_owned(), ..base() },
            "tokenizer.ggml.model \"bert\" is not supported",
        ),
        (GgufVocabulary { pre: Some("viking".to_owned()), ..base() }, "supported are default, gpt-2"),
        (GgufVocabulary { tokens: Vec::new(), ..base() }, "tokenizer.ggml.tokens is empty"),
        (GgufVocabulary { token_types: vec![1], ..base() }, "token_type has 1 entries for 9 tokens"),
        (GgufVocabulary { token_types: vec![7; 9], ..base() }, "token 0 has the unknown type 7"),
        (
            GgufVocabulary { bos_token_id: Some(9), ..base() },
            "bos_token_id is 9, but there are only 9 tokens",
        ),
        (GgufVocabulary { merges: strings(&["a x"]), ..base() }, "merge 0 (\"a x\")"),
        (GgufVocabulary { merges: strings(&["b c"]), ..base() }, "merge 0 (\"b c\")"),
        (GgufVocabulary { merges: strings(&["ab"]), ..base() }, "merge 0 (\"ab\")"),
        (GgufVocabulary { merges: strings(&[""]), ..base() }, "merge 0 (\"\")"),
        (GgufVocabulary { merges: Vec::new(), ..base() }, "tokenizer.ggml.merges has 0 entries"),
        (
            GgufVocabulary { add_bos_token: Some(true), ..base() },
            "add_bos_token is set, but tokenizer.ggml.bos_token_id is missing",
        ),
        (
            GgufVocabulary { scores: vec![f32::NAN; 269], ..sentencepiece() },
            "the score of token 0 is not a number",
        ),
        (GgufVocabulary { scores: Vec::new(), ..sentencepiece() }, "tokenizer.ggml.scores has 0 entries"),
    ];
    for (vocabulary, expected) in cases {
        let message = refusal(&vocabulary).to_string();
        assert!(message.contains(expected), "{message:?} does not contain {expected:?}");
    }
    let mut duplicate = base();
    duplicate.tokens[8] = "a".to_owned();
    assert_eq!(refusal(&duplicate).to_string(), "tokens 2 and 8 are both spelled \"a\"");
    let mut empty = base();
    empty.tokens[8] = String::new();
    assert!(refusal(&empty).to_string().starts_with("token 8 has 0 bytes"));
}

#[test]
fn every_way_to_split_text_that_is_listed_can_be_built() {
    // A word, a digit group and spaces: the pieces that the ways differ in.
    let text = "I'LL pay 12345.67 for  naïve\r\n\r\n  Ünïcode ";
    let pieces = |pre: &str| {
        let mut tokens: Vec<String> = (0x21..0x7f_u8).map(|byte| char::from(byte).to_string()).collect();
        tokens.extend((0xa1..0x144_u32).filter_map(char::from_u32).map(String::from));
        let merges = strings(&["1 2"]);
        tokens.push("12".to_owned());
        let vocabulary = GgufVocabulary {
            model: "gpt2".to_owned(),
            pre: Some(pre.to_owned()),
            tokens,
            merges,
            ..Default::default()
        };
        let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{pre}");
        let merged = tokenizer.token_to_id("12").unwrap();
        ids.contains(&merged)
    };
    for pre in ["default", "gpt-2", "llama-bpe", "llama3", "smaug-bpe", "pixtral", "phi-2", "olmo"] {
        assert!(pieces(pre), "{pre} keeps digits together");
    }
    for pre in ["smollm", "starcoder", "refact", "qwen2", "deepseek-r1-qwen", "tekken"] {
        assert!(!pieces(pre), "{pre} splits digits");
    }
}
