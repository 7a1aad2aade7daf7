//! From the bytes of a request to what the engine needs: parse, validate, template, tokenise.

use std::sync::Arc;

use tokio::sync::Semaphore;
use wayfare_engine::{EngineLimits, SamplingParams, TokenId};
use wayfare_journey::RequestAttributes;
use wayfare_text::{ChatTemplate, RenderOptions, Tokenizer};

use crate::endpoint::Endpoint;
use crate::error::ApiError;
use crate::params::{ChatParams, CommonParams, CompletionParams, Fields, Prompt};
use crate::request_metrics::MetricsWanted;

/// Tokens of a completion when the client does not say how many: OpenAI's and vLLM's default.
const DEFAULT_COMPLETION_TOKENS: u32 = 16;

/// Largest body that is prepared on the async runtime, in bytes. Tokenising takes 0.2 µs per byte, and 1 µs while
/// the tokeniser's cache of words is cold (measured with a vocabulary of 49 152), so this is about a millisecond;
/// handing the work to another thread costs a few hundredths of that.
const MAX_INLINE_BYTES: usize = 2 << 10;

/// The longest tokens of known vocabularies are runs of 128 spaces.
const MAX_TOKEN_BYTES: usize = 128;

/// A request that is ready for the engine.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The name under which the client asked for the model.
    pub(crate) model: String,
    pub(crate) prompt: Arc<[TokenId]>,
    pub(crate) sampling: SamplingParams,
    pub(crate) priority: i32,
    pub(crate) cache_salt: Option<Arc<str>>,
    pub(crate) stop: Arc<[String]>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) metrics: MetricsWanted,
    /// Whether the client has chosen the seed.
    seed_was_given: bool,
}

impl Prepared {
    /// Tokens of the prompt.
    pub(crate) fn prompt_tokens(&self) -> u32 {
        u32::try_from(self.prompt.len()).unwrap_or(u32::MAX)
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
            max_tokens: sampling.max_tokens,
            n: 1,
            seed: self.seed_was_given.then_some(sampling.seed),
            stream: self.stream,
        }
    }
}

