//! What an engine gives back.

use smallvec::SmallVec;
use wayfare_journey::{CoreLedger, MonoNs};

use crate::{EngineStats, RequestId, TokenId};

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-text token, a stop token, or a stop string found by the API layer.
    Stop,
    /// A length limit.
    Length,
    /// The request was abandoned.
    Abort,
    /// The engine failed this sequence.
    Error,
}

impl FinishReason {
    /// The value of the `finished_reason` metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Abort => "abort",
            FinishReason::Error => "error",
        }
    }
}

/// The times of one sequence's life in the engine. Kept whether or not the request is traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceTimes {
    /// Entered the waiting queue.
    pub queued: MonoNs,
    /// First scheduled; `None` if never.
    pub first_scheduled: Option<MonoNs>,
    /// First output token; `None` if none.
    pub first_token: Option<MonoNs>,
    /// Last output token; `None` if none.
    pub last_token: Option<MonoNs>,
}

/// The token that ended a sequence. It is the last of the sequence's tokens and counts as generated, but its
/// text is not part of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminator {
    /// The model's end of text.
    EndOfText,
    /// A token at which the client asked to stop.
    StopToken(TokenId),
}

/// The end of a sequence, with its account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// Why it ended.
    pub reason: FinishReason,
    /// The token that ended it, if one did.
    pub terminator: Option<Terminator>,
    /// When things happened.
    pub times: SequenceTimes,
    /// Times its KV blocks were taken away.
    pub num_preemptions: u32,
    /// Where the sequence's time in the engine and its tokens went. Kept whether or not the request is traced.
    pub ledger: CoreLedger,
}

/// Facts that come with a sequence's first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstOutput {
    /// Prompt tokens found in the prefix cache when the sequence was first scheduled.
    pub cached_tokens: u32,
}

/// How likely a token was. Natural logarithms, before temperature and all changes to the logits, as vLLM's
/// `raw_logprobs`.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token.
    pub token: TokenId,
    /// Its log-probability.
    pub logprob: f32,
    /// How many tokens were at least as likely; 1 for the most likely one.
    pub rank: u32,
    /// The most likely tokens with theirs, most likely first; as many as were asked for.
    pub top: Vec<(TokenId, f32)>,
}

/// What only some requests ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputDetails {
    /// One for each of the output's tokens, when they are wanted.
    pub logprobs: Vec<TokenLogprobs>,
    /// With the first token, one for each prompt token but the first, when they are wanted.
    pub prompt_logprobs: Option<Vec<TokenLogprobs>>,
}

/// What one step did for one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceOutput {
    /// The sequence.
    pub id: RequestId,
    /// New tokens, in order, a terminating one included (see [`Terminator`]).
    pub tokens: SmallVec<[TokenId; 2]>,
    /// Present with the first token.
    pub first: Option<FirstOutput>,
    /// Present when the request asked for it. Boxed because it is rare and large.
    pub details: Option<Box<OutputDetails>>,
    /// Present with the last output of the sequence; nothing follows. Boxed because it is rare and large.
    pub finish: Option<Box<Finish>>,
}

/// The life of a cached prefix in a KV block, from the moment the block was handed out until it was handed out to
/// somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockLife {
    /// How long the block held it, in nanoseconds.
    pub lifetime_ns: u64,
    /// How long nobody had used it at its end, in nanoseconds.
    pub idle_ns: u64,
    /// The times between its last uses, in nanoseconds.
    pub reuse_gaps_ns: SmallVec<[u64; 3]>,
}

/// Everything one engine step produced.
#[derive(Clone, Debug)]
pub struct StepOutputs {
    /// Which of several engines made it, by its place among them; what is in it is of this engine alone.
    pub engine: u16,
    /// The step's number; 0 for outputs that belong to no step.
    pub step: u64,
    /// When its tokens became known.
    pub at: MonoNs,
    /// Tokens the step computed, prefill and decode together.
    pub scheduled_tokens: u32,
    /// The engine's state after the step.
    pub stats: EngineStats,
    /// The cached prefixes that were evicted, as far as they are followed.
    pub block_lives: Vec<BlockLife>,
    /// One entry per sequence that has something new.
    pub outputs: Vec<SequenceOutput>,
}
