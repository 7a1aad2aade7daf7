//! The rigs themselves: they must not make other tests lie.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic, like tests")]

mod engine;
mod generation;
mod load;
