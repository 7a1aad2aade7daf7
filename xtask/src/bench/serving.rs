//! The same load on this server and on others: vLLM's build for processors and llama.cpp's server, where they are in the
//! cache.
//!
//! Every server may use all cores, and so may the driver, which takes little of them. Only one server runs at a time:
//! those that start quickly are started for each run, those that do not are stopped where they stand. In each round
//! every server gets every load, one load after the other, so that what else the machine does meets all of them.

mod contenders;
mod hardware;
mod loads;
mod outcome;
mod page;
mod process_tree;
mod server;

use std::path::PathBuf;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum as _};
use serde::Serialize;
use serde_json::json;

use self::contenders::{Contender, Programs, shown};
use self::hardware::Hardware;
use self::loads::{Load, LoadName};
use self::outcome::{Report, Row, Table};
use self::server::{Server, log_folder};
use super::driver::Driver;
use super::machine::Machine;
use super::results::publish;
use super::statistics::Spread;
use super::subject::SubjectOptions;
use crate::process::{cargo, run as run_command, target_directory};

const PATH: &str = "/v1/completions";
/// The request by which the time from a start to the first token is taken.
const FIRST: Load =
    Load { prompt_tokens: 16, shared_tokens: 0, output_tokens: 1, concurrency: 1, requests: 1 };

/// Options of `cargo xtask bench serving`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Runs of each load on each server, interleaved, of which the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Loads, instead of all.
    #[arg(long, num_args = 1.., value_enum)]
    load: Vec<LoadName>,

    /// Servers among those installed, instead of all.
    #[arg(long, num_args = 1.., value_enum)]
    only: Vec<Contender>,

    /// Share of each load's requests that is sent. For a quick look.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    percent: u32,

    /// First installs in the cache what is not there yet: vLLM (6 GB from PyPI) and llama.cpp's server (compiled, for
    /// which a C++ compiler is needed).
    #[arg(long)]
    install: bool,

    #[command(flatten)]
    subject: SubjectOptions,
}

/// What is known of a contender beside its runs.
#[derive(Clone, Debug, Serialize)]
struct Participant {
    contender: Contender,
    version: String,
    weights: &'static str,
    /// The command of its first start.
    command: String,
    /// From its start to its first token, with its files in the page cache as far as earlier starts left them there.
    first_token_seconds: Vec<f64>,
    /// The highest of its starts.
    peak_resident_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Results {
    machine: Machine,
    hardware: Hardware,
    rounds: u32,
    participants: Vec<Participant>,
    tables: Vec<Table>,
}

/// Entry point of `cargo xtask bench serving`.
///
/// # Errors
/// When anything on the way fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    // Ctrl-C ends the driver, then we end, and the servers with us, those that are stopped as well.
    ctrlc::set_handler(|| ()).context("cannot listen for Ctrl-C")?;
    let machine = Machine::inspect()?;
    let mut rig = Rig::set_up(options, &machine)?;
    let names = if options.load.is_empty() { LoadName::value_variants() } else { &options.load };
    let loads: Vec<(LoadName, Load)> =
        names.iter().map(|name| (*name, name.load().scaled(options.percent))).collect();
    rig.start_kept(&loads)?;
    let mut runs: Vec<Vec<Vec<Report>>> =
        loads.iter().map(|_| vec![Vec::new(); rig.participants.len()]).collect();
    for round in 0..options.rounds {
        for (index, (name, load)) in loads.iter().enumerate() {
            let seed = u64::from(round) << 32 | (*name as u64) << 16;
            for place in 0..rig.participants.len() {
                // Each has every place in the order, so that what follows what makes no difference.
                let participant = (place + round as usize) % rig.participants.len();
                let contender = rig.participants[participant].contender;
                if contender.takes(*name) {
                    eprintln!("round {} of {}, {name:?}: {}", round + 1, options.rounds, contender.title());
                    runs[index][participant].push(rig.measure(participant, *load, seed)?);
                }
            }
        }
    }
    let cores = rig.cores;
    let participants = rig.finish()?;
    let tables = loads.into_iter().zip(runs).map(|((name, load), runs)| {
        let rows = participants.iter().zip(runs).filter(|(participant, _)| participant.contender.takes(name));
        let rows = rows.map(|(participant, runs)| Row::of(participant.contender, runs, cores));
        Table::of(name, load, rows.collect())
    });
    let tables = tables.collect();
    let results =
        Results { machine, hardware: Hardware::inspect(), rounds: options.rounds, participants, tables };
    publish("serving", &results.machine.date, &results, &page::page(&results), options.subject.no_file)
}

/// What the bench works with.
struct Rig {
    programs: Programs,
    driver: Driver,
    logs: PathBuf,
    cores: usize,
    participants: Vec<Participant>,
    /// Those that are not started for each run, by their place among the participants.
    kept: Vec<(usize, Server)>,
}

