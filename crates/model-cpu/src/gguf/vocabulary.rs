use super::{Metadata, reader::Value};

/// The tokeniser as the metadata of a GGUF file describe it (keys `tokenizer.*`), in plain types.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: `gpt2` is byte-level BPE, `llama` is SentencePiece.
    pub model: String,
    /// `tokenizer.ggml.pre`: which rule splits text before BPE.
    pub pre: Option<String>,
    /// The token texts; a token's id is its place.
    pub tokens: Vec<String>,
    /// For each token llama.cpp's `llama_token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused,
    /// 6 byte. Empty when the file does not say.
    pub token_types: Vec<i32>,
    /// For each token its SentencePiece score. Empty when the file does not say.
    pub scores: Vec<f32>,
    /// The BPE merges in order of rank, both sides separated by a space.
    pub merges: Vec<String>,
    /// Begin of text.
    pub bos_token_id: Option<u32>,
    /// End of text.
    pub eos_token_id: Option<u32>,
    /// End of a turn, where it differs from the end of text.
    pub eot_token_id: Option<u32>,
    /// End of a message, where it differs from the end of a turn.
    pub eom_token_id: Option<u32>,
    /// Stands for what has no token.
    pub unknown_token_id: Option<u32>,
    /// Fills up batches.
    pub padding_token_id: Option<u32>,
    /// Whether encoding puts the begin of text before.
    pub add_bos_token: Option<bool>,
    /// Whether encoding puts the end of text after.
    pub add_eos_token: Option<bool>,
    /// Whether SentencePiece puts a space before.
    pub add_space_prefix: Option<bool>,
    /// The Jinja template of chats.
    pub chat_template: Option<String>,
}

impl GgufVocabulary {
    pub(crate) fn from_metadata(metadata: &Metadata) -> Option<Self> {
        let Some(Value::Texts(tokens)) = metadata.get("tokenizer.ggml.tokens") else {
            return None;
        };
        Some(Self {
            model: metadata.text("tokenizer.ggml.model").unwrap_or_default().to_owned(),
            pre: metadata.text("tokenizer.ggml.pre").map(str::to_owned),
            tokens: tokens.clone(),
            token_types: match metadata.get("tokenizer.ggml.token_type") {
                Some(Value::Integers(types)) => types.clone(),
                _ => Vec::new(),
            },
            scores: match metadata.get("tokenizer.ggml.scores") {
                Some(Value::Floats(scores)) => scores.clone(),
                _ => Vec::new(),
            },
            merges: match metadata.get("tokenizer.ggml.merges") {
                Some(Value::Texts(merges)) => merges.clone(),
                _ => Vec::new(),
            },
            bos_token_id: metadata.token_id("tokenizer.ggml.bos_token_id"),
            eos_token_id: metadata.token_id("tokenizer.ggml.eos_token_id"),
            eot_token_id: metadata.token_id("tokenizer.ggml.eot_token_id"),
            eom_token_id: metadata.token_id("tokenizer.ggml.eom_token_id"),
            unknown_token_id: metadata.token_id("tokenizer.ggml.unknown_token_id"),
            padding_token_id: metadata.token_id("tokenizer.ggml.padding_token_id"),
            add_bos_token: metadata.flag("tokenizer.ggml.add_bos_token"),
            add_eos_token: metadata.flag("tokenizer.ggml.add_eos_token"),
            add_space_prefix: metadata.flag("tokenizer.ggml.add_space_prefix"),
            chat_template: metadata.text("tokenizer.chat_template").map(str::to_owned),
        })
    }

    /// The tokens after which a text is over, without duplicates.
    pub(crate) fn end_token_ids(&self) -> Vec<u32> {
        let mut ids = Vec::new();
        for id in [self.eos_token_id, self.eot_token_id, self.eom_token_id].into_iter().flatten() {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }
}
