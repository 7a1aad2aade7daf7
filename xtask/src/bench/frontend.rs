//! What the HTTP side costs: the whole server over engines that compute nothing. Alone, over the simulated engine; and
//! next to the fronts that vLLM has itself, over an engine core that speaks vLLM's protocol.

mod fronts;
mod mock_vllm;
mod simulated;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use self::mock_vllm::MockVllm;
use self::simulated::Simulated;
use super::driver::Report;
use super::machine::Machine;
use super::results::publish;
use super::statistics::Spread;
use super::subject::{Laboratory, SubjectOptions};

/// Options of `cargo xtask bench frontend`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Runs of each kind, of which the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// About how long one run takes, in seconds.
    #[arg(long, default_value_t = 3)]
    seconds: u32,

    /// Engines under the server.
    #[arg(long, num_args = 1.., value_enum, default_values_t = [EngineKind::MockVllm, EngineKind::Simulated])]
    engine: Vec<EngineKind>,

    /// Requests in flight over the simulated engine.
    #[arg(long, num_args = 1.., default_values_t = [1, 64, 512], value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Vec<u32>,

    /// Requests in flight over the mock of vLLM's engine core.
    #[arg(long, num_args = 1.., default_values_t = [64, 256], value_parser = clap::value_parser!(u32).range(1..))]
    mock_concurrency: Vec<u32>,

    /// The program `vllm` of release 0.32, instead of the one that is installed in the cache.
    #[arg(long, value_name = "PROGRAM")]
    vllm: Option<PathBuf>,

    /// The program `vllm-rs` of release 0.32, instead of the one that is fetched into the cache.
    #[arg(long, value_name = "PROGRAM")]
    vllm_rs: Option<PathBuf>,

    /// A Hugging Face directory with the text side of a model, instead of the default model's.
    #[arg(long, value_name = "DIRECTORY")]
    model: Option<PathBuf>,

    #[command(flatten)]
    subject: SubjectOptions,
}

/// What computes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EngineKind {
    /// A mock of vLLM's engine core, in a process of its own, under this server and under vLLM's own.
    MockVllm,
    /// The simulated engine, in the server's process.
    Simulated,
}

#[derive(Debug, Serialize)]
struct Results {
    machine: Machine,
    cores: String,
    rounds: u32,
    mock_vllm: Option<MockVllm>,
    simulated: Option<Simulated>,
}

/// Entry point of `cargo xtask bench frontend`.
///
/// # Errors
/// When anything on the way fails, or journeys were lost.
pub(crate) fn run(options: &Options) -> Result<()> {
    let machine = Machine::inspect()?;
    let wanted = |kind| options.engine.contains(&kind);
    let programs = wanted(EngineKind::MockVllm).then(|| fronts::Programs::find(options)).transpose()?;
    let mut laboratory = Laboratory::set_up(&options.subject)?;
    let mock_vllm =
        programs.map(|programs| mock_vllm::measure(&mut laboratory, &programs, options)).transpose()?;
    let simulated = wanted(EngineKind::Simulated).then(|| simulated::measure(&mut laboratory, options));
    let results = Results {
        cores: laboratory.cores.describe(),
        rounds: options.rounds,
        mock_vllm,
        simulated: simulated.transpose()?,
        machine,
    };
    publish("frontend", &results.machine.date, &results, &page(&results), options.subject.no_file)
}

fn page(results: &Results) -> String {
    let mut page = format!(
        "# Frontend\n\n`cargo xtask bench frontend`: what requests and tokens cost the server, over engines that compute \
         nothing.\n\n{}* cores: {}\n* rounds: {}, of which the medians; ± is half of the range\n\nCPU time is that of \
         the server's process, kernel included.\n",
        results.machine.markdown(),
        results.cores,
        results.rounds,
    );
    let sections = [
        results.mock_vllm.as_ref().map(mock_vllm::section),
        results.simulated.as_ref().map(simulated::section),
    ];
    for section in sections.into_iter().flatten() {
        page += "\n";
        page += &section;
    }
    page
}

/// As many requests as take about so long, whole waves of them.
fn enough(warm: &Report, seconds: u32, concurrency: u32) -> u64 {
    let wanted = (warm.requests_per_second() * f64::from(seconds)) as u64;
    let wave = u64::from(concurrency);
    wanted.div_ceil(wave).max(4) * wave
}

fn shown(spread: &Spread, digits: usize) -> String {
    format!("{:.digits$} ± {:.1} %", spread.median, 100.0 * spread.relative())
}
