//! `tokenizer.json` files: decoding against the library's own, and files that are wrong.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wayfare_text::{Tokenizer, TokenizerError};

/// A file in the system's temporary directory that goes away with the value.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn new(name: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wayfare-text-{}-{name}", std::process::id()));
        fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn load(name: &str, content: &Value) -> Result<Tokenizer, TokenizerError> {
    let file = TemporaryFile::new(name, &content.to_string());
    Tokenizer::from_file(&file.0)
}

/// A small tokeniser in the manner of Llama 2, with the decoder given.
pub(crate) fn llama_like(decoder: &Value) -> Value {
    let mut vocabulary = serde_json::Map::new();
    let pieces = ["<unk>", "<s>", "</s>", "▁", "h", "i", "▁h", "hi", "▁hi", "é"].map(str::to_owned);
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    for (id, token) in pieces.into_iter().chain(bytes).enumerate() {
        vocabulary.insert(token, json!(id));
    }
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"},
        "added_tokens": [
            {"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 2, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": decoder,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "vocab": vocabulary,
            "merges": ["▁ h", "h i", "▁h i", "▁ hi"],
        },
    })
}

fn llama_decoder() -> Value {
    json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]})
}

#[test]
fn a_llama_file_encodes_whole_texts_and_decodes_them() {
    let tokenizer = load("llama.json", &llama_like(&llama_decoder())).unwrap();
    let text = "hi hi  hié 日本";
    let ids = tokenizer.encode(text, true).unwrap();
    assert_eq!(ids[..4], [1, 8, 8, 3], "no truncation, no padding, the begin-of-text token in front");
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    assert_eq!(tokenizer.encode("<s>hi</s>", false).unwrap(), [1, 8, 2]);
    assert_eq!(tokenizer.vocab_size(), 266);
}

#[test]
fn every_supported_decoder_decodes_as_the_library_does() {
    let decoders = [
        llama_decoder(),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": false}),
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}),
        json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"Regex": "▁+"}, "content": "_"},
            {"type": "Strip", "content": "h", "start": 1, "stop": 0},
            {"type": "Fuse"},
        ]}),
        json!({"type": "Sequence", "decoders": [{"type": "Sequence", "decoders": [{"type": "Fuse"}]}]}),
        Value::Null,
    ];
    for (place, decoder) in decoders.iter().enumerate() {
        let content = llama_like(decoder);
        let tokenizer = load(&format!("decoder-{place}.json"), &content).unwrap();
        let library = tokenizers::Tokenizer::from_bytes(content.to_string()).unwrap();
        // Byte tokens only as whole characters: the library makes one U+FFFD per byte of a broken run.
        let (c3, a9) = (10 + 0xC3, 10 + 0xA9);
        for ids in [
            &[1, 8, 3, 3, 7, 2, 9, 6][..],
            &[3, 8, c3, a9, 8, c3, a9][..],
            &[1, 2, 6, 5, 3][..],
            &[c3, a9, 1, c3, a9, 3][..],
            &[][..],
        ] {
            for skip in [true, false] {
                // A special token splits a run of byte tokens there, not here; skipping it joins them everywhere.
                let expected = library.decode(ids, skip).unwrap();
                assert_eq!(tokenizer.decode(ids, skip).unwrap(), expected, "{decoder} {ids:?} {skip}");
            }
        }
    }
}

#[test]
fn decoders_that_need_the_whole_text_are_refused_by_name() {
    let cases = [
        (json!({"type": "WordPiece", "prefix": "##", "cleanup": true}), "decoder WordPiece of"),
        (
            json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true}),
            "decoder CTC of",
        ),
        (json!({"type": "BPEDecoder", "suffix": "</w>"}), "decoder BPEDecoder of"),
        (
            json!({"type": "Strip", "content": " ", "start": 0, "stop": 1}),
            "decoder Strip at the end of text of",
        ),
        (
            json!({"type": "Sequence", "decoders": [
                {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "ab"}, "content": " "},
            ]}),
            "decoder Replace after Fuse of",
        ),
    ];
    for (place, (decoder, expected)) in cases.iter().enumerate() {
        let error = load(&format!("refused-{place}.json"), &llama_like(decoder)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn broken_files_are_errors() {
    let missing = Tokenizer::from_file(Path::new("no/such/tokenizer.json")).unwrap_err();
    assert_eq!(missing.to_string(), "cannot read no/such/tokenizer.json");
    let file = TemporaryFile::new("text.json", "{\"model\": ");
    assert!(matches!(Tokenizer::from_file(&file.0), Err(TokenizerError::Invalid { .. })));
    // The library panics on a merge that is longer than every token.
    let mut content = llama_like(&llama_decoder());
    content["model"]["merges"] = json!(["<0x00> <0x01>"]);
    assert!(matches!(load("merge.json", &content), Err(TokenizerError::Invalid { .. })));
    let mut content = llama_like(&llama_decoder());
    content["model"]["vocab"]["far"] = json!(4_000_000_000_u32);
    assert!(matches!(load("far.json", &content), Err(TokenizerError::TokenIdTooLarge { id: 4_000_000_000 })));
}

#[test]
fn text_that_makes_the_library_panic_is_an_error() {
    let mut content = llama_like(&llama_decoder());
    let added = |id: u32, content: &str, lstrip: bool, rstrip: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": lstrip, "rstrip": rstrip,
               "normalized": false, "special": false})
    };
    content["added_tokens"] = json!([added(266, "<x>", false, true), added(267, "  ", true, false)]);
    let tokenizer = load("panic.json", &content).unwrap();
    let error = tokenizer.encode("<x>     hi", false).unwrap_err();
    assert_eq!(error.to_string(), "the text could not be tokenised");
}
