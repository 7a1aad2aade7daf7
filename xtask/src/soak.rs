//! The randomised endings test, for as long as one wants.

use anyhow::Result;
use clap::Args;

use crate::process::{self, cargo};

const TEST: &str = "random::thousands_of_mixed_endings_keep_every_rule";

/// Options of `cargo xtask soak`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// How long it goes on.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,

    /// Repeats the choices of an earlier run, which said its seed.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the test as a release build. It reports the requests by how they ended, and its memory.
///
/// # Errors
/// When a rule was broken or memory has grown.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut command = cargo(&["test", "--release", "--package", "wayfare", "--test", "it", "--"]);
    // The handlers and engines that panic on purpose say so; what the test reports is on standard output.
    command.args(["--exact", TEST, "--nocapture"]);
    command.env("WAYFARE_SOAK_MINUTES", options.minutes.to_string());
    // With an arena per thread, glibc's fragments grow for long and look like a leak.
    command.env("MALLOC_ARENA_MAX", "1");
    if let Some(seed) = options.seed {
        command.env("WAYFARE_SEED", seed.to_string());
    }
    process::run(&mut command)
}
