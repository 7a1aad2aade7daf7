//! Stock vLLM engine cores as an engine: their messages, their sockets, and what their events tell of a journey.
//!
//! One thread owns all that changes: it takes requests from an inbox, sends them to engine cores, reads their messages,
//! and delivers one batch of outputs per step of theirs. Nothing there is locked.
#![forbid(unsafe_code)]

mod balance;
mod clock_map;
mod engine;
mod engine_thread;
mod incoming;
mod rank;
mod reception;
mod sequence;
mod sockets;
mod startup;
mod steps;
mod table;
pub mod wire;

pub use engine::{AttachedEngines, ModelFacts, VllmEngine};
pub use sockets::{BindError, EngineAddress, EngineListener, GivenListeners};
pub use startup::{AttachError, AttachOptions, Launch, Meeting, Phase, Watch};
