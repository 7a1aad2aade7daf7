//! What tests and benches feed to engines and models.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use wayfare_engine::{SamplingParams, TokenId};

/// The default model's file, as `cargo xtask model` leaves it.
///
/// # Panics
/// When it has not been fetched.
#[must_use]
pub fn default_model_path() -> PathBuf {
    let own = env::var_os("WAYFARE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = own.or_else(|| env::home_dir().map(|home| home.join(".cache").join("wayfare")));
    let path = home.expect("HOME or WAYFARE_HOME is set").join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.exists(), "{} is missing: run `cargo xtask model`", path.display());
    path
}

/// The most likely tokens, at most `max_tokens` of them, up to one of `end_of_text`.
#[must_use]
pub fn greedy(max_tokens: u32, end_of_text: &[TokenId]) -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        seed: 0,
        seed_is_chosen: true,
        max_tokens,
        end_of_text: end_of_text.into(),
        stop_token_ids: Arc::from([]),
        rules: None,
        logprobs: None,
        prompt_logprobs: None,
    }
}
