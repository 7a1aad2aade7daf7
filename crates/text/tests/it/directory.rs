//! Model directories as Hugging Face lays them out.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wayfare_text::{RenderOptions, TextFiles};

use crate::tokenizer_json::llama_like;

/// A model directory in the system's temporary directory that goes away with the value.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wayfare-text-{}-dir-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("additional_chat_templates")).unwrap();
        let decoder = json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]});
        let directory = Self(path);
        directory.json("tokenizer.json", &llama_like(&decoder))
    }

    fn json(self, name: &str, content: &Value) -> Self {
        self.text(name, &content.to_string())
    }

    fn text(self, name: &str, content: &str) -> Self {
        fs::write(self.0.join(name), content).unwrap();
        self
    }

    fn read(&self) -> TextFiles {
        TextFiles::read(&self.0).unwrap()
    }

    fn refusal(&self) -> String {
        TextFiles::read(&self.0).unwrap_err().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn render(files: &TextFiles, tools: Option<Value>) -> String {
    let options = RenderOptions { tools, ..RenderOptions::default() };
    files.chat_template.as_ref().unwrap().render(&json!([]), &options).unwrap()
}

#[test]
fn a_bare_directory_has_a_tokenizer_only() {
    let files = Directory::new("bare").read();
    assert!(files.chat_template.is_none());
    assert!(files.end_of_text.is_empty());
    assert_eq!(files.tokenizer.vocab_size(), 266);
}

#[test]
fn special_tokens_may_be_texts_or_objects() {
    let files = Directory::new("special")
        .json(
            "tokenizer_config.json",
            &json!({
                "bos_token": "<s>",
                "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": false},
                "unk_token": null,
                "chat_template": "{{ bos_token }}{{ eos_token }}{{ unk_token is defined }}",
            }),
        )
        .read();
    assert_eq!(render(&files, None), "<s></s>False");
    assert_eq!(files.end_of_text, [2]);
}

#[test]
fn the_generation_config_says_where_answers_end() {
    let config = json!({"eos_token_id": [7, 1]});
    let directory = Directory::new("generation").json("generation_config.json", &config);
    assert_eq!(directory.read().end_of_text, [1, 7]);
    // What the model's configuration says counts only when there is nothing better.
    let directory = directory.json("config.json", &json!({"eos_token_id": 4, "hidden_size": 8}));
    assert_eq!(directory.read().end_of_text, [1, 7]);
    let directory = directory.json("generation_config.json", &json!({"temperature": 0.6}));
    let directory = directory.json("tokenizer_config.json", &json!({"eos_token": "</s>"}));
    assert_eq!(directory.read().end_of_text, [2, 4]);
}

#[test]
fn templates_may_be_a_list() {
    let files = Directory::new("list")
        .json(
            "tokenizer_config.json",
            &json!({"chat_template": [
                {"name": "default", "template": "plain"},
                {"name": "tool_use", "template": "{{ tools | length }} tools"},
            ]}),
        )
        .read();
    assert_eq!(render(&files, None), "plain");
    assert_eq!(render(&files, Some(json!([{}, {}]))), "2 tools");
}

#[test]
fn a_template_file_counts_before_the_configuration() {
    let directory = Directory::new("file")
        .json("tokenizer_config.json", &json!({"chat_template": "configuration"}))
        .text("chat_template.jinja", "file");
    assert_eq!(render(&directory.read(), Some(json!([]))), "file");
    let directory = directory.text("additional_chat_templates/tool_use.jinja", "tools");
    assert_eq!(render(&directory.read(), Some(json!([]))), "tools");
    assert_eq!(render(&directory.read(), None), "file");
}

#[test]
fn what_is_wrong_is_named() {
    let directory = Directory::new("wrong").text("tokenizer_config.json", "{");
    assert!(directory.refusal().ends_with("tokenizer_config.json is not valid"));
    let directory = directory.json("tokenizer_config.json", &json!({"eos_token": "<nope>"}));
    assert!(directory.refusal().ends_with("end-of-text token \"<nope>\" is not in the vocabulary"));
    let directory = directory.json("tokenizer_config.json", &json!({"chat_template": "{% endfor %}"}));
    assert_eq!(directory.refusal(), "chat template \"default\" is not valid");
    let missing = TextFiles::read(Path::new("no/such/model")).unwrap_err();
    assert_eq!(missing.to_string(), "cannot read no/such/model/tokenizer.json");
}
