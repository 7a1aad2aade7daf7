//! What is fixed when the scheduler is made.

use std::num::NonZeroU32;

use wayfare_engine::SchedulingPolicy;

/// Sizes that bound every step, and the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Most sequences running at once.
    pub max_num_seqs: u32,
    /// Most tokens computed in one step: the token budget.
    pub max_num_batched_tokens: u32,
    /// Most tokens of one sequence, prompt and output together.
    pub max_model_len: u32,
    /// Tokens per KV block.
    pub block_size: u32,
    /// KV blocks in the pool. Block 0 is reserved, as in vLLM, so one less can be used.
    pub num_kv_blocks: u32,
    /// Who of those that wait goes first, and who of those that run is preempted first.
    pub policy: SchedulingPolicy,
    /// Whether a prompt may be computed in parts; otherwise it waits for a step with room for the whole of it.
    pub chunked_prefill: bool,
    /// Most tokens of one sequence in a step; 0 for no other limit than the budget.
    pub long_prefill_token_threshold: u32,
    /// Shares the KV blocks of common prefixes, whose names are hashed with this key; `None` shares nothing.
    /// The key should be random where several parties share a server.
    pub prefix_caching: Option<[u64; 2]>,
    /// Follows the content of one of so many KV blocks, from its birth to its eviction; `None` follows none.
    pub follow_blocks: Option<NonZeroU32>,
}

/// Why a configuration makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchedulerConfigError {
    /// A size is zero.
    #[error("{name} must be at least 1")]
    Zero {
        /// The size.
        name: &'static str,
    },
    /// Every running sequence must get at least one token per step.
    #[error("max_num_batched_tokens ({tokens}) must be at least max_num_seqs ({seqs})")]
    BudgetBelowSequences {
        /// The token budget.
        tokens: u32,
        /// The number of sequences.
        seqs: u32,
    },
    /// A prompt of the greatest length would never be computed.
    #[error(
        "without chunked prefill max_num_batched_tokens ({tokens}) must be at least max_model_len ({max_model_len})"
    )]
    BudgetBelowPrompt {
        /// The token budget.
        tokens: u32,
        /// The longest sequence.
        max_model_len: u32,
    },
    /// The pool has no block besides the reserved one.
    #[error("num_kv_blocks must be at least 2, because block 0 is reserved")]
    EmptyPool,
}

impl SchedulerConfig {
    /// The rules of vLLM's defaults over these sizes, without prefix caching: first come, first served, prompts in
    /// chunks of the whole budget.
    #[must_use]
    pub const fn with_sizes(
        max_num_seqs: u32,
        max_num_batched_tokens: u32,
        max_model_len: u32,
        block_size: u32,
        num_kv_blocks: u32,
    ) -> Self {
        Self {
            max_num_seqs,
            max_num_batched_tokens,
            max_model_len,
            block_size,
            num_kv_blocks,
            policy: SchedulingPolicy::Fcfs,
            chunked_prefill: true,
            long_prefill_token_threshold: 0,
            prefix_caching: None,
            follow_blocks: None,
        }
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// When they do not.
    pub fn validate(&self) -> Result<(), SchedulerConfigError> {
        let sizes = [
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_model_len", self.max_model_len),
            ("block_size", self.block_size),
        ];
        if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(SchedulerConfigError::Zero { name });
        }
        if self.max_num_batched_tokens < self.max_num_seqs {
            let (tokens, seqs) = (self.max_num_batched_tokens, self.max_num_seqs);
            return Err(SchedulerConfigError::BudgetBelowSequences { tokens, seqs });
        }
        if !self.chunked_prefill && self.max_num_batched_tokens < self.max_model_len {
            let (tokens, max_model_len) = (self.max_num_batched_tokens, self.max_model_len);
            return Err(SchedulerConfigError::BudgetBelowPrompt { tokens, max_model_len });
        }
        if self.num_kv_blocks < 2 {
            return Err(SchedulerConfigError::EmptyPool);
        }
        Ok(())
    }

    /// KV blocks that sequences can use.
    #[must_use]
    pub fn usable_kv_blocks(&self) -> u32 {
        self.num_kv_blocks.saturating_sub(1)
    }
}
