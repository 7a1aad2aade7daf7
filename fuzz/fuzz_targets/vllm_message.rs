//! Any bytes as a message of a vLLM engine core: of outputs in each layout, a greeting, a ready message. The first byte
//! says where the second frame begins.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayfare_engine_vllm::wire::{EngineMessage, Greeting, Layout, ReadyMessage};

fuzz_target!(|data: &[u8]| {
    let Some((cut, rest)) = data.split_first() else { return };
    let frames = rest.split_at_checked(usize::from(*cut) * rest.len() / 256).map_or([rest, &[]], <[_; 2]>::from);
    // Read into again and again, as by the engine.
    let mut message = EngineMessage::default();
    for layout in [Layout::BeforeEcTransfer, Layout::WithEcTransfer, Layout::ByLength] {
        let _ = message.read(&frames, layout);
        let _ = message.read(&frames[..1], layout);
    }
    let _ = Greeting::read(rest);
    let _ = ReadyMessage::read(rest);
});
