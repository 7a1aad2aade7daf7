//! From the bytes of a request to what the engine needs: parse, validate, template, tokenise.

mod grammars;
mod message;
mod prompts;
mod rules;
mod tokenize;
mod workshop;

use std::sync::Arc;

use wayfare_engine::{EngineLimits, SamplingParams, TokenId};
use wayfare_journey::RequestAttributes;
use wayfare_text::{CompiledGrammar, TextOptions, Tokenizer};

use crate::config::ChatConfig;
use crate::endpoint::Endpoint;
use crate::error::ApiError;
use crate::params::{CommonParams, Fields, ResponsesEcho, StreamOptions};
use crate::request_metrics::MetricsWanted;

pub(crate) use self::grammars::Grammars;
pub(crate) use self::message::MessageReader;
use self::prompts::Asked;
pub(crate) use self::tokenize::{Detokenized, Tokenized};
pub(crate) use self::workshop::Workshop;

/// Most sequences that one request may start: its prompts times its choices.
const MAX_SEQUENCES: usize = 1024;

/// A request that is ready for the engine.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The name under which the client asked for the model.
    pub(crate) model: String,
    /// At least one.
    pub(crate) prompts: Vec<PreparedPrompt>,
    /// Choices for each prompt.
    pub(crate) n: u32,
    /// How the first choice of the first prompt is generated; the others differ in seed and length.
    pub(crate) sampling: SamplingParams,
    /// What the answers must be, if they are not free.
    grammar: Option<CompiledGrammar>,
    pub(crate) priority: i32,
    pub(crate) cache_salt: Option<Arc<str>>,
    pub(crate) text: TextOptions,
    /// What takes the answers apart; `None` where they are text and nothing else.
    pub(crate) message: Option<MessageReader>,
    /// What a response repeats of its request; only on its route.
    pub(crate) responses: Option<Box<ResponsesEcho>>,
    pub(crate) form: AnswerForm,
    pub(crate) metrics: MetricsWanted,
}

/// One prompt of a request.
#[derive(Debug)]
pub(crate) struct PreparedPrompt {
    pub(crate) tokens: Arc<[TokenId]>,
    /// Most tokens of each of its answers.
    pub(crate) max_tokens: u32,
    /// Text that its answers begin with.
    pub(crate) echo: Option<Arc<str>>,
}

/// What the client wants to see of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AnswerForm {
    pub(crate) stream: bool,
    pub(crate) stream_options: StreamOptions,
    /// Whether log-probabilities of the answer's tokens are shown.
    pub(crate) logprobs: bool,
    /// Whether those of the prompt's tokens are shown.
    pub(crate) prompt_logprobs: bool,
    /// Whether the answers begin with the prompt, its log-probabilities included.
    pub(crate) echo: bool,
    /// Whether nothing but the prompt is wanted.
    pub(crate) prompt_only: bool,
    pub(crate) token_ids: bool,
    pub(crate) tokens_as_ids: bool,
}

impl Prepared {
    /// Tokens of all prompts.
    pub(crate) fn prompt_tokens(&self) -> u32 {
        let tokens: usize = self.prompts.iter().map(|prompt| prompt.tokens.len()).sum();
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }

    /// What the journey says about the request.
    pub(crate) fn attributes(&self, endpoint: Endpoint) -> RequestAttributes {
        let sampling = &self.sampling;
        RequestAttributes {
            operation: endpoint.operation(),
            request_model: self.model.as_str().into(),
            response_model: self.model.as_str().into(),
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: Some(sampling.top_k).filter(|top_k| *top_k > 0),
            max_tokens: self.prompts.iter().map(|prompt| prompt.max_tokens).max().unwrap_or(0),
            n: self.n,
            seed: sampling.seed_is_chosen.then_some(sampling.seed),
            stream: self.form.stream,
        }
    }
}

/// Prepares requests. Pure computation; knows neither time nor engine state.
#[derive(Debug)]
pub(crate) struct Preparer {
    pub(crate) served_model_names: Vec<String>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) chat: ChatConfig,
    pub(crate) end_of_text: Arc<[TokenId]>,
    pub(crate) limits: EngineLimits,
    pub(crate) grammars: Grammars,
    /// Whether clients may have the metrics of their requests.
    pub(crate) per_request_metrics: bool,
    /// Most messages of a chat request.
    pub(crate) max_messages: usize,
}

