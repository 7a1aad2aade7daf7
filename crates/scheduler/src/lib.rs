//! Continuous batching over a pool of KV blocks, as vLLM's scheduler does it.
//!
//! Pure: time and sampled tokens are arguments, nothing here reads a clock, starts a thread or sees text, so
//! a test can replay any schedule. One step is [`Scheduler::schedule`], then whoever computes tokens, then
//! [`Scheduler::commit`].
//!
//! A sequence's events are recorded in the [`wayfare_journey::CoreSpan`] that came with its request.
#![forbid(unsafe_code)]

mod block_pool;
mod commit;
mod config;
mod control;
mod invariants;
mod prefix;
mod queue;
mod residency;
mod schedule;
mod scheduler;
mod sequence;
mod step_facts;
mod waits;

pub use block_pool::BlockId;
pub use config::{SchedulerConfig, SchedulerConfigError};
pub use control::ResetOutcome;
pub use invariants::Violation;
pub use schedule::{PlannedSequence, StepPlan};
pub use scheduler::{DuplicateRequest, Scheduler, WaitingSequence};
pub use step_facts::{RunningSequence, StepFacts};