/// Prepares requests. Pure computation; knows neither time nor engine state.
#[derive(Debug)]
pub(crate) struct Preparer {
    pub(crate) served_model_names: Vec<String>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) chat_template: Option<ChatTemplate>,
    pub(crate) end_of_text: Arc<[TokenId]>,
    pub(crate) limits: EngineLimits,
    /// Whether clients may have the metrics of their requests.
    pub(crate) per_request_metrics: bool,
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
        let (common, model, prompt) = match endpoint {
            Endpoint::Chat => {
                let ChatParams { common, messages } = ChatParams::read(fields)?;
                let model = self.model(common.model.as_deref())?;
                let template = self.chat_template.as_ref().ok_or(ApiError::NoChatTemplate)?;
                let options = RenderOptions {
                    add_generation_prompt: true,
                    tools: None,
                    kwargs: serde_json::Map::new(),
                };
                let text = template
                    .render(&messages, &options)
                    .map_err(|error| ApiError::TemplateFailed { detail: error_chain(&error) })?;
                // A template spells out the special tokens it wants.
                let add_special_tokens = common.add_special_tokens.unwrap_or(false);
                let prompt = self.encode(&text, add_special_tokens, endpoint)?;
                (common, model, prompt)
            }
            Endpoint::Completion => {
                let CompletionParams { common, prompt } = CompletionParams::read(fields)?;
                let model = self.model(common.model.as_deref())?;
                let prompt = match prompt {
                    Prompt::Text(text) => {
                        self.encode(&text, common.add_special_tokens.unwrap_or(true), endpoint)?
                    }
                    Prompt::Tokens(tokens) => tokens,
                };
                (common, model, prompt)
            }
        };
        if common.include_metrics && !self.per_request_metrics {
            let problem = "the server gives none; start it with --enable-per-request-metrics";
            return Err(ApiError::unsupported("include_metrics", problem));
        }
        self.check_tokens(endpoint.prompt_param(), &prompt)?;
        self.check_tokens("stop_token_ids", &common.stop_token_ids)?;
        if prompt.is_empty() {
            return Err(ApiError::invalid(endpoint.prompt_param(), "it has no tokens"));
        }
        let max_tokens = self.max_tokens(endpoint, common.max_tokens, prompt.len())?;
        Ok(self.resolve(common, model, prompt, max_tokens, own_seed))
    }

    fn resolve(
        &self,
        common: CommonParams,
        model: String,
        prompt: Vec<TokenId>,
        max_tokens: u32,
        own_seed: u64,
    ) -> Prepared {
        let sampling = SamplingParams {
            temperature: common.temperature,
            top_p: common.top_p,
            top_k: common.top_k.map_or(0, |top_k| top_k.min(self.limits.vocab_size)),
            min_p: common.min_p,
            seed: common.seed.unwrap_or(own_seed),
            max_tokens,
            end_of_text: if common.ignore_eos { Arc::from([]) } else { Arc::clone(&self.end_of_text) },
            stop_token_ids: common.stop_token_ids,
        };
        Prepared {
            model,
            prompt: prompt.into(),
            sampling,
            priority: common.priority,
            cache_salt: common.cache_salt,
            stop: common.stop,
            stream: common.stream,
            include_usage: common.include_usage,
            metrics: match (self.per_request_metrics, common.include_metrics) {
                (false, _) => MetricsWanted::No,
                (true, false) => MetricsWanted::InHeader,
                (true, true) => MetricsWanted::InBody,
            },
            seed_was_given: common.seed.is_some(),
        }
    }

    /// The name of the model that was asked for; the default when none was.
    fn model(&self, asked: Option<&str>) -> Result<String, ApiError> {
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

    fn encode(
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

    fn check_tokens(&self, param: &'static str, tokens: &[TokenId]) -> Result<(), ApiError> {
        match tokens.iter().find(|token| **token >= self.limits.vocab_size) {
            None => Ok(()),
            Some(token) => Err(ApiError::invalid(
                param,
                format!("token {token} is not in the vocabulary of {} tokens", self.limits.vocab_size),
            )),
        }
    }

    /// The limit on output tokens in force: what was asked for, or the endpoint's default within the context.
    fn max_tokens(&self, endpoint: Endpoint, asked: Option<u32>, prompt: usize) -> Result<u32, ApiError> {
        let context = self.limits.context_tokens();
        let prompt = u32::try_from(prompt).unwrap_or(u32::MAX);
        let room = context.saturating_sub(prompt);
        let max_tokens = asked.unwrap_or(match endpoint {
            Endpoint::Chat => room.max(1),
            Endpoint::Completion => room.clamp(1, DEFAULT_COMPLETION_TOKENS),
        });
        if max_tokens <= room {
            return Ok(max_tokens);
        }
        let where_prompt = endpoint.prompt_param();
        Err(ApiError::ContextLengthExceeded { context, prompt, completion: max_tokens, where_prompt })
    }
}

/// Where requests are prepared: small ones at once, large ones on a thread of their own, a few at a time.
#[derive(Debug)]
pub(crate) struct Workshop {
    preparer: Arc<Preparer>,
    places: Arc<Semaphore>,
}

impl Workshop {
    /// A workshop with places for `places` large requests; the others wait.
    pub(crate) fn new(preparer: Preparer, places: usize) -> Self {
        let places = places.clamp(1, Semaphore::MAX_PERMITS);
        Self { preparer: Arc::new(preparer), places: Arc::new(Semaphore::new(places)) }
    }

    /// Who prepares.
    pub(crate) fn preparer(&self) -> &Preparer {
        &self.preparer
    }

    /// Prepares a request without holding up the async runtime.
    pub(crate) async fn prepare(
        &self,
        endpoint: Endpoint,
        body: bytes::Bytes,
        own_seed: u64,
    ) -> Result<Prepared, ApiError> {
        if body.len() <= MAX_INLINE_BYTES {
            return self.preparer.prepare(endpoint, &body, own_seed);
        }
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
            return Err(ApiError::Internal { detail: "the preparation is closed" });
        };
        let preparer = Arc::clone(&self.preparer);
        let prepared = tokio::task::spawn_blocking(move || {
            // Held by the work, not by the waiting request, which may be gone before the work is done.
            let _place = place;
            preparer.prepare(endpoint, &body, own_seed)
        });
        prepared.await.unwrap_or(Err(ApiError::Internal { detail: "preparing the request panicked" }))
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
