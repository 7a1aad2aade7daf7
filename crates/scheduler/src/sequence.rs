//! One sequence while it lives in the scheduler.
//!
//! HOT PATH: everything here runs per scheduled sequence; the token list is allocated to its final size when
//! the sequence arrives.

use wayfare_engine::{
    EngineRequest, Finish, FinishReason, RequestId, SamplingParams, SequenceTimes, Terminator, TokenId,
};
use wayfare_journey::{
    CoreEvent, CoreEventKind, CoreSpan, FinishStatus, LedgerMeter, MonoNs, Phase, Progress, RequestLabel,
    SequenceKey, StepTimes, StepWork,
};

use crate::BlockId;
use crate::prefix::{BlockHash, ChainHash, PrefixHasher};
use crate::queue::Rank;
use crate::waits::WaitMeter;

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

/// The part of a sequence's prefix that others may find.
#[derive(Debug, Default)]
pub(crate) struct PrefixChain {
    /// The names of the first full blocks. As many as were needed so far.
    hashes: Vec<BlockHash>,
    root: Option<ChainHash>,
    /// How many blocks of the table the pool knows the content of, or another sequence had registered.
    pub(crate) registered: u32,
}

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: RequestId,
    pub(crate) label: RequestLabel,
    pub(crate) sampling: SamplingParams,
    core_span: Option<CoreSpan>,
    pub(crate) rank: Rank,
    /// Prompt and output.
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) prompt_len: u32,
    pub(crate) blocks: Vec<BlockId>,
    pub(crate) prefix: PrefixChain,
    pub(crate) place: Place,
    /// Tokens whose keys and values are in the blocks.
    pub(crate) computed: u32,
    /// The most that `computed` ever was; what is computed below it is computed again.
    pub(crate) ever_computed: u32,
    /// Prompt tokens found in the prefix cache when it was first scheduled.
    pub(crate) cached: u32,
    pub(crate) num_preemptions: u32,
    pub(crate) times: SequenceTimes,
    pub(crate) wait: WaitMeter,
    pub(crate) meter: LedgerMeter,
}

impl Sequence {
    pub(crate) fn new(
        request: EngineRequest,
        block_size: u32,
        hasher: Option<&PrefixHasher>,
        last_step: u64,
        queued: MonoNs,
    ) -> Self {
        let EngineRequest { id, label, prompt, sampling, priority, cache_salt, arrived, core_span, .. } =
            request;
        // Log-probabilities of a prompt need all of it computed; vLLM does not look such prompts up either.
        let hasher = hasher.filter(|_| sampling.prompt_logprobs.is_none());
        let room = (sampling.max_tokens as usize).min(RESERVED_OUTPUT_TOKENS);
        let mut tokens = Vec::with_capacity(prompt.len() + room);
        tokens.extend_from_slice(&prompt);
        let most_blocks = tokens.capacity().div_ceil(block_size as usize);
        let mut sequence = Self {
            id,
            label,
            sampling,
            core_span,
            rank: Rank { priority, arrived, id },
            // Prompt and output are bounded by `max_model_len`, a `u32`.
            prompt_len: tokens.len() as u32,
            tokens,
            blocks: Vec::with_capacity(most_blocks),
            prefix: PrefixChain::default(),
            place: Place::Waiting { resumes: false },
            computed: 0,
            ever_computed: 0,
            cached: 0,
            num_preemptions: 0,
            times: SequenceTimes { queued, ..SequenceTimes::default() },
            wait: WaitMeter::new(last_step),
            meter: LedgerMeter::start(queued),
        };
        if let Some(hasher) = hasher {
            sequence.prefix.hashes.reserve_exact(most_blocks);
            sequence.prefix.root = Some(hasher.root(cache_salt.as_deref()));
            sequence.extend_hashes(sequence.prompt_len / block_size, hasher, block_size);
        }
        sequence
    }

    /// Prompt and output tokens.
    pub(crate) fn len(&self) -> u32 {
        self.tokens.len() as u32
    }

    pub(crate) fn num_output(&self) -> u32 {
        self.len() - self.prompt_len
    }

    /// Tokens that are known but not computed.
    pub(crate) fn pending(&self) -> u32 {
        self.len() - self.computed
    }

    /// Whether all it has to compute is its last output token.
    pub(crate) fn decodes(&self) -> bool {
        self.pending() <= 1 && self.num_output() > 0
    }

    /// KV blocks missing for `num_tokens` more computed tokens.
    pub(crate) fn missing_blocks(&self, num_tokens: u32, block_size: u32) -> u32 {
        (self.computed + num_tokens).div_ceil(block_size).saturating_sub(self.blocks.len() as u32)
    }

    /// The names of the first `count` full blocks, whose tokens are all known; none when its prefix is not shared.
    pub(crate) fn hashes(&mut self, count: u32, hasher: &PrefixHasher, block_size: u32) -> &[BlockHash] {
        self.extend_hashes(count, hasher, block_size);
        &self.prefix.hashes[..self.prefix.hashes.len().min(count as usize)]
    }

