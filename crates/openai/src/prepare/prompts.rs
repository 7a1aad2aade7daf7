//! From messages and prompts to tokens.

use std::sync::Arc;

use wayfare_engine::{OutputGrammar, TokenId};
use wayfare_text::{ChatTemplate, RenderError, RenderOptions};

use crate::endpoint::Endpoint;
use crate::error::ApiError;
use crate::params::{
    ChatParams, CommonParams, CompletionParams, Fields, Prompt, PromptParams, ResponsesEcho, ResponsesParams,
    ToolParams, Truncation,
};

use super::{MessageReader, PreparedPrompt, Preparer, error_chain};

/// Tokens of a completion when the client does not say how many: OpenAI's and vLLM's default.
const DEFAULT_COMPLETION_TOKENS: u32 = 16;

/// The longest tokens of known vocabularies are runs of 128 spaces.
const MAX_TOKEN_BYTES: usize = 128;

/// A request whose fields are understood and whose prompts are tokens.
pub(super) struct Asked {
    pub(super) common: CommonParams,
    pub(super) model: String,
    pub(super) prompts: Vec<TokenisedPrompt>,
    pub(super) echo: bool,
    pub(super) logprobs: Option<u32>,
    /// What the answers must be, and the field that says so.
    pub(super) grammar: Option<(&'static str, OutputGrammar)>,
    pub(super) message: Option<MessageReader>,
    pub(super) responses: Option<Box<ResponsesEcho>>,
}

pub(super) struct TokenisedPrompt {
    tokens: Vec<TokenId>,
    echo: Option<Arc<str>>,
}

impl Preparer {
    pub(super) fn read_chat(&self, fields: Fields) -> Result<Asked, ApiError> {
        let params = ChatParams::read(fields)?;
        let model = self.model(params.common.model.as_deref())?;
        self.asked_of_chat(params, model, Endpoint::Chat)
    }

    pub(super) fn read_responses(&self, fields: Fields) -> Result<Asked, ApiError> {
        let ResponsesParams { chat, echo } = ResponsesParams::read(fields)?;
        let model = self.model(chat.common.model.as_deref())?;
        let asked = self.asked_of_chat(chat, model, Endpoint::Responses)?;
        Ok(Asked { responses: Some(Box::new(echo)), ..asked })
    }

    /// What is common to both routes that take messages.
    fn asked_of_chat(
        &self,
        params: ChatParams,
        model: String,
        endpoint: Endpoint,
    ) -> Result<Asked, ApiError> {
        let ChatParams { mut common, messages, prompt, tools, include_reasoning, echo, logprobs } = params;
        let continued = (echo && prompt.continue_final_message).then(|| last_text(&messages));
        let text = self.render(&messages, prompt, &tools)?;
        // A template spells out the special tokens it wants.
        let add_special_tokens = common.add_special_tokens.unwrap_or(false);
        let tokens = self.encode(&text, add_special_tokens, endpoint)?;
        let prompts = vec![TokenisedPrompt { tokens, echo: continued.map(Into::into) }];
        let forced = self.forced_calls(&tools)?;
        let grammar = match (common.grammar.take(), forced) {
            (Some((param, _)), Some(_)) => {
                let problem = "the answer cannot have another form where 'tool_choice' demands a call";
                return Err(ApiError::invalid(param, problem));
            }
            (given, forced) => given.or(forced),
        };
        let message = self.message_reader(&text, &tools, include_reasoning)?;
        Ok(Asked { common, model, prompts, echo, logprobs, grammar, message, responses: None })
    }

    /// The text that stands for the messages.
    fn render(
        &self,
        messages: &serde_json::Value,
        prompt: PromptParams,
        tools: &ToolParams,
    ) -> Result<String, ApiError> {
        let own = self.chat.template.as_ref().ok_or(ApiError::NoChatTemplate)?;
        let given: ChatTemplate;
        let template = match prompt.chat_template {
            None => own,
            Some(_) if !self.chat.trusts_request_templates => {
                let problem = "the server takes none; start it with --trust-request-chat-template";
                return Err(ApiError::unsupported("chat_template", problem));
            }
            Some(source) => {
                given = own
                    .replaced_by(source)
                    .map_err(|error| ApiError::invalid("chat_template", error_chain(&error)))?;
                &given
            }
        };
        let options = RenderOptions {
            add_generation_prompt: prompt.add_generation_prompt,
            continue_final_message: prompt.continue_final_message,
            tools: tools.for_template.clone(),
            documents: prompt.documents,
            kwargs: prompt.kwargs,
        };
        template.render(messages, &options).map_err(|error| match error {
            RenderError::Message { field, problem } => ApiError::invalid(field, problem),
            RenderError::ReservedVariable { .. } => {
                ApiError::invalid("chat_template_kwargs", error.to_string())
            }
            RenderError::NoThread(_) => ApiError::Internal { detail: "no thread for a chat template" },
            error => ApiError::TemplateFailed { detail: error_chain(&error) },
        })
    }

