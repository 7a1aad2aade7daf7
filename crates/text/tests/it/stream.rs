//! Incremental decoding on real and on small vocabularies: the deltas are the decoding of the whole.

use std::sync::Arc;

use proptest::prelude::*;
use wayfare_text::{GgufVocabulary, TextOptions, TextStream, Tokenizer};

use crate::gguf_file::DEFAULT_MODEL;

/// All deltas, and the stop string found.
fn stream(tokenizer: &Tokenizer, chunks: &[&[u32]], stop: &[String], skip: bool) -> (String, Option<usize>) {
    let options = TextOptions { stop: stop.into(), skip_special_tokens: skip, ..TextOptions::default() };
    let mut stream = TextStream::new(tokenizer.clone(), &options);
    let mut text = String::new();
    let mut found = None;
    for chunk in chunks {
        let delta = stream.push(chunk).unwrap();
        assert!(found.is_none() || delta == wayfare_text::TextDelta::default(), "text after a stop string");
        text.push_str(&delta.text);
        found = found.or(delta.stop);
    }
    let delta = stream.finish().unwrap();
    assert!(found.is_none() || delta == wayfare_text::TextDelta::default(), "text after a stop string");
    text.push_str(&delta.text);
    (text, found.or(delta.stop))
}

fn one_by_one(tokenizer: &Tokenizer, tokens: &[u32], skip: bool) -> String {
    let chunks: Vec<&[u32]> = tokens.chunks(1).collect();
    stream(tokenizer, &chunks, &[], skip).0
}

