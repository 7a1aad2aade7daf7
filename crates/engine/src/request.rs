//! What an engine is asked to do.

use std::fmt;
use std::sync::Arc;

use wayfare_journey::{CoreSpan, MonoNs, RequestLabel};

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
    /// The most output tokens; at least 1, prompt and output together within the model's length.
    pub max_tokens: u32,
    /// Tokens that end the text; empty when they are to be ignored.
    pub end_of_text: Arc<[TokenId]>,
    /// Tokens at which the client asked to stop.
    pub stop_token_ids: Arc<[TokenId]>,
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
