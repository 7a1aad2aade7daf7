//! Whatever it is.
#![no_main]

mod traces;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| traces::read([&b""[..], bytes].concat()));
