//! One sequence while it lives in the scheduler.
//!
//! HOT PATH: everything here runs per scheduled sequence; the token list is allocated to its final size when
//! the sequence arrives.

use wayfare_engine::{
    EngineRequest, Finish, FinishReason, RequestId, SamplingParams, SequenceTimes, Terminator, TokenId,
};
use wayfare_journey::{
    CoreEvent, CoreEventKind, CoreSpan, FinishStatus, MonoNs, Phase, Progress, RequestLabel,
};

use crate::BlockId;

/// Lists of tokens and blocks are given their final size at once up to this many output tokens; longer answers
/// grow them.
const RESERVED_OUTPUT_TOKENS: usize = 4096;

/// Where a sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the waiting queue; `resumes` after a preemption.
    Waiting { resumes: bool },
    /// In the running list.
    Running,
}

/// What computing some tokens came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Advance {
    /// Prompt tokens computed for the first time.
    pub(crate) prompt_tokens: u32,
    /// Tokens that had been computed before a preemption.
    pub(crate) recomputed_tokens: u32,
}

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: RequestId,
    pub(crate) label: RequestLabel,
    pub(crate) sampling: SamplingParams,
    core_span: Option<CoreSpan>,
    /// Prompt and output.
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) prompt_len: u32,
    pub(crate) blocks: Vec<BlockId>,
    pub(crate) place: Place,
    /// Tokens whose keys and values are in the blocks.
    pub(crate) computed: u32,
    /// The most that `computed` ever was; what is computed below it is computed again.
    pub(crate) ever_computed: u32,
    pub(crate) recomputed: u32,
    pub(crate) num_preemptions: u32,
    pub(crate) times: SequenceTimes,
}

impl Sequence {
    pub(crate) fn new(request: EngineRequest, block_size: u32, queued: MonoNs) -> Self {
        let EngineRequest { id, label, prompt, sampling, core_span, .. } = request;
        let room = (sampling.max_tokens as usize).min(RESERVED_OUTPUT_TOKENS);
        let mut tokens = Vec::with_capacity(prompt.len() + room);
        tokens.extend_from_slice(&prompt);
        let most_blocks = tokens.capacity().div_ceil(block_size as usize);
        Self {
            id,
            label,
            sampling,
            core_span,
            prompt_len: tokens.len() as u32,
            tokens,
            blocks: Vec::with_capacity(most_blocks),
            place: Place::Waiting { resumes: false },
            computed: 0,
            ever_computed: 0,
            recomputed: 0,
            num_preemptions: 0,
            times: SequenceTimes { queued, ..SequenceTimes::default() },
        }
    }

    /// Prompt and output tokens.
    pub(crate) fn len(&self) -> u32 {
        // Prompt and output are bounded by `max_model_len`, a `u32`.
        self.tokens.len() as u32
    }

    pub(crate) fn num_output(&self) -> u32 {
        self.len() - self.prompt_len
    }

    /// Tokens that are known but not computed.
    pub(crate) fn pending(&self) -> u32 {
        self.len() - self.computed
    }

    /// KV blocks missing for `num_tokens` more computed tokens.
    pub(crate) fn missing_blocks(&self, num_tokens: u32, block_size: u32) -> u32 {
        (self.computed + num_tokens).div_ceil(block_size).saturating_sub(self.blocks.len() as u32)
    }

    fn phase(&self) -> Phase {
        match self.place {
            Place::Waiting { .. } => Phase::Waiting,
            Place::Running if self.num_output() > 0 && self.pending() <= 1 => Phase::Decode,
            Place::Running => Phase::Prefill,
        }
    }

    /// Accounts for `num_tokens` computed tokens.
    pub(crate) fn advance(&mut self, num_tokens: u32) -> Advance {
        let before = self.ever_computed;
        let again = before.saturating_sub(self.computed).min(num_tokens);
        self.recomputed += again;
        self.computed += num_tokens;
        self.ever_computed = before.max(self.computed);
        let first_time = self.ever_computed.min(self.prompt_len) - before.min(self.prompt_len);
        Advance { prompt_tokens: first_time, recomputed_tokens: again }
    }

    /// Appends a sampled token and says whether it ends the sequence. The order of the checks is vLLM's:
    /// end of text, stop token, length.
    pub(crate) fn append(
        &mut self,
        token: TokenId,
        max_model_len: u32,
        at: MonoNs,
    ) -> Option<(FinishReason, Option<Terminator>)> {
        self.tokens.push(token);
        self.times.first_token.get_or_insert(at);
        self.times.last_token = Some(at);
        if self.sampling.end_of_text.contains(&token) {
            return Some((FinishReason::Stop, Some(Terminator::EndOfText)));
        }
        if self.sampling.stop_token_ids.contains(&token) {
            return Some((FinishReason::Stop, Some(Terminator::StopToken(token))));
        }
        let is_full = self.len() >= max_model_len || self.num_output() >= self.sampling.max_tokens;
        is_full.then_some((FinishReason::Length, None))
    }

    pub(crate) fn record(&mut self, kind: CoreEventKind, step: u64, at: MonoNs) {
        if self.core_span.is_some() {
            let event = self.event(kind, step, at);
            if let Some(span) = &mut self.core_span {
                span.record(event);
            }
        }
    }

    fn event(&self, kind: CoreEventKind, step: u64, at: MonoNs) -> CoreEvent {
        let progress = Progress {
            prefill_done: self.ever_computed.min(self.prompt_len),
            decode_done: self.num_output(),
        };
        let num_preemptions = self.num_preemptions;
        CoreEvent { kind, at, step, phase: self.phase(), progress, num_preemptions }
    }

    /// Ends the sequence; its blocks must have gone back to the pool.
    pub(crate) fn finish(
        mut self,
        reason: FinishReason,
        terminator: Option<Terminator>,
        step: u64,
        at: MonoNs,
    ) -> Finish {
        debug_assert!(self.blocks.is_empty(), "a finished sequence holds KV blocks");
        if let Some(span) = self.core_span.take() {
            let status = match reason {
                FinishReason::Stop => FinishStatus::Stopped,
                FinishReason::Length => FinishStatus::Length,
                FinishReason::Abort => FinishStatus::Aborted,
                FinishReason::Error => FinishStatus::Error,
            };
            span.finish(self.event(CoreEventKind::Finished { status }, step, at));
        }
        Finish {
            reason,
            terminator,
            times: self.times,
            num_preemptions: self.num_preemptions,
            recomputed_tokens: self.recomputed,
        }
    }
}
