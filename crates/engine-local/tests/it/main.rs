//! The engine thread through the engine contract.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod control;
mod engine;
mod replay;
mod rig;
mod simulated;
mod steps;
