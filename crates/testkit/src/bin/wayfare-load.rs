//! The load driver's process: a [`Command`] per line of standard input, an answer per line of standard output.
//! The first line it writes is the address of its OTLP sink. One thread, so that it takes one core.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its caller reads its output")]

use std::error::Error;
use std::io::BufRead as _;
use std::process::ExitCode;

use serde::Serialize;
use wayfare_testkit::load::{self, Command, CountingSink};

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut cause = error.source();
            eprint!("wayfare-load: {error}");
            while let Some(next) = cause {
                eprint!(": {next}");
                cause = next.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sink = runtime.block_on(CountingSink::start())?;
    say(&sink.endpoint())?;
    // The sink must serve while no command comes, so another thread waits for the next one.
    let (tx, mut rx) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if tx.blocking_send(line).is_err() {
                return;
            }
        }
    });
    runtime.block_on(async {
        while let Some(line) = rx.recv().await {
            match serde_json::from_str(&line)? {
                Command::Run(plan) => say(&load::run(&plan).await?)?,
                Command::Generate(plan) => say(&load::generate(plan).await?)?,
                Command::Sink => say(&sink.totals())?,
            }
        }
        Ok(())
    })
}

fn say(answer: &impl Serialize) -> Result<(), serde_json::Error> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(())
}
