//! Tests of the vLLM engine through what it reads and writes.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod golden;
mod malformed;
mod requests;
