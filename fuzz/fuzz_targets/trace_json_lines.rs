//! A line of JSON: OTLP, or what a trace store answers.
#![no_main]

mod traces;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| traces::read([&b"{\"resourceSpans\":["[..], bytes].concat()));
