//! Messages with their length before them: the first is as long as it says.
#![no_main]

mod traces;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let length = u32::try_from(bytes.len() / 2 + 1).unwrap_or(u32::MAX).to_be_bytes();
    traces::read([&length[..], b"\x0a", bytes].concat());
});