/// A SentencePiece vocabulary: all bytes, some characters, a few pieces, special and user-defined tokens.
fn byte_fallback_tokenizer() -> Tokenizer {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>", "<tool>"].map(str::to_owned).into();
    let mut token_types = vec![2, 3, 3, 4];
    tokens.extend((0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")));
    token_types.extend([6; 256]);
    let pieces = ["▁", "▁▁", "a", "b", "▁a", "ab", "▁ab", "é", "日"];
    tokens.extend(pieces.map(str::to_owned));
    token_types.extend([1; 9]);
    let scores = vec![0.0; tokens.len()];
    let vocabulary = GgufVocabulary {
        model: "llama".to_owned(),
        tokens,
        token_types,
        scores,
        bos_token_id: Some(1),
        ..GgufVocabulary::default()
    };
    Tokenizer::from_gguf(&vocabulary).unwrap()
}

#[test]
fn a_stop_string_is_included_when_it_is_asked_for_and_counts_only_after_enough_tokens() {
    let tokenizer = byte_fallback_tokenizer();
    let tokens: Vec<u32> = ["a", "b", "a", "b", "a"].map(|text| tokenizer.token_to_id(text).unwrap()).into();
    let text_of = |include_stop, min_tokens| {
        let stop = Arc::from(["ab".to_owned()]);
        let options = TextOptions { stop, include_stop, min_tokens, ..TextOptions::default() };
        let mut stream = TextStream::new(tokenizer.clone(), &options);
        let delta = stream.push(&tokens).unwrap();
        (delta.text + &stream.finish().unwrap().text, delta.stop)
    };
    assert_eq!(text_of(false, 0), (String::new(), Some(0)));
    assert_eq!(text_of(true, 0), ("ab".to_owned(), Some(0)));
    // The second token completes the first stop string and the fourth the second.
    assert_eq!(text_of(false, 1), (String::new(), Some(0)));
    assert_eq!(text_of(true, 2), ("abab".to_owned(), Some(0)));
    assert_eq!(text_of(false, 4), ("ababa".to_owned(), None));
}

#[test]
fn a_character_is_given_out_when_its_last_byte_has_come() {
    let tokenizer = byte_fallback_tokenizer();
    let byte = |byte: u8| tokenizer.token_to_id(&format!("<0x{byte:02X}>")).unwrap();
    let mut stream = TextStream::new(tokenizer.clone(), &TextOptions::default());
    let mut push = |byte_token: u32| stream.push(&[byte_token]).unwrap().text;
    assert_eq!([push(byte(0xE6)), push(byte(0x97)), push(byte(0xA5))], ["", "", "日"]);
    assert_eq!([push(byte(0xE6)), push(byte(b'x'))], ["", "\u{fffd}x"]);
    assert_eq!([push(byte(0xF0)), push(byte(0x9F))], ["", ""]);
    assert_eq!(stream.finish().unwrap().text, "\u{fffd}");
    assert_eq!(stream.push(&[byte(b'x')]).unwrap().text, "", "nothing after the end");
}

#[test]
fn only_the_space_that_encoding_put_in_front_is_taken_away() {
    let tokenizer = byte_fallback_tokenizer();
    for text in ["ab", " ab", "  ab", "ab  a", "é日", ""] {
        let tokens = tokenizer.encode(text, false).unwrap();
        assert_eq!(one_by_one(&tokenizer, &tokens, true), text);
        assert_eq!(tokenizer.decode(&tokens, true).unwrap(), text);
    }
}

#[test]
fn text_before_a_stop_string_comes_at_once_and_no_part_of_it_ever() {
    let tokenizer = &DEFAULT_MODEL.tokenizer;
    let tokens = tokenizer.encode("The answer is 42.\nUser: more", false).unwrap();
    let stop: Arc<[String]> = Arc::from(["\nUser:".to_owned()]);
    let mut stream = TextStream::new(tokenizer.clone(), &TextOptions { stop, ..TextOptions::default() });
    let deltas: Vec<_> = tokens.iter().map(|&token| stream.push(&[token]).unwrap()).collect();
    let texts: Vec<&str> = deltas.iter().map(|delta| delta.text.as_str()).collect();
    assert_eq!(texts[..6], ["The", " answer", " is", " ", "4", "2"]);
    assert_eq!(texts[6..].concat(), ".");
    assert_eq!(deltas.iter().filter_map(|delta| delta.stop).collect::<Vec<_>>(), [0]);
}

#[test]
fn an_unknown_token_is_an_error() {
    let mut stream = TextStream::new(DEFAULT_MODEL.tokenizer.clone(), &TextOptions::default());
    assert!(stream.push(&[49_152]).is_err());
}

/// Random tokens, with the special ones (the first 17 of the default model) more often than by chance.
fn tokens(size: u32) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(prop_oneof![4 => 0..size, 1 => 0..17_u32], 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn deltas_are_the_decoding_of_the_whole(tokens in tokens(49_152), skip: bool, chunk in 1..5_usize) {
        let tokenizer = &DEFAULT_MODEL.tokenizer;
        let chunks: Vec<&[u32]> = tokens.chunks(chunk).collect();
        let (text, _) = stream(tokenizer, &chunks, &[], skip);
        prop_assert_eq!(text, tokenizer.decode(&tokens, skip).unwrap());
    }

    #[test]
    fn bytes_of_byte_tokens_decode_like_bytes(tokens in prop::collection::vec(0..269_u32, 0..60), skip: bool) {
        let tokenizer = byte_fallback_tokenizer();
        let mut bytes = Vec::new();
        for &token in &tokens {
            let spelling = tokenizer.id_to_token(token).unwrap();
            match (token, spelling.as_str()) {
                (1 | 2, _) if skip => {}
                (4..=259, _) => bytes.push(u8::try_from(token - 4).unwrap()),
                (_, text) => bytes.extend_from_slice(text.replace('▁', " ").as_bytes()),
            }
        }
        let expected = String::from_utf8_lossy(&bytes);
        let expected = expected.strip_prefix(' ').unwrap_or(&expected);
        prop_assert_eq!(tokenizer.decode(&tokens, skip).unwrap(), expected);
        prop_assert_eq!(one_by_one(&tokenizer, &tokens, skip), expected);
    }

    #[test]
    fn stop_strings_cut_the_decoding_of_the_whole(
        tokens in tokens(49_152),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 1..12_usize), 0..5),
        chunk in 1..4_usize,
    ) {
        let tokenizer = &DEFAULT_MODEL.tokenizer;
        let whole = tokenizer.decode(&tokens, true).unwrap();
        let characters: Vec<char> = whole.chars().collect();
        let cut = |(index, len): &(prop::sample::Index, usize)| {
            let start = if characters.is_empty() { 0 } else { index.index(characters.len()) };
            characters.iter().skip(start).take(*len).collect::<String>()
        };
        let stop: Vec<String> = cuts.iter().map(cut).collect();
        let first = whole.char_indices().find_map(|(start, _)| {
            let index = stop.iter().position(|stop| !stop.is_empty() && whole[start..].starts_with(stop))?;
            Some((whole[..start].to_owned(), Some(index)))
        });
        let chunks: Vec<&[u32]> = tokens.chunks(chunk).collect();
        prop_assert_eq!(stream(tokenizer, &chunks, &stop, true), first.unwrap_or((whole, None)));
    }
}
