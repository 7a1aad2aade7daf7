//! A text side without a model: one token per byte, for engines that only pretend to have a vocabulary.

use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::files::TextFilesError;
use crate::{GgufVocabulary, TextFiles};

/// `llama_token_type` of GGUF files.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const START_OF_TURN: &str = "<|im_start|>";
const END_OF_TURN: &str = "<|im_end|>";
const NUM_BYTES: u32 = 256;

/// ChatML, which many models use.
const CHAT_TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n\
                             {{ message['content'] }}<|im_end|>\n{% endfor %}\
                             {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

impl TextFiles {
    /// A vocabulary of the 256 bytes and two control tokens that mark turns, with a chat template.
    ///
    /// # Errors
    /// Never in practice: the vocabulary is built in.
    pub fn of_bytes() -> Result<Self, TextFilesError> {
        let mut letters: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        letters.sort_unstable();
        let mut tokens: Vec<String> = letters.into_iter().map(String::from).collect();
        let mut token_types = vec![NORMAL; tokens.len()];
        tokens.extend([START_OF_TURN, END_OF_TURN].map(String::from));
        token_types.extend([CONTROL, CONTROL]);
        Self::from_gguf(&GgufVocabulary {
            model: "gpt2".into(),
            tokens,
            token_types,
            eos_token_id: Some(NUM_BYTES + 1),
            chat_template: Some(CHAT_TEMPLATE.into()),
            ..GgufVocabulary::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::RenderOptions;

    #[test]
    fn every_byte_is_a_token_and_turns_are_marked() {
        let text = TextFiles::of_bytes().unwrap();
        let tokens = text.tokenizer.encode("Grüße, 世界\n", true).unwrap();
        assert_eq!(tokens.len(), "Grüße, 世界\n".len());
        assert_eq!(text.tokenizer.decode(&tokens, true).unwrap(), "Grüße, 世界\n");
        assert_eq!(text.end_of_text, [257]);

        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let messages = json!([{"role": "user", "content": "hi"}]);
        let prompt = text.chat_template.unwrap().render(&messages, &options).unwrap();
        assert_eq!(prompt, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
        let tokens = text.tokenizer.encode(&prompt, false).unwrap();
        assert_eq!(tokens.iter().filter(|token| **token >= 256).count(), 3);
    }
}
