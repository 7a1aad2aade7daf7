//! Benches from outside: the whole server under a load driver, each a process on cores of its own; and the
//! scheduler under a counter of instructions.

mod cores;
mod driver;
mod frontend;
mod machine;
mod overhead;
mod results;
mod scheduler;
mod serving;
mod statistics;
mod subject;

use anyhow::Result;
use clap::Subcommand;

/// What is measured.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Bench {
    /// What a request and a streamed token cost the HTTP side, on the simulated engine with steps of no time.
    Frontend(frontend::Options),
    /// What journey tracing costs, by the share of requests that are recorded.
    Overhead(overhead::Options),
    /// What journeys that are off cost the scheduler, in instructions. Needs valgrind.
    Scheduler(scheduler::Options),
    /// The same load on this server and on others that are installed: vLLM on the CPU and llama.cpp.
    Serving(serving::Options),
}

/// Runs one.
///
/// # Errors
/// When anything on the way fails.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Frontend(options) => frontend::run(options),
        Bench::Overhead(options) => overhead::run(options),
        Bench::Scheduler(options) => scheduler::run(options),
        Bench::Serving(options) => serving::run(options),
    }
}
