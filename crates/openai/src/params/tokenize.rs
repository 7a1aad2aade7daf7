//! The bodies of `POST /tokenize` and `POST /detokenize`, as vLLM has them.

use serde_json::Value;
use wayfare_engine::TokenId;

use crate::error::ApiError;

use super::chat::PromptParams;
use super::fields::{Fields, wrong_type};
use super::messages::read_messages;
use super::sampling::token_id;
use super::tools::ToolParams;

/// Fields of vLLM's chat form that change nothing at some values, as in a chat request.
pub(crate) const NEUTRAL: &[&str] = &["mm_processor_kwargs", "media_io_kwargs"];

/// What is to be made tokens of.
#[derive(Debug)]
pub(crate) enum TokenizePrompt {
    Text(String),
    /// As in a chat request.
    Messages {
        messages: Value,
        prompt: Box<PromptParams>,
        tools: Box<ToolParams>,
    },
}

/// A request for the tokens of a prompt.
#[derive(Debug)]
pub(crate) struct TokenizeParams {
    pub(crate) model: Option<String>,
    pub(crate) prompt: TokenizePrompt,
    pub(crate) add_special_tokens: Option<bool>,
    /// Whether each token's spelling is wanted, too.
    pub(crate) return_token_strs: bool,
}

impl TokenizeParams {
    /// Reads the fields of a body, which may hold so many messages.
    pub(crate) fn read(mut fields: Fields, max_messages: usize) -> Result<Self, ApiError> {
        let model = fields.string("model")?;
        let add_special_tokens = fields.boolean("add_special_tokens")?;
        let return_token_strs = fields.boolean("return_token_strs")?.unwrap_or(false);
        let text = fields.string("prompt")?;
        let messages = match fields.take("messages") {
            None => None,
            Some(Value::Array(messages)) => Some(messages),
            Some(other) => return Err(wrong_type("messages", "a list", &other)),
        };
        let asks_for_generation_prompt = fields.has("add_generation_prompt");
        let (prompt, tools) = (PromptParams::take(&mut fields)?, ToolParams::take(&mut fields)?);
        let prompt = match (text, messages) {
            (Some(text), None) => {
                if asks_for_generation_prompt {
                    let problem = "it goes with 'messages', not with 'prompt'";
                    return Err(ApiError::invalid("add_generation_prompt", problem));
                }
                TokenizePrompt::Text(text)
            }
            (None, Some(messages)) => TokenizePrompt::Messages {
                messages: read_messages(messages, max_messages)?,
                prompt: Box::new(prompt),
                tools: Box::new(tools),
            },
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid(
                    "messages",
                    "there is a 'prompt' already; send one of the two",
                ));
            }
            (None, None) => return Err(ApiError::MissingParameter { param: "prompt" }),
        };
        fields.finish_with(NEUTRAL)?;
        Ok(Self { model, prompt, add_special_tokens, return_token_strs })
    }
}

/// A request for the text of tokens.
#[derive(Debug)]
pub(crate) struct DetokenizeParams {
    pub(crate) model: Option<String>,
    pub(crate) tokens: Vec<TokenId>,
}

impl DetokenizeParams {
    /// Reads the fields of a body.
    pub(crate) fn read(mut fields: Fields) -> Result<Self, ApiError> {
        let model = fields.string("model")?;
        let tokens = match fields.take("tokens") {
            None => return Err(ApiError::MissingParameter { param: "tokens" }),
            Some(Value::Array(tokens)) => tokens,
            Some(other) => return Err(wrong_type("tokens", "a list of token ids", &other)),
        };
        fields.finish_with(&[])?;
        let tokens = tokens.iter().map(|token| token_id("tokens", token)).collect::<Result<_, _>>()?;
        Ok(Self { model, tokens })
    }
}
