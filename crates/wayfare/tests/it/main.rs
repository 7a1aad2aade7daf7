//! The server as its users and operators meet it: over TCP, with a collector behind it; and the built program, with
//! the default model.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be unwrapped is a failure")]

mod arrived;
mod audit;
mod browsers;
mod choices;
mod client;
mod connections;
mod contexts;
mod dashboard;
mod disconnects;
mod documented;
mod engine_endings;
mod explained;
mod export;
mod field;
mod finishes;
mod flight;
mod grammars;
mod heap;
mod hub;
mod journeys;
mod limits;
mod live;
mod logprobs;
mod memory;
mod metrics_page;
mod off;
mod per_request;
mod preemption;
mod program;
mod random;
mod raw_client;
mod refusals;
mod responses;
mod rig;
mod seat;
mod server;
mod shutdown;
mod simulate;
mod simulated;
mod slow_clients;
mod start;
mod steering;
mod steps;
mod token_rules;
mod tools;
#[cfg(feature = "top")]
mod top;
mod trace_context;
mod transports;
mod vllm;
mod vllm_ranks;
