//! The built server, as a user runs it: real processes, real HTTP, a real OTLP sink, the default model.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod client;
mod export;
mod hub;
mod journeys;
mod off;
mod preemption;
mod server;
mod shutdown;
mod start;
mod trace_context;
