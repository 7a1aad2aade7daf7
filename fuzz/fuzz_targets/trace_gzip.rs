//! Something compressed with gzip.
#![no_main]

mod traces;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| traces::read([&b"\x1f\x8b\x08"[..], bytes].concat()));
