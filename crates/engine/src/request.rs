//! What an engine is asked to do.

use std::fmt;
use std::sync::Arc;

use wayfare_journey::{CoreSpan, MonoNs, RequestLabel};

use crate::OutputConstraint;

/// A token of the model's vocabulary.
pub type TokenId = u32;

/// Names one sequence in the engine. Given by the API layer, unique for the life of the process; a request
/// with several choices or prompts has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How to choose each next token, and when to stop. All values are resolved and in range.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 chooses the most likely token; above, logits are divided by it.
    pub temperature: f32,
    /// Share of probability mass to choose from, in (0, 1].
    pub top_p: f32,
    /// Number of tokens to choose from; 0 means all.
    pub top_k: u32,
    /// Least probability relative to the most likely token, in [0, 1].
    pub min_p: f32,
    /// Seed of this sequence's random numbers. The n-th output token depends on the seed, n and the logits
    /// alone, so that batching and preemption do not change it.
    pub seed: u64,
    /// Whether the client has chosen the seed. Otherwise an engine that has cheaper random numbers may take those.
    pub seed_is_chosen: bool,
    /// The most output tokens; at least 1, prompt and output together within the model's length.
    pub max_tokens: u32,
    /// Tokens that end the text; empty when they are to be ignored.
    pub end_of_text: Arc<[TokenId]>,
    /// Tokens at which the client asked to stop.
    pub stop_token_ids: Arc<[TokenId]>,
    /// What changes the logits before a token is chosen; `None` when nothing does.
    pub rules: Option<Arc<TokenRules>>,
    /// Whether the log-probabilities of output tokens are wanted, and those of how many likely tokens beside
    /// each.
    pub logprobs: Option<u32>,
    /// The same for the tokens of the prompt. Such a prompt is computed as a whole, never found in the prefix
    /// cache.
    pub prompt_logprobs: Option<u32>,
}

/// Changes to the logits, in the order in which vLLM applies them. The default changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRules {
    /// When present, no other token can be chosen. In ascending order.
    pub allowed: Option<Vec<TokenId>>,
    /// Series of tokens of which none may be completed in the output.
    pub bad_words: Vec<Vec<TokenId>>,
    /// Output tokens before which neither end of text nor a stop token can be chosen.
    pub min_tokens: u32,
    /// Added to the logits of tokens.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Divides positive logits and multiplies negative ones of tokens that are in the prompt or in the output;
    /// 1 changes nothing.
    pub repetition_penalty: f32,
    /// Taken off the logit of a token for each time it is in the output.
    pub frequency_penalty: f32,
    /// Taken off the logits of tokens that are in the output.
    pub presence_penalty: f32,
}

impl Default for TokenRules {
    fn default() -> Self {
        Self {
            allowed: None,
            bad_words: Vec::new(),
            min_tokens: 0,
            logit_bias: Vec::new(),
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
        }
    }
}

/// One sequence for the engine to complete.
#[derive(Debug)]
pub struct EngineRequest {
    /// Its name in the engine.
    pub id: RequestId,
    /// The request's name for people: in logs and in other requests' events.
    pub label: RequestLabel,
    /// At least one token.
    pub prompt: Arc<[TokenId]>,
    /// How to generate.
    pub sampling: SamplingParams,
    /// What the output must be, if it is not free.
    pub constraint: Option<OutputConstraint>,
    /// Under the priority policy, smaller goes first; 0 is usual.
    pub priority: i32,
    /// Keeps its prefix cache apart: KV blocks are shared only between requests with the same salt.
    pub cache_salt: Option<Arc<str>>,
    /// When the HTTP request arrived.
    pub arrived: MonoNs,
    /// The guard of its `llm_core` span, when traced.
    pub core_span: Option<CoreSpan>,
}

impl EngineRequest {
    /// Ends a request that was not accepted: its core span will not be part of the journey.
    pub fn refuse(self) {
        if let Some(span) = self.core_span {
            span.withdraw();
        }
    }
}
