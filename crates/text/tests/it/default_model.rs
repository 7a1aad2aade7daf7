//! The default model's tokeniser and template against what other implementations made of the same file.

use serde::Deserialize;
use serde_json::json;
use wayfare_text::RenderOptions;

use crate::gguf_file::DEFAULT_MODEL;

#[derive(Deserialize)]
struct Chats {
    cases: Vec<Chat>,
}

#[derive(Deserialize)]
struct Chat {
    prompt: String,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    text: String,
}

#[derive(Deserialize)]
struct Encodings {
    cases: Vec<Encoding>,
}

#[derive(Deserialize)]
struct Encoding {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

#[test]
fn chat_prompts_have_the_tokens_of_the_reference() {
    let chats: Chats = serde_json::from_str(include_str!("../data/smollm2_chat.json")).unwrap();
    assert_eq!(chats.cases.len(), 3);
    let template = DEFAULT_MODEL.chat_template.as_ref().unwrap();
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    for chat in chats.cases {
        let messages = json!([{"role": "user", "content": chat.prompt}]);
        let prompt = template.render(&messages, &options).unwrap();
        assert_eq!(DEFAULT_MODEL.tokenizer.encode(&prompt, false).unwrap(), chat.prompt_ids, "{prompt}");
        assert_eq!(DEFAULT_MODEL.tokenizer.decode(&chat.prompt_ids, false).unwrap(), prompt);
        assert_eq!(DEFAULT_MODEL.tokenizer.decode(&chat.greedy_ids, true).unwrap(), chat.text);
    }
}

#[test]
fn tricky_texts_have_the_tokens_of_other_implementations() {
    let encodings: Encodings = serde_json::from_str(include_str!("../data/smollm2_encodings.json")).unwrap();
    assert!(encodings.cases.len() > 30);
    for case in encodings.cases {
        let ids = DEFAULT_MODEL.tokenizer.encode(&case.text, false).unwrap();
        assert_eq!(ids, case.ids, "{:?}", case.text);
        // The file does not ask for a begin-of-text token.
        assert_eq!(DEFAULT_MODEL.tokenizer.encode(&case.text, true).unwrap(), case.ids);
        assert_eq!(DEFAULT_MODEL.tokenizer.decode(&ids, false).unwrap(), case.decoded);
    }
}

#[test]
fn the_vocabulary_is_that_of_the_file() {
    let tokenizer = &DEFAULT_MODEL.tokenizer;
    assert_eq!(tokenizer.vocab_size(), 49_152);
    assert_eq!(tokenizer.token_to_id("<|im_end|>"), Some(2));
    assert_eq!(tokenizer.id_to_token(260).as_deref(), Some("Ġthe"));
    assert_eq!((tokenizer.token_to_id("no such token"), tokenizer.id_to_token(49_152)), (None, None));
    assert_eq!(DEFAULT_MODEL.end_of_text, [0, 2]);
}

#[test]
fn huge_words_and_huge_runs_of_spaces_come_back_whole() {
    let tokenizer = &DEFAULT_MODEL.tokenizer;
    for text in ["a".repeat(300_000), " ".repeat(300_000), "\n x".repeat(100_000), "日".repeat(100_000)] {
        let ids = tokenizer.encode(&text, false).unwrap();
        assert!(tokenizer.decode(&ids, false).unwrap() == text, "{:?}", text.chars().next());
    }
}
