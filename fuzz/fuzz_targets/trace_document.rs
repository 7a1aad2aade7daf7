//! JSON over several lines, as Jaeger and Tempo answer.
#![no_main]

mod traces;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| traces::read([&b"{\n\"data\":["[..], bytes].concat()));
