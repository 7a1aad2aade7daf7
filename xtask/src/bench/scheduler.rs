//! Instructions of the scheduler's steps: journeys off, against a build in which there is no journey code.
//!
//! callgrind counts instructions instead of time, so other work on the machine does not show. The other build is
//! made with `--cfg wayfare_no_journey`, see `crates/journey/src/core_span/absent.rs`.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::Message;
use clap::Args;
use serde::Serialize;

use super::machine::Machine;
use super::results::{head, publish, row};
use crate::process::{cargo, target_directory};

const NO_JOURNEY: &str = "--cfg wayfare_no_journey";
/// What both should differ by at most. A field of a sequence that is not there, and a branch that is not taken, move
/// the compiler's choice of registers, which alone is an instruction or two by sequence.
const TARGET: f64 = 0.001;
const SCENARIOS: [Scenario; 2] = [
    Scenario { name: "decode", what: "64 sequences decode" },
    Scenario { name: "churn", what: "64 sequences of 20 prompt and 16 to 22 output tokens come and go" },
];
/// What the bench does in each run, warm-up included.
const STEPS: f64 = 1_100.0;

/// Options of `cargo xtask bench scheduler`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Prints the results and writes no file.
    #[arg(long)]
    no_file: bool,
}

struct Scenario {
    name: &'static str,
    what: &'static str,
}

/// Instructions of a step, on average.
#[derive(Debug, Serialize)]
struct Row {
    scenario: &'static str,
    without_journey_code: f64,
    off: f64,
    recorded: f64,
}

impl Row {
    fn cost_of_off(&self) -> f64 {
        self.off / self.without_journey_code - 1.0
    }

    fn verdict(&self) -> &'static str {
        if self.cost_of_off() <= TARGET { "" } else { ", above the target" }
    }
}

#[derive(Debug, Serialize)]
struct Results {
    machine: Machine,
    rows: Vec<Row>,
}

/// Entry point of `cargo xtask bench scheduler`.
///
/// # Errors
/// When anything on the way fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let machine = Machine::inspect()?;
    let with = build("with-journey", "")?;
    let without = build("without-journey", NO_JOURNEY)?;
    let mut rows = Vec::new();
    for Scenario { name, what } in SCENARIOS {
        eprintln!("counting: {what}");
        rows.push(Row {
            scenario: what,
            without_journey_code: count(&without, &[name])?,
            off: count(&with, &[name])?,
            recorded: count(&with, &[name, "traced"])?,
        });
    }
    let results = Results { machine, rows };
    publish("scheduler", &results.machine.date, &results, &page(&results), options.no_file)
}

/// Builds the bench with these flags, in a folder of its own so that no other build is made anew.
fn build(folder: &str, flags: &str) -> Result<PathBuf> {
    let target = target_directory()?.join("callgrind").join(folder);
    let mut command =
        cargo(&["build", "--release", "--package", "wayfare-scheduler", "--bench", "instructions"]);
    command.args(["--message-format", "json-render-diagnostics", "--target-dir"]).arg(target);
    let mut building =
        command.env("RUSTFLAGS", flags).stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = building.stdout.take().context("cargo has no output")?;
    let mut program = None;
    for message in Message::parse_stream(BufReader::new(output)) {
        if let Message::CompilerArtifact(artifact) = message?
            && artifact.target.name == "instructions"
        {
            program = artifact.executable;
        }
    }
    let status = building.wait()?;
    match program {
        Some(program) if status.success() => Ok(program.into_std_path_buf()),
        _ => bail!("the bench of the scheduler could not be built: {status}"),
    }
}

/// Instructions by step, in the scheduler alone.
fn count(program: &Path, arguments: &[&str]) -> Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--toggle-collect=instructions::step*", "--toggle-collect=instructions::add*"])
        .arg(program)
        .args(arguments)
        .output()
        .context("cannot start valgrind; is it installed?")?;
    let log = String::from_utf8_lossy(&output.stderr);
    match collected(&log) {
        Some(instructions) if output.status.success() && instructions > 0 => Ok(instructions as f64 / STEPS),
        _ => bail!("callgrind counted nothing:\n{log}"),
    }
}

/// The total in callgrind's log.
fn collected(log: &str) -> Option<u64> {
    let line = log.lines().find(|line| line.contains("Collected"))?;
    line.rsplit(':').next()?.trim().parse().ok()
}

fn page(results: &Results) -> String {
    let mut page = format!(
        "# Instructions of a scheduler step\n\n`cargo xtask bench scheduler`: callgrind. \"Without\" is a \
         build in which the compiler has removed all journey code of the engine's side; \"off\" is the usual build, \
         tracing off; \"recorded\" has a core span for every sequence. Target: {:.1} %.\n\n{}\n",
        100.0 * TARGET,
        results.machine.markdown()
    );
    page += &head(&["steps in which", "without", "off", "off against without", "recorded"]);
    for one in &results.rows {
        page += &row([
            one.scenario.to_owned(),
            format!("{:.1}", one.without_journey_code),
            format!("{:.1}", one.off),
            format!("{:+.3} %{}", 100.0 * one.cost_of_off(), one.verdict()),
            format!("{:.1}", one.recorded),
        ]);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found() {
        let log = "==7== Callgrind, a call-graph generating cache profiler\n==7== Events    : Ir\n\
                   ==7== Collected : 1234567\n==7== \n==7== I   refs:      1,234,567\n";
        assert_eq!(collected(log), Some(1_234_567));
        assert_eq!(collected("==7== nothing"), None);
    }
}
