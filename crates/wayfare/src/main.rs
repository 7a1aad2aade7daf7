//! `wayfare`: the command line, and the wiring of the parts into a server.
#![deny(unsafe_code)]

mod backend;
mod cli;
mod diff;
mod explain;
mod export;
mod flight;
mod http;
#[cfg(feature = "hub")]
mod hub;
mod inherited;
mod logging;
mod memory;
mod model;
mod progress;
mod seat;
mod serve;
mod signals;
mod simulate;
mod simulation;
mod telemetry;
mod telemetry_metrics;
#[cfg(feature = "top")]
mod top;
mod traces;
mod vllm;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a shell sees when the server could not start, a trace not be replayed or read, or a recording not be read.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    logging::init();
    let done = |()| ExitCode::SUCCESS;
    let outcome = match command {
        Command::Serve(options) => serve::run(&options, None).map(done),
        Command::Frontend(options) => seat::run(&options).map(done),
        Command::Simulate(options) => simulate::run(&options).map(done),
        Command::Explain(options) => explain::run(&options).map(done),
        Command::Diff(options) => diff::run(&options),
        Command::Export(options) => export::run(&options).map(done),
        #[cfg(feature = "top")]
        Command::Top(options) => top::run(&options).map(done),
        Command::Flight(options) => flight::run(&options).map(done),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(FAILED)
        }
    }
}
