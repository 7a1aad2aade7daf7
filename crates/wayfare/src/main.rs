//! `wayfare`: the command line, and the wiring of the parts into a server.
#![forbid(unsafe_code)]

mod backend;
mod cli;
mod http;
#[cfg(feature = "hub")]
mod hub;
mod logging;
mod memory;
mod model;
mod progress;
mod serve;
mod signals;
mod simulate;
mod simulation;
mod telemetry;
mod telemetry_metrics;
mod vllm;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a shell sees when the server could not start, or a trace not be replayed.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    logging::init();
    let outcome = match command {
        Command::Serve(options) => serve::run(&options),
        Command::Simulate(options) => simulate::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(FAILED)
        }
    }
}
