//! Grammars with the default model's vocabulary, whose tokens are longer than the grammar's symbols.

use std::sync::LazyLock;

use serde_json::Value;
use wayfare_engine::{OutputGrammar, TokenId, TokenSet};
use wayfare_text::{GrammarCompiler, ReasoningFormat};

use crate::gguf_file::DEFAULT_MODEL;

static COMPILER: LazyLock<GrammarCompiler> =
    LazyLock::new(|| GrammarCompiler::new(&DEFAULT_MODEL.tokenizer, &DEFAULT_MODEL.end_of_text).unwrap());

fn vocabulary() -> TokenSet {
    TokenSet::empty(u32::try_from(DEFAULT_MODEL.tokenizer.vocab_size()).unwrap())
}

/// What a model of no preferences says: any allowed token, from a fixed pseudo-random sequence; the end where it
/// is allowed and, in one of four cases, chosen.
fn babble(grammar: &OutputGrammar, seed: u64) -> String {
    babble_behind(grammar, "", seed)
}

/// The same behind the beginning of an answer, reasoning in `<think>` included.
fn babble_behind(grammar: &OutputGrammar, beginning: &str, seed: u64) -> String {
    let prompt = if beginning.is_empty() { "<think></think>" } else { "" };
    let parser = ReasoningFormat::Qwen3.start(prompt);
    let mut constraint = COMPILER.compile(grammar).unwrap().constraint_behind(&parser).matcher;
    let (mut allowed, mut tokens): (TokenSet, Vec<TokenId>) = (vocabulary(), Vec::new());
    for token in DEFAULT_MODEL.tokenizer.encode(beginning, false).unwrap() {
        constraint.allow(&mut allowed).unwrap();
        assert!(allowed.contains(token), "{token} of {beginning:?}");
        constraint.accept(token).unwrap();
    }
    let mut state = seed;
    for _ in 0..4_000 {
        constraint.allow(&mut allowed).unwrap();
        let possible: Vec<TokenId> =
            (0..allowed.vocab_size()).filter(|token| allowed.contains(*token)).collect();
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = usize::try_from(state >> 33).unwrap();
        let end = DEFAULT_MODEL.end_of_text.iter().find(|end| possible.contains(end)).copied();
        let token = match end {
            Some(end) if random.is_multiple_of(4) || possible.len() == 1 => end,
            _ => possible[random / 4 % possible.len()],
        };
        constraint.accept(token).unwrap();
        if DEFAULT_MODEL.end_of_text.contains(&token) {
            return DEFAULT_MODEL.tokenizer.decode(&tokens, false).unwrap();
        }
        tokens.push(token);
    }
    panic!("{grammar:?} did not end: {}", DEFAULT_MODEL.tokenizer.decode(&tokens, false).unwrap());
}

#[test]
fn whatever_the_model_prefers_the_schema_holds() {
    let schema = r#"{"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 12},
        "size": {"enum": ["small", "large"]},
        "counts": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 9}, "maxItems": 3}
    }, "required": ["name", "size", "counts"], "additionalProperties": false}"#;
    for seed in 0..20 {
        let text = babble(&OutputGrammar::JsonSchema(schema.into()), seed);
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(value["name"].as_str().unwrap().chars().count() <= 12, "{text}");
        assert!(["small", "large"].contains(&value["size"].as_str().unwrap()), "{text}");
        let counts = value["counts"].as_array().unwrap();
        assert!(
            counts.len() <= 3 && counts.iter().all(|count| (1..=9).contains(&count.as_u64().unwrap())),
            "{text}"
        );
        assert_eq!(value.as_object().unwrap().len(), 3, "{text}");
    }
}

#[test]
fn a_choice_is_made_whatever_the_tokens_are() {
    let choices = ["Paris", "Parisian", "London, of course", "ë🙂"].map(String::from);
    let grammar = OutputGrammar::Choice(choices.clone().into());
    let mut seen = Vec::new();
    for seed in 0..30 {
        let text = babble(&grammar, seed);
        assert!(choices.contains(&text), "{text}");
        seen.push(text);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), choices.len());
}

#[test]
fn the_answer_behind_reasoning_is_what_was_asked_for() {
    let choices = ["Paris", "London, of course"].map(String::from);
    let grammar = OutputGrammar::Choice(choices.clone().into());
    for beginning in ["<think>Hm</think>", "<think>\nLondon? No, </thinking>!\n\n</think>"] {
        let ids = DEFAULT_MODEL.tokenizer.encode(beginning, false).unwrap();
        assert!(ids.len() > 5, "the tags are in pieces here");
        for seed in 0..10 {
            let text = babble_behind(&grammar, beginning, seed);
            assert!(choices.contains(&text), "{text}");
        }
    }
}

#[test]
fn special_tokens_are_never_text() {
    let compiled = COMPILER.compile(&OutputGrammar::Regex("(.|\n)*".into())).unwrap();
    let mut allowed = vocabulary();
    let mut constraint = compiled.constraint().matcher;
    constraint.allow(&mut allowed).unwrap();
    let tokenizer = &DEFAULT_MODEL.tokenizer;
    let start_of_turn = tokenizer.token_to_id("<|im_start|>").unwrap();
    assert!(!allowed.contains(start_of_turn));
    assert!(constraint.accept(start_of_turn).is_err());
    let count = (0..allowed.vocab_size()).filter(|token| allowed.contains(*token)).count();
    assert!(count > 48_000, "only {count} tokens are text");
}