impl Preparer {
    /// Prepares the request in `body`; `own_seed` is taken when the client gives none.
    pub(crate) fn prepare(
        &self,
        endpoint: Endpoint,
        body: &[u8],
        own_seed: u64,
    ) -> Result<Prepared, ApiError> {
        let fields = Fields::parse(body)?;
        let Asked { common, model, prompts, echo, logprobs, grammar, message, responses } = match endpoint {
            Endpoint::Chat => self.read_chat(fields)?,
            Endpoint::Responses => self.read_responses(fields)?,
            Endpoint::Completion => self.read_completion(fields)?,
        };
        if common.include_metrics && !self.per_request_metrics {
            let problem = "the server gives none; start it with --enable-per-request-metrics";
            return Err(ApiError::unsupported("include_metrics", problem));
        }
        if prompts.len().saturating_mul(common.n as usize) > MAX_SEQUENCES {
            let problem = format!("prompts times choices may be at most {MAX_SEQUENCES}");
            return Err(ApiError::invalid("n", problem));
        }
        self.check_tokens("stop_token_ids", &common.stop_token_ids)?;
        let rules = self.token_rules(&common.rules)?;
        let prompt_only = common.max_tokens == Some(0);
        // The engine generates at least one token.
        let asked_tokens = common.max_tokens.map(|tokens| tokens.max(1));
        let prompts = self.finish_prompts(endpoint, prompts, asked_tokens, common.truncate_prompt)?;
        let least = prompts.iter().map(|prompt| prompt.max_tokens).min().unwrap_or(0);
        if common.rules.min_tokens > least {
            let problem =
                format!("{} is more than the {least} tokens that may come", common.rules.min_tokens);
            return Err(ApiError::invalid("min_tokens", problem));
        }
        let grammar = match &grammar {
            None => None,
            Some((param, grammar)) => {
                Some(self.grammars.compile(&self.tokenizer, &self.end_of_text, grammar, param)?)
            }
        };
        let needs_special_tokens = message.as_ref().is_some_and(|message| message.needs_special_tokens);
        let CommonParams { seed, stream_options, .. } = common;
        let sampling = SamplingParams {
            temperature: common.temperature,
            top_p: common.top_p,
            top_k: common.top_k.map_or(0, |top_k| top_k.min(self.limits.vocab_size)),
            min_p: common.min_p,
            seed: seed.unwrap_or(own_seed),
            seed_is_chosen: seed.is_some(),
            max_tokens: prompts.first().map_or(1, |prompt| prompt.max_tokens),
            end_of_text: if common.ignore_eos { Arc::from([]) } else { Arc::clone(&self.end_of_text) },
            stop_token_ids: common.stop_token_ids,
            rules,
            logprobs,
            // An echoed prompt shows what the answer shows.
            prompt_logprobs: common
                .prompt_logprobs
                .max(logprobs.filter(|_| echo && endpoint.echoes_tokens())),
        };
        Ok(Prepared {
            model,
            prompts,
            n: common.n,
            sampling,
            grammar,
            priority: common.priority,
            cache_salt: common.cache_salt,
            text: TextOptions {
                stop: common.stop,
                include_stop: common.include_stop_str_in_output,
                min_tokens: common.rules.min_tokens,
                skip_special_tokens: common.skip_special_tokens && !needs_special_tokens,
            },
            message,
            responses,
            form: AnswerForm {
                stream: common.stream,
                stream_options,
                logprobs: logprobs.is_some(),
                prompt_logprobs: common.prompt_logprobs.is_some(),
                echo,
                prompt_only,
                token_ids: common.return_token_ids,
                tokens_as_ids: common.return_tokens_as_token_ids,
            },
            metrics: match (self.per_request_metrics, common.include_metrics) {
                (false, _) => MetricsWanted::No,
                (true, false) => MetricsWanted::InHeader,
                (true, true) => MetricsWanted::InBody,
            },
        })
    }

    /// The name of the model that was asked for; the default when none was.
    pub(crate) fn model(&self, asked: Option<&str>) -> Result<String, ApiError> {
        let mut served = self.served_model_names.iter();
        let found = match asked {
            None => served.next(),
            Some(asked) => served.find(|name| *name == asked),
        };
        found.cloned().ok_or_else(|| ApiError::ModelNotFound {
            model: asked.unwrap_or_default().chars().take(256).collect(),
            served: self.served_model_names.join(", "),
        })
    }

    fn check_tokens(&self, param: &'static str, tokens: &[TokenId]) -> Result<(), ApiError> {
        match tokens.iter().find(|token| **token >= self.limits.vocab_size) {
            None => Ok(()),
            Some(token) => Err(ApiError::invalid(
                param,
                format!("token {token} is not in the vocabulary of {} tokens", self.limits.vocab_size),
            )),
        }
    }
}

/// An error and its causes in one line.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
