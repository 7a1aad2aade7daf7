//! The values that are recorded while a request lives.
//!
//! HOT PATH: an event is a small plain value; recording one writes it into the guard's array and does
//! nothing else.

use std::fmt;
use std::sync::Arc;

use crate::{MonoNs, WaitReason};

/// The request id that clients and traces see (`chatcmpl-…`), shared so that naming a request in another
/// one's event costs a reference count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLabel(Arc<str>);

impl RequestLabel {
    /// Makes a label of a response id.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(Arc::from(id))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something that happened to one sequence in the engine.
#[derive(Clone, Debug, PartialEq)]
pub struct CoreEvent {
    /// What happened.
    pub kind: CoreEventKind,
    /// When it happened.
    pub at: MonoNs,
    /// The engine step it happened in; for QUEUED the last step that was started.
    pub step: u64,
    /// What the sequence was doing.
    pub phase: Phase,
    /// How far the sequence has come, this event included.
    pub progress: Progress,
    /// Preemptions so far, this event included.
    pub num_preemptions: u32,
}

/// The kinds of [`CoreEvent`], with what only that kind carries.
#[derive(Clone, Debug, PartialEq)]
pub enum CoreEventKind {
    /// The scheduler has put the sequence in its waiting queue.
    Queued,
    /// The sequence becomes running.
    Scheduled {
        /// For the first time, or after a preemption.
        kind: ScheduleKind,
        /// Prompt tokens whose KV blocks were found in the prefix cache.
        cached_tokens: u32,
        /// Tokens this step computes for the sequence; 0 where the engine does not say.
        scheduled_tokens: u32,
        /// What it had waited for, when anything stood in its way.
        wait: Option<Wait>,
    },
    /// The first output token exists.
    FirstToken,
    /// Its KV blocks were taken away and it is back in the queue.
    Preempted {
        /// The request that needed the blocks.
        by: Option<RequestLabel>,
        /// Tokens whose KV was lost and must be computed again; 0 where the engine does not say.
        tokens_lost: u32,
        /// KV blocks that went back to the pool; 0 where the engine does not say.
        blocks_freed: u32,
    },
    /// The sequence left the scheduler.
    Finished {
        /// Why it ended.
        status: FinishStatus,
    },
}

/// What a sequence in the waiting queue waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The reason for most of the wait.
    pub reason: WaitReason,
    /// The request that is to blame, where it is one alone; the last one, if there were several in turn.
    pub blocker: Option<RequestLabel>,
}

/// How far a sequence has come, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Prompt tokens computed: a high-water mark that survives preemption.
    pub prefill_done: u32,
    /// Output tokens generated.
    pub decode_done: u32,
}

/// What a sequence is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// In the waiting queue, nothing computed since it was put there.
    Waiting,
    /// Computing prompt tokens, or computing again what a preemption threw away.
    Prefill,
    /// Generating.
    Decode,
}

impl Phase {
    /// The value of the `phase` attribute.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Waiting => "WAITING",
            Phase::Prefill => "PREFILL",
            Phase::Decode => "DECODE",
        }
    }
}

/// Whether SCHEDULED is the first or follows a preemption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleKind {
    /// The first time.
    First,
    /// After a preemption.
    Resume,
}

impl ScheduleKind {
    /// The value of the `schedule.kind` attribute.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ScheduleKind::First => "FIRST",
            ScheduleKind::Resume => "RESUME",
        }
    }
}

/// How a sequence ended in the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishStatus {
    /// End of text, a stop token or a stop string.
    Stopped,
    /// A length limit.
    Length,
    /// The request was abandoned.
    Aborted,
    /// The request was not served because it never could have been.
    Ignored,
    /// The engine failed.
    Error,
}

impl FinishStatus {
    /// The value of the `finish.status` attribute.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FinishStatus::Stopped => "stopped",
            FinishStatus::Length => "length",
            FinishStatus::Aborted => "aborted",
            FinishStatus::Ignored => "ignored",
            FinishStatus::Error => "error",
        }
    }
}

/// Why `llm_request` ended with ABORTED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// The client went away.
    ClientDisconnect,
    /// The request itself was wrong.
    ValidationError,
    /// The engine failed this request.
    GenerationError,
    /// There was no room for the request.
    Overloaded,
    /// A time limit ran out.
    Timeout,
    /// The engine is gone.
    EngineDead,
    /// The server is shutting down.
    Shutdown,
    /// A bug on our side.
    Exception,
}

impl AbortReason {
    /// The value of the `reason` attribute.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            AbortReason::ClientDisconnect => "client_disconnect",
            AbortReason::ValidationError => "validation_error",
            AbortReason::GenerationError => "generation_error",
            AbortReason::Overloaded => "overloaded",
            AbortReason::Timeout => "timeout",
            AbortReason::EngineDead => "engine_dead",
            AbortReason::Shutdown => "shutdown",
            AbortReason::Exception => "exception",
        }
    }
}
