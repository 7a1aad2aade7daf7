//! Everything that CI runs.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use crate::process::{self, cargo};
use crate::{browser, clients, demo, deploy, model, tidy, vllm_peer};

/// Options of `cargo xtask test`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Runs only the steps of these names.
    #[arg(long, num_args = 1.., value_name = "STEP")]
    only: Vec<String>,
}

struct Step {
    name: &'static str,
    run: fn() -> Result<()>,
}

const STEPS: &[Step] = &[
    Step { name: "format", run: || process::run(&mut cargo(&["fmt", "--all", "--check"])) },
    Step { name: "tidy", run: tidy::run },
    Step { name: "clippy", run: clippy },
    Step { name: "model", run: || model::ensure().map(drop) },
    Step { name: "vllm-peer", run: vllm_peer::ensure },
    Step { name: "tests", run: tests },
    Step { name: "doctests", run: || process::run(&mut cargo(&["test", "--workspace", "--doc"])) },
    Step { name: "browser", run: browser::run },
    Step { name: "docs", run: docs },
    Step { name: "deploy", run: deploy::run },
    Step { name: "clients", run: clients::run },
    Step { name: "demo", run: || demo::run(&demo::Options::once()) },
];

/// Runs the steps, and stops at the first that fails.
///
/// # Errors
/// When a step fails.
#[expect(clippy::disallowed_methods, reason = "how long a step took is for people")]
pub(crate) fn run(Options { only }: &Options) -> Result<()> {
    if let Some(unknown) = only.iter().find(|name| STEPS.iter().all(|step| step.name != *name)) {
        let names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        bail!("there is no step {unknown:?}; the steps are {}", names.join(", "));
    }
    for step in STEPS.iter().filter(|step| only.is_empty() || only.iter().any(|name| name == step.name)) {
        eprintln!("\n=== {}", step.name);
        let started = Instant::now();
        (step.run)().map_err(|error| error.context(format!("step {:?} failed", step.name)))?;
        eprintln!("=== {} took {:.0} s", step.name, started.elapsed().as_secs_f64());
    }
    Ok(())
}

/// All targets with all features, and the binary with none.
fn clippy() -> Result<()> {
    let strict = ["--", "--deny", "warnings"];
    process::run(cargo(&["clippy", "--workspace", "--all-targets", "--all-features"]).args(strict))?;
    process::run(cargo(&["clippy", "--package", "wayfare", "--no-default-features"]).args(strict))
}

fn tests() -> Result<()> {
    let mut probe = cargo(&["nextest", "--version"]);
    let has_nextest = probe.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    let arguments: &[&str] = if has_nextest {
        &["nextest", "run", "--workspace"]
    } else {
        &["test", "--workspace", "--lib", "--bins", "--tests"]
    };
    process::run(&mut cargo(arguments))
}

fn docs() -> Result<()> {
    let mut command: Command = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"]);
    process::run(command.env("RUSTDOCFLAGS", "--deny warnings"))
}
