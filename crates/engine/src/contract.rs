//! The traits and errors of the border.

use std::fmt::Debug;
use std::sync::Arc;

use crate::{EngineRequest, EngineStats, RequestId, StepOutputs};

/// What the API layer needs from any engine.
///
/// Results do not come back through this trait but batched per step through the [`OutputSink`] that the
/// engine was built with.
pub trait Engine: Send + Sync + Debug {
    /// Puts a request into the engine's inbox. Never waits for the engine.
    ///
    /// # Errors
    /// When the request cannot be served; its core span has been withdrawn and nothing will be delivered
    /// for it.
    fn submit(&self, request: EngineRequest) -> Result<(), SubmitError>;

    /// Abandons a request; the engine frees it within one step. A final output is still delivered. Unknown
    /// and finished ids are ignored.
    fn abort(&self, id: RequestId, cause: AbortCause);

    /// The API layer has found a stop string: the request ends as stopped. Unknown and finished ids are
    /// ignored.
    fn finish(&self, id: RequestId);

    /// What the engine can take, fixed at its start.
    fn limits(&self) -> EngineLimits;

    /// The latest state and totals, of all engines behind this one together.
    fn stats(&self) -> EngineStats;

    /// The same of each engine behind this one, in the order of [`StepOutputs::engine`], with the number by which others
    /// know it; of this one, as number 0, where there are no others. Always the same engines.
    fn stats_by_engine(&self) -> Vec<(u32, EngineStats)>;

    /// Why the engine cannot serve any more, if so.
    fn fault(&self) -> Option<Arc<EngineFault>>;
}

/// Takes what the engine produces. Called on the engine's thread; must not wait.
pub trait OutputSink: Send {
    /// Takes the outputs of one step.
    fn deliver(&mut self, outputs: StepOutputs);

    /// The engine is gone: no request in flight will get another output.
    fn engine_died(&mut self, fault: Arc<EngineFault>);
}

/// Who wants a request gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortCause {
    /// The client went away.
    ClientGone,
    /// A time limit ran out.
    Timeout,
    /// The server is shutting down.
    Shutdown,
    /// The API layer failed while it handled the request.
    ServerError,
}

/// What an engine can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// Most tokens of a sequence, prompt and output together.
    pub max_model_len: u32,
    /// Most sequences running at once.
    pub max_num_seqs: u32,
    /// Most tokens per step.
    pub max_num_batched_tokens: u32,
    /// Tokens per KV block.
    pub block_size: u32,
    /// KV blocks in the pool that sequences can use.
    pub num_kv_blocks: u32,
    /// Size of the vocabulary; token ids are below it.
    pub vocab_size: u32,
    /// Who goes first.
    pub policy: SchedulingPolicy,
    /// Whether KV blocks of common prefixes are shared.
    pub prefix_caching: bool,
    /// Whether the lives of cached prefixes are reported.
    pub follows_blocks: bool,
}

/// Who of those that wait is scheduled first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SchedulingPolicy {
    /// First come, first served. All priorities are the same.
    #[default]
    Fcfs,
    /// The smallest priority first; among equals the one that arrived first.
    Priority,
}

impl EngineLimits {
    /// Most tokens of one sequence that the KV pool can hold when it has the pool for itself.
    #[must_use]
    pub fn kv_capacity_tokens(&self) -> u64 {
        u64::from(self.num_kv_blocks) * u64::from(self.block_size)
    }

    /// Whether the engine can ever serve this request. Every engine asks this before it accepts one.
    ///
    /// # Errors
    /// When it cannot, with the reason.
    pub fn check(&self, request: &EngineRequest) -> Result<(), SubmitError> {
        let Ok(tokens) = u32::try_from(request.prompt.len()) else {
            return Err(SubmitError::InvalidPrompt("it has more than 2^32 tokens".into()));
        };
        if tokens == 0 {
            return Err(SubmitError::InvalidPrompt("it has no token".into()));
        }
        if let Some(unknown) = request.prompt.iter().find(|token| **token >= self.vocab_size) {
            let vocab_size = self.vocab_size;
            return Err(SubmitError::InvalidPrompt(format!(
                "token {unknown} is not in the vocabulary of {vocab_size}"
            )));
        }
        if request.priority != 0 && self.policy != SchedulingPolicy::Priority {
            return Err(SubmitError::NoPriorities);
        }
        if tokens >= self.max_model_len {
            return Err(SubmitError::PromptTooLong { tokens, limit: self.max_model_len });
        }
        let most_tokens = u64::from(tokens) + u64::from(request.sampling.max_tokens);
        let longest = most_tokens.min(u64::from(self.max_model_len));
        let capacity = self.kv_capacity_tokens();
        if longest > capacity {
            return Err(SubmitError::NeverFits { tokens: longest, capacity });
        }
        Ok(())
    }

    /// Most tokens that a sequence, prompt and output together, can have here: the model's length, or less
    /// when the KV pool is smaller than that.
    #[must_use]
    pub fn context_tokens(&self) -> u32 {
        self.max_model_len.min(u32::try_from(self.kv_capacity_tokens()).unwrap_or(u32::MAX))
    }
}

/// Why an engine stopped serving.
#[derive(Debug, thiserror::Error)]
#[error("the engine stopped: {message}")]
pub struct EngineFault {
    /// What happened.
    pub message: String,
}

/// Why a request was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {tokens} tokens, but the model's context of {limit} tokens must also hold at least one token of the answer"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: u32,
        /// Tokens of the context.
        limit: u32,
    },
    /// The request could never run to its end, however long it waited.
    #[error("prompt and answer may need {tokens} tokens, but the KV cache holds only {capacity} in all")]
    NeverFits {
        /// Tokens of the prompt and of the longest answer asked for.
        tokens: u64,
        /// Tokens the whole KV pool holds.
        capacity: u64,
    },
    /// The prompt holds nothing, or a token the model does not know.
    #[error("the prompt is not valid: {0}")]
    InvalidPrompt(String),
    /// The request has a priority, and the engine serves in order of arrival.
    #[error(
        "the server serves in order of arrival and takes no priorities; they need --scheduling-policy priority"
    )]
    NoPriorities,
    /// The engine cannot do what the request asks for.
    #[error("the engine does not take the request: {0}")]
    NotTaken(String),
    /// As many requests wait as may; one more would only make all of them later.
    #[error("{waiting} requests are waiting already, which is the limit; try again later")]
    Overloaded {
        /// Requests that wait.
        waiting: u64,
    },
    /// Requests with as many prompt tokens wait as may.
    #[error(
        "requests with {waiting} prompt tokens are waiting already, and the limit is {limit}; try again later"
    )]
    TokensOverloaded {
        /// Prompt tokens of the requests that wait.
        waiting: u64,
        /// The most that may.
        limit: u64,
    },
    /// The engine is draining.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The engine is gone.
    #[error("the engine is not running")]
    EngineDead(#[source] Arc<EngineFault>),
}