impl Rig {
    /// Builds what is needed, and finds out who takes part.
    fn set_up(options: &Options, machine: &Machine) -> Result<Self> {
        let target = target_directory()?;
        let release = target.join("release");
        let wayfare = options.subject.program()?;
        let driver = ["build", "--release", "--package", "wayfare-testkit", "--bin", "wayfare-load"];
        run_command(&mut cargo(&driver))?;
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        let programs = Programs::find(wayfare, options.install, cores)?;
        let installed = programs.contenders();
        if let Some(missing) = options.only.iter().find(|one| !installed.contains(one)) {
            bail!("{} is not in the cache; --install puts it there", missing.title());
        }
        let takes_part = |contender: &Contender| options.only.is_empty() || options.only.contains(contender);
        let participants = installed.into_iter().filter(takes_part).map(|contender| {
            let version = match &options.subject.server {
                Some(program) if contender == Contender::Wayfare => {
                    let name = program.file_name().unwrap_or(program.as_os_str());
                    format!("another build, {}", name.to_string_lossy())
                }
                _ => programs.version(contender, &machine.commit)?,
            };
            Ok(Participant {
                contender,
                version,
                weights: Programs::weights(contender),
                command: String::new(),
                first_token_seconds: Vec::new(),
                peak_resident_bytes: 0,
            })
        });
        let participants = participants.collect::<Result<_>>()?;
        let driver = Driver::start(&release.join("wayfare-load"))?;
        Ok(Self { programs, driver, logs: log_folder(&target)?, cores, participants, kept: Vec::new() })
    }

    /// Starts those that are kept for all rounds and have a load to take, and stops each where it stands.
    fn start_kept(&mut self, loads: &[(LoadName, Load)]) -> Result<()> {
        for participant in 0..self.participants.len() {
            let contender = self.participants[participant].contender;
            let load = loads.iter().find(|(name, _)| contender.takes(*name));
            if let Some((_, load)) = load.filter(|_| contender.is_kept()) {
                eprintln!("starting {} …", contender.title());
                let server = self.start(participant, *load)?;
                server.pause();
                self.kept.push((participant, server));
            }
        }
        Ok(())
    }

    /// Starts a server, and takes its time to the first token.
    fn start(&mut self, participant: usize, load: Load) -> Result<Server> {
        let Self { programs, participants, logs, .. } = self;
        let Participant { contender, command: shown_command, .. } = &mut participants[participant];
        let log = logs.join(format!("{contender:?}.log"));
        let command = programs.command(*contender, load)?;
        if shown_command.is_empty() {
            *shown_command = shown(&command);
        }
        let server = Server::start(command, &log)?;
        // Another prompt for each start, so that none is cached.
        let seed = u64::MAX - self.participants[participant].first_token_seconds.len() as u64;
        self.ask(participant, &server, FIRST, seed)?;
        self.participants[participant].first_token_seconds.push(server.seconds_since_start());
        Ok(server)
    }

    /// One run of a load on one server, warm-up included.
    fn measure(&mut self, participant: usize, load: Load, seed: u64) -> Result<Report> {
        let place = self.kept.iter().position(|(kept, _)| *kept == participant);
        let server = match place {
            Some(place) => self.kept.remove(place).1,
            None => self.start(participant, load)?,
        };
        server.resume();
        self.ask(participant, &server, load.warm_up(), seed)?;
        let report = self.ask(participant, &server, load, seed + 1)?;
        let peak = &mut self.participants[participant].peak_resident_bytes;
        *peak = server.peak_resident_bytes().max(*peak);
        if place.is_some() {
            server.pause();
            self.kept.push((participant, server));
        } else {
            server.stop()?;
        }
        Ok(report)
    }

    fn ask(&mut self, participant: usize, server: &Server, load: Load, seed: u64) -> Result<Report> {
        let contender = self.participants[participant].contender;
        let bodies = load.prompts(seed).into_iter();
        let bodies: Vec<String> =
            bodies.map(|prompt| contender.body(&prompt, load.output_tokens).to_string()).collect();
        // The fields are those of `GenerationPlan` in the testkit, which says what they mean.
        let plan = json!({
            "address": server.address(),
            "path": PATH,
            "bodies": bodies,
            "concurrency": load.concurrency,
            "prompt_tokens": load.prompt_tokens,
            "output_tokens": load.output_tokens,
        });
        let answer = self.driver.ask(&json!({ "generate": plan }));
        let answer = answer.with_context(|| format!("{} cannot be measured", contender.title()))?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Ends the servers that were kept.
    fn finish(self) -> Result<Vec<Participant>> {
        for (_, server) in self.kept {
            server.stop()?;
        }
        Ok(self.participants)
    }
}

impl Participant {
    fn first_token(&self) -> Spread {
        Spread::of(self.first_token_seconds.iter().copied())
    }
}
