//! A condition of `--fail-if`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayfare_insight::Condition;

fuzz_target!(|text: &str| {
    let _ = text.parse::<Condition>();
});
