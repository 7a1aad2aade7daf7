//! The engine that runs in this process: one thread owns the scheduler and drives an [`Executor`].
//!
//! Requests come in through an inbox that is read between steps; results leave in one batch per step.
//! Tokens in, tokens out: this crate never sees text.
#![forbid(unsafe_code)]

mod engine;
mod engine_thread;
mod executor;
mod exp;
mod random;
mod replay;
mod rules;
mod sampler;
mod sampling_executor;
mod simulated;
mod step_recorder;

pub use engine::{EngineOptions, LocalEngine, QueueLimits, StartError};
pub use executor::{Executor, ExecutorError, Model, SampleSpec, StepInput, StepSequence};
pub use exp::exp;
pub use replay::{
    Arrival, Refusal, Replay, ReplayError, ReplayObserver, ReplayOptions, Served, SharedPrefix, StepReport,
    VirtualClock,
};
pub use rules::{RuleBook, RuleFailure, SequenceRules};
pub use sampler::{LogitsError, Sampler};
pub use sampling_executor::SamplingExecutor;
pub use simulated::{
    AnswerLength, AnswerText, Answers, FailureKind, FailurePlan, LinearStepTime, RefusingEngine,
    RequestLatencies, SimulatedExecutor, StepTimeModel, StepTimer, StepWork,
};
pub use step_recorder::StepTracing;
