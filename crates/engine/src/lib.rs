//! The contract between the API layer and any inference engine.
//!
//! An engine takes [`EngineRequest`]s (tokens in, no text), and gives back one [`StepOutputs`] per step to an
//! [`OutputSink`]. Everything about HTTP and text stays on the other side of this border; everything about
//! tensors, schedulers and wire formats stays on this side of it.
#![forbid(unsafe_code)]

mod constraint;
mod contract;
mod control;
mod output;
mod request;
mod stats;

pub use constraint::{ConstraintError, OutputConstraint, OutputGrammar, TokenConstraint, TokenSet};
pub use contract::{
    AbortCause, Engine, EngineFault, EngineLimits, OutputSink, SchedulingPolicy, SubmitError,
};
pub use control::{EngineCommand, EngineControl, EngineReply, PauseMode};
pub use output::{
    BlockLife, Finish, FinishReason, FirstOutput, OutputDetails, SequenceOutput, SequenceTimes, StepOutputs,
    Terminator, TokenLogprobs,
};
pub use request::{EngineRequest, RequestId, SamplingParams, TokenId, TokenRules};
pub use stats::{EngineStats, StatsCell};
