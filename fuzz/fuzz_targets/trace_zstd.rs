//! Something compressed with Zstandard.
#![no_main]

mod traces;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| traces::read([&b"\x28\xb5\x2f\xfd"[..], bytes].concat()));
