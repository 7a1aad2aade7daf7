//! The API through its router, with a scripted engine behind it.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be unwrapped is a failure")]

mod answers;
mod disconnect;
mod endings;
mod journeys;
mod limits;
mod metrics;
mod openapi;
mod refusals;
mod rig;
mod robustness;
mod shutdown;
mod streaming;
mod tokenize;
