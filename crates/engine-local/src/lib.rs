//! The engine that runs in this process: one thread owns the scheduler and drives an [`Executor`].
//!
//! Tokens in, tokens out: this crate never sees text.
#![forbid(unsafe_code)]

mod executor;

pub use executor::{Executor, ExecutorError, Model, SampleSpec, StepInput, StepSequence};
