//! The server as its users and operators meet it: over TCP, with a collector behind it; and the built program.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be unwrapped is a failure")]

mod arrived;
mod client;
mod contexts;
mod disconnects;
mod documented;
mod engine_endings;
mod finishes;
mod heap;
mod limits;
mod program;
mod random;
mod refusals;
mod rig;