    /// The block at `index` and the name of what it holds, which is known.
    pub(crate) fn registrable(&self, index: u32) -> (BlockId, BlockHash) {
        (self.blocks[index as usize], self.prefix.hashes[index as usize])
    }

    fn extend_hashes(&mut self, count: u32, hasher: &PrefixHasher, block_size: u32) {
        let Some(root) = self.prefix.root else { return };
        let known = self.prefix.hashes.len();
        let blocks = self.tokens.chunks_exact(block_size as usize).take(count as usize).skip(known);
        for tokens in blocks {
            let parent = self.prefix.hashes.last().map_or(root, |hash| (*hash).into());
            self.prefix.hashes.push(hasher.block(parent, tokens));
        }
    }

    /// From now on nobody shall find what this sequence computes, because it builds upon what was forgotten.
    pub(crate) fn stop_sharing(&mut self) {
        self.prefix = PrefixChain::default();
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.place {
            Place::Waiting { .. } => Phase::Waiting,
            Place::Running if self.decodes() => Phase::Decode,
            Place::Running => Phase::Prefill,
        }
    }

    /// What computing the next `num_tokens` tokens comes to.
    pub(crate) fn work(&self, num_tokens: u32) -> StepWork {
        let before = self.ever_computed;
        let after = before.max(self.computed + num_tokens);
        StepWork {
            tokens: num_tokens,
            prompt_tokens: after.min(self.prompt_len) - before.min(self.prompt_len),
            recomputed_tokens: before.saturating_sub(self.computed).min(num_tokens),
        }
    }

    /// Accounts for a step that computed `work`.
    pub(crate) fn advance(&mut self, work: StepWork, times: &StepTimes) {
        self.meter.stepped(times, work);
        self.meter.recomputed(work.recomputed_tokens);
        self.computed += work.tokens;
        self.ever_computed = self.ever_computed.max(self.computed);
    }

    /// Appends a sampled token and says whether it ends the sequence. The order of the checks is vLLM's:
    /// end of text, stop token, length.
    pub(crate) fn append(
        &mut self,
        token: TokenId,
        max_model_len: u32,
        step: u64,
        at: MonoNs,
    ) -> Option<(FinishReason, Option<Terminator>)> {
        self.tokens.push(token);
        if self.times.first_token.is_none() {
            self.times.first_token = Some(at);
            self.record(CoreEventKind::FirstToken, step, at);
        }
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

    pub(crate) fn is_traced(&self) -> bool {
        self.core_span.is_some()
    }

    /// By what the live view names it, when it is traced.
    pub(crate) fn live_key(&self) -> Option<SequenceKey> {
        self.core_span.as_ref().map(CoreSpan::key)
    }

    /// Shows what a step has computed; `decodes` when that gave a token.
    #[inline]
    pub(crate) fn show_progress(&self, decodes: bool, at: MonoNs) {
        if let Some(span) = &self.core_span {
            span.advance(self.progress(), decodes, at);
        }
    }

    fn progress(&self) -> Progress {
        Progress { prefill_done: self.ever_computed.min(self.prompt_len), decode_done: self.num_output() }
    }

    #[inline]
    pub(crate) fn record(&mut self, kind: CoreEventKind, step: u64, at: MonoNs) {
        if self.core_span.is_some() {
            self.write_down(kind, step, at);
        }
    }

    /// Out of line, so that a step without events is the same code whether journeys exist or not.
    #[cold]
    #[inline(never)]
    fn write_down(&mut self, kind: CoreEventKind, step: u64, at: MonoNs) {
        let event = self.event(kind, step, at);
        if let Some(span) = &mut self.core_span {
            span.record(event);
        }
    }

    fn event(&self, kind: CoreEventKind, step: u64, at: MonoNs) -> CoreEvent {
        let progress = self.progress();
        let num_preemptions = self.num_preemptions;
        CoreEvent { kind, at, step, phase: self.phase(), progress, num_preemptions }
    }

    /// Ends the sequence; its blocks must have gone back to the pool and its time up to `at` be accounted for.
    pub(crate) fn finish(
        mut self,
        reason: FinishReason,
        terminator: Option<Terminator>,
        step: u64,
        at: MonoNs,
    ) -> Finish {
        debug_assert!(self.blocks.is_empty(), "a finished sequence holds KV blocks");
        let ledger = *self.meter.ledger();
        debug_assert_eq!(ledger.total_ns(), at.since(self.times.queued), "time is missing");
        if let Some(span) = self.core_span.take() {
            let status = match reason {
                FinishReason::Stop => FinishStatus::Stopped,
                FinishReason::Length => FinishStatus::Length,
                FinishReason::Abort => FinishStatus::Aborted,
                FinishReason::Error => FinishStatus::Error,
            };
            let event = self.event(CoreEventKind::Finished { status }, step, at);
            span.finish_with_account(event, ledger);
        }
        Finish { reason, terminator, times: self.times, num_preemptions: self.num_preemptions, ledger }
    }
}
