//! The messages of vLLM's engine cores: MessagePack, most of it arrays whose fields are known by their position.
//!
//! What is said here of the protocol was read from the published releases 0.23.0 to 0.33.0 of vLLM
//! (`vllm/v1/engine/__init__.py`, `vllm/v1/serial_utils.py`, `vllm/v1/engine/core.py`). It has no version of its own;
//! `tests/golden/` keeps frames of each layout, made by the library that vLLM uses, and what a real 0.32.0 has said.

mod error;
mod handshake;
mod logprobs;
mod outputs;
mod reader;
mod request;
mod stats;
mod tensor;
mod version;
mod wire_id;

pub use error::WireError;
pub use handshake::{Greeting, GreetingStatus, ReadyMessage, encode_init};
pub use outputs::{
    EngineEvent, EngineEventKind, EngineMessage, OutputError, PrefillStats, RequestOutput, StopReason,
    UtilityResult, WireFinish,
};
pub use request::{
    AddRequest, MESSAGE_ABORT, MESSAGE_ADD, MESSAGE_UTILITY, UnfitRequest, UtilityArgument, encode_abort,
    encode_add, encode_utility,
};
pub use stats::{IterationDetails, SchedulerStats};
pub use version::{Layout, UnsupportedVersion, VllmVersion};
pub use wire_id::WireId;

/// What an engine core sends, alone and not as MessagePack, when it cannot go on.
pub const ENGINE_CORE_DEAD: &[u8] = b"ENGINE_CORE_DEAD";