    pub(super) fn read_completion(&self, fields: Fields) -> Result<Asked, ApiError> {
        let CompletionParams { mut common, prompts, echo, logprobs } = CompletionParams::read(fields)?;
        let model = self.model(common.model.as_deref())?;
        let endpoint = Endpoint::Completion;
        let add_special_tokens = common.add_special_tokens.unwrap_or(true);
        let prompts = prompts.into_iter().map(|prompt| {
            let (tokens, text) = match prompt {
                Prompt::Text(text) => (self.encode(&text, add_special_tokens, endpoint)?, Some(text)),
                Prompt::Tokens(tokens) => {
                    self.check_tokens(endpoint.prompt_param(), &tokens)?;
                    (tokens, None)
                }
            };
            let echo = match (echo, text) {
                (false, _) => None,
                (true, Some(text)) => Some(text.into()),
                (true, None) => {
                    let text = self.tokenizer.decode(&tokens, common.skip_special_tokens);
                    let text = text
                        .map_err(|error| ApiError::invalid(endpoint.prompt_param(), error_chain(&error)))?;
                    Some(text.into())
                }
            };
            Ok(TokenisedPrompt { tokens, echo })
        });
        let prompts = prompts.collect::<Result<_, ApiError>>()?;
        let grammar = common.grammar.take();
        Ok(Asked { common, model, prompts, echo, logprobs, grammar, message: None, responses: None })
    }

    /// Cuts the prompts where that is wanted, and gives each answer its limit.
    pub(super) fn finish_prompts(
        &self,
        endpoint: Endpoint,
        prompts: Vec<TokenisedPrompt>,
        asked_tokens: Option<u32>,
        truncation: Truncation,
    ) -> Result<Vec<PreparedPrompt>, ApiError> {
        let context = self.limits.context_tokens();
        let most = match truncation {
            Truncation::Never => usize::MAX,
            Truncation::ToFit => {
                let default = if endpoint == Endpoint::Completion { DEFAULT_COMPLETION_TOKENS } else { 1 };
                context.saturating_sub(asked_tokens.unwrap_or(default)).max(1) as usize
            }
            Truncation::To(tokens) if tokens > context => {
                let problem = format!("it is more than the model's context of {context} tokens");
                return Err(ApiError::invalid("truncate_prompt_tokens", problem));
            }
            Truncation::To(tokens) => tokens as usize,
        };
        let finish = |TokenisedPrompt { tokens, echo }| {
            let param = endpoint.prompt_param();
            let kept = &tokens[tokens.len().saturating_sub(most)..];
            self.check_tokens(param, kept)?;
            if kept.is_empty() {
                return Err(ApiError::invalid(param, "it has no tokens"));
            }
            let max_tokens = self.max_tokens(endpoint, asked_tokens, kept.len())?;
            Ok(PreparedPrompt { tokens: kept.into(), max_tokens, echo })
        };
        prompts.into_iter().map(finish).collect()
    }

    pub(super) fn encode(
        &self,
        text: &str,
        add_special_tokens: bool,
        endpoint: Endpoint,
    ) -> Result<Vec<TokenId>, ApiError> {
        let context = self.limits.context_tokens();
        // Tokenising takes a hundred bytes of memory per byte of text: what cannot fit anyway is not tried.
        if text.len() / MAX_TOKEN_BYTES > context as usize {
            let where_prompt = endpoint.prompt_param();
            return Err(ApiError::PromptTooLarge { context, bytes: text.len(), where_prompt });
        }
        self.tokenizer
            .encode(text, add_special_tokens)
            .map_err(|error| ApiError::invalid(endpoint.prompt_param(), error_chain(&error)))
    }

    /// The limit on output tokens in force: what was asked for, or the endpoint's default within the context.
    fn max_tokens(&self, endpoint: Endpoint, asked: Option<u32>, prompt: usize) -> Result<u32, ApiError> {
        let context = self.limits.context_tokens();
        let prompt = u32::try_from(prompt).unwrap_or(u32::MAX);
        let room = context.saturating_sub(prompt);
        let max_tokens = asked.unwrap_or(match endpoint {
            Endpoint::Chat | Endpoint::Responses => room.max(1),
            Endpoint::Completion => room.clamp(1, DEFAULT_COMPLETION_TOKENS),
        });
        if max_tokens <= room {
            return Ok(max_tokens);
        }
        let where_prompt = endpoint.prompt_param();
        Err(ApiError::ContextLengthExceeded { context, prompt, completion: max_tokens, where_prompt })
    }
}

/// The text of the last message, which an answer continues.
fn last_text(messages: &serde_json::Value) -> String {
    let content = messages.as_array().and_then(|messages| messages.last()?.get("content"));
    let parts = content.and_then(serde_json::Value::as_array).into_iter().flatten();
    let parts: Vec<&str> = parts.filter_map(|part| part.get("text")?.as_str()).collect();
    content.and_then(serde_json::Value::as_str).map_or_else(|| parts.join("\n"), str::to_owned)
}
