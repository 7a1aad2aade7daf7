//! The tokeniser's metadata of a GGUF file, read without the model's crates (GGUF version 3, ggml `docs/gguf.md`).

use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::LazyLock;

use wayfare_testkit::default_model_path;
use wayfare_text::{GgufVocabulary, TextFiles};

/// The default model's vocabulary.
pub(crate) static DEFAULT_VOCABULARY: LazyLock<GgufVocabulary> = LazyLock::new(|| {
    let path = default_model_path();
    let file = File::open(&path).unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
    Metadata { file: BufReader::new(file) }.vocabulary()
});

/// Everything that the default model says about text.
pub(crate) static DEFAULT_MODEL: LazyLock<TextFiles> =
    LazyLock::new(|| TextFiles::from_gguf(&DEFAULT_VOCABULARY).unwrap());

enum Value {
    Number(u64),
    Float(f32),
    Text(String),
    List(Vec<Value>),
    Other,
}

struct Metadata {
    file: BufReader<File>,
}

impl Metadata {
    fn vocabulary(mut self) -> GgufVocabulary {
        assert_eq!(self.bytes::<4>(), *b"GGUF");
        assert_eq!(self.number::<4>(), 3, "GGUF version");
        self.number::<8>();
        let mut vocabulary = GgufVocabulary::default();
        for _ in 0..self.number::<8>() {
            let key = self.text();
            let kind = self.number::<4>();
            let value = self.value(kind);
            let Some(key) = key.strip_prefix("tokenizer.") else { continue };
            match (key, value) {
                ("ggml.model", Value::Text(text)) => vocabulary.model = text,
                ("ggml.pre", Value::Text(text)) => vocabulary.pre = Some(text),
                ("ggml.tokens", Value::List(list)) => vocabulary.tokens = texts(list),
                ("ggml.merges", Value::List(list)) => vocabulary.merges = texts(list),
                ("ggml.token_type", Value::List(list)) => {
                    vocabulary.token_types =
                        list.iter().map(|value| i32::try_from(value.number()).unwrap()).collect();
                }
                ("ggml.scores", Value::List(list)) => {
                    vocabulary.scores = list.iter().map(Value::float).collect()
                }
                ("ggml.bos_token_id", value) => vocabulary.bos_token_id = Some(value.id()),
                ("ggml.eos_token_id", value) => vocabulary.eos_token_id = Some(value.id()),
                ("ggml.unknown_token_id", value) => vocabulary.unknown_token_id = Some(value.id()),
                ("ggml.padding_token_id", value) => vocabulary.padding_token_id = Some(value.id()),
                ("ggml.add_bos_token", value) => vocabulary.add_bos_token = Some(value.number() != 0),
                ("ggml.add_space_prefix", value) => vocabulary.add_space_prefix = Some(value.number() != 0),
                ("chat_template", Value::Text(text)) => vocabulary.chat_template = Some(text),
                (key, _) => {
                    panic!("the default model has a key that this reader does not know: tokenizer.{key}")
                }
            }
        }
        vocabulary
    }

    fn value(&mut self, kind: u64) -> Value {
        match kind {
            0 | 1 | 7 => Value::Number(self.number::<1>()),
            2 | 3 => Value::Number(self.number::<2>()),
            4 | 5 => Value::Number(self.number::<4>()),
            6 => Value::Float(f32::from_le_bytes(self.bytes())),
            8 => Value::Text(self.text()),
            9 => {
                let kind = self.number::<4>();
                let len = self.number::<8>();
                Value::List((0..len).map(|_| self.value(kind)).collect())
            }
            10..=12 => {
                self.bytes::<8>();
                Value::Other
            }
            kind => panic!("GGUF value type {kind}"),
        }
    }

    fn text(&mut self) -> String {
        let len = usize::try_from(self.number::<8>()).unwrap();
        let mut bytes = vec![0; len];
        self.file.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn number<const WIDTH: usize>(&mut self) -> u64 {
        self.bytes::<WIDTH>().iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
    }

    fn bytes<const WIDTH: usize>(&mut self) -> [u8; WIDTH] {
        let mut bytes = [0; WIDTH];
        self.file.read_exact(&mut bytes).unwrap();
        bytes
    }
}

impl Value {
    fn number(&self) -> u64 {
        if let Value::Number(number) = self { *number } else { panic!("not a number") }
    }

    fn id(&self) -> u32 {
        u32::try_from(self.number()).unwrap()
    }

    fn float(&self) -> f32 {
        if let Value::Float(float) = self { *float } else { panic!("not a float") }
    }
}

fn texts(list: Vec<Value>) -> Vec<String> {
    let text = |value| if let Value::Text(text) = value { text } else { panic!("not a text") };
    list.into_iter().map(text).collect()
}
