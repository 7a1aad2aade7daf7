//! Tests of the vLLM engine through what it reads and writes.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod failures;
mod given;
mod golden;
mod journeys;
mod malformed;
mod mock;
mod peer;
mod ranks;
mod recorded;
mod requests;
mod rig;
mod serving;
mod startup;
