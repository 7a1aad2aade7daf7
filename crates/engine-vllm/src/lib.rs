//! Stock vLLM engine cores as an engine: their messages, their sockets, and what their events tell of a journey.
#![forbid(unsafe_code)]

pub mod wire;
