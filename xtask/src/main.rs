//! The project's automation: `cargo xtask demo`, `test`, `soak`, `bench`, `tidy`, `model`,
//! `vllm-conformance`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

mod bench;
mod browser;
mod clients;
mod demo;
mod deploy;
mod installed;
mod llama_server;
mod model;
mod process;
mod server;
mod soak;
mod test;
mod tidy;
mod vllm_conformance;
mod vllm_peer;
mod vllm_real;
mod wheel;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's automation.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetches the default model, serves it with journey tracing on, and shows some journeys.
    Demo(demo::Options),
    /// Runs everything that CI runs.
    Test(test::Options),
    /// Sends requests that end in every way, and checks every journey, for so long.
    Soak(soak::Options),
    /// Measures the whole server under load, and writes bench/results/.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Checks the architecture table and the sources against the project's rules.
    Tidy,
    /// Fetches the default model into the cache, and prints its path.
    Model,
    /// Installs vLLM itself in the cache (6 GB), and holds the server against it. Not part of CI.
    VllmConformance(vllm_conformance::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Bench(bench) => bench::run(&bench),
        Command::Tidy => tidy::run(),
        Command::Model => model::ensure().map(|path| println!("{}", path.display())),
        Command::VllmConformance(options) => vllm_conformance::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
