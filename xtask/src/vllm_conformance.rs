//! Holds the server against vLLM itself.

use anyhow::Result;
use clap::Args;

use crate::vllm_real;

/// Options of `cargo xtask vllm-conformance`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Only installs what is needed, and prints the command by which vLLM serves the model.
    #[arg(long)]
    set_up: bool,
}

/// Installs what is needed, and says how to serve with it.
///
/// # Errors
/// When that fails.
pub(crate) fn run(Options { set_up: _ }: &Options) -> Result<()> {
    let vllm = vllm_real::ensure()?;
    println!("{:?}", vllm.serve());
    Ok(())
}
