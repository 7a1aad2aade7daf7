//! What journey tracing costs: the same load on servers that differ in nothing but their tracing options.
//!
//! Finished journeys go to an OTLP/gRPC sink in the load driver's process, so making, batching and sending them is
//! part of the server's CPU time, and receiving them is not.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::driver::Report;
use super::machine::Machine;
use super::results::{head, publish, row};
use super::statistics::Spread;
use super::subject::{Laboratory, Load, SubjectOptions, simulated};
use crate::model;

/// Rules of which none matches here, so that each is tried.
const KEEP_RULES: &str = "slow>1000s,ttft>1000s,queue>1000s,error,aborted";
/// Longer than the exporter waits before it sends a batch, several times.
const SETTLE_MS: u64 = 600;
/// 64 tokens in this time are half of what the frontend can do on one core.
const PACED_STEP_US: u32 = 1_000;
/// Both spans of a request.
const SPANS_PER_REQUEST: f64 = 2.0;

/// Options of `cargo xtask bench overhead`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Runs of each kind, interleaved, of which the median counts.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Engines under the server.
    #[arg(long, num_args = 1.., value_enum, default_values_t = [Subject::Simulated, Subject::Paced, Subject::Model])]
    subject: Vec<Subject>,

    #[command(flatten)]
    common: SubjectOptions,
}

/// The engine under the server, and with it what limits the throughput.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
enum Subject {
    /// The simulated engine with steps of no time: the HTTP side.
    Simulated,
    /// The simulated engine with steps so slow that every token is an event of its own: a stream as a client of a
    /// real model sees it. Its throughput is that of the steps; its CPU time is what tells.
    Paced,
    /// The default model: the arithmetic.
    Model,
}

impl Subject {
    fn title(self) -> &'static str {
        match self {
            Subject::Simulated => "Bound by the frontend: simulated engine, steps of no time",
            Subject::Paced => "Streams at a fixed pace: simulated engine, each token an event",
            Subject::Model => "Bound by the engine: the default model",
        }
    }

    fn arguments(self) -> Result<Vec<String>> {
        let load = self.load();
        Ok(match self {
            Subject::Simulated => simulated(0, load.concurrency),
            Subject::Paced => simulated(PACED_STEP_US, load.concurrency),
            Subject::Model => {
                let path = model::ensure()?.to_string_lossy().into_owned();
                // A fixed cache, so that its size does not follow the free memory of the moment.
                [&path, "--max-model-len", "512", "--num-gpu-blocks-override", "512"]
                    .map(String::from)
                    .to_vec()
            }
        })
    }

    fn load(self) -> Load {
        match self {
            Subject::Simulated => Load {
                stream: true,
                output_tokens: 64,
                concurrency: 64,
                requests: 25_600,
                settle_ms: SETTLE_MS,
            },
            Subject::Paced => Load {
                stream: true,
                output_tokens: 128,
                concurrency: 64,
                requests: 2_560,
                settle_ms: SETTLE_MS,
            },
            Subject::Model => {
                Load { stream: true, output_tokens: 32, concurrency: 8, requests: 160, settle_ms: SETTLE_MS }
            }
        }
    }
}

/// How a server traces.
#[derive(Clone, Copy, Debug)]
struct Variant {
    name: &'static str,
    /// Share of requests recorded; `None` when tracing is off.
    rate: Option<f64>,
    has_rules: bool,
}

const VARIANTS: [Variant; 7] = [
    Variant { name: "off", rate: None, has_rules: false },
    Variant { name: "0 %", rate: Some(0.0), has_rules: false },
    Variant { name: "1 %", rate: Some(0.01), has_rules: false },
    Variant { name: "10 %", rate: Some(0.1), has_rules: false },
    Variant { name: "100 %", rate: Some(1.0), has_rules: false },
    Variant { name: "100 % with tail rules", rate: Some(1.0), has_rules: true },
    Variant { name: "tail rules alone, none matches", rate: Some(0.0), has_rules: true },
];

impl Variant {
    fn arguments(self, sink: &str) -> Vec<String> {
        let Some(rate) = self.rate else { return Vec::new() };
        let rate = rate.to_string();
        let mut arguments = vec!["--enable-journey-tracing", "--otlp-traces-endpoint", sink];
        arguments.extend(["--journey-tracing-sample-rate", &rate]);
        if self.has_rules {
            arguments.extend(["--journey-keep", KEEP_RULES]);
        }
        arguments.into_iter().map(String::from).collect()
    }

    /// Whether so many of the requests may have been exported.
    fn allows(self, share: f64) -> bool {
        match self.rate {
            None => share == 0.0,
            // Nothing may be lost, and of nothing nothing comes.
            Some(rate) if rate == 0.0 || rate == 1.0 => share == rate,
            // Chosen at random; ten times too many or too few is a mistake.
            Some(rate) => share < 10.0 * rate,
        }
    }
}

/// One run.
#[derive(Clone, Debug, Serialize)]
struct Run {
    #[serde(flatten)]
    report: Report,
    /// Share of the requests, warm-up included, whose journey has reached the sink.
    exported_share: f64,
}

#[derive(Debug, Serialize)]
struct Row {
    tracing: &'static str,
    requests_per_second: Spread,
    /// In each round by the round's run without tracing.
    relative_throughput: Spread,
    whole_ms_p50: Spread,
    whole_ms_p99: Spread,
    first_ms_p50: Spread,
    first_ms_p99: Spread,
    cpu_us_per_request: Spread,
    /// In each round beyond that round's run without tracing.
    added_cpu_us: Spread,
    exported_share: Spread,
    runs: Vec<Run>,
}

#[derive(Debug, Serialize)]
struct Table {
    subject: Subject,
    load: String,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Results {
    machine: Machine,
    cores: String,
    rounds: u32,
    tables: Vec<Table>,
}

/// Entry point of `cargo xtask bench overhead`.
///
/// # Errors
/// When anything on the way fails, or journeys were lost.
pub(crate) fn run(options: &Options) -> Result<()> {
    let machine = Machine::inspect()?;
    let mut laboratory = Laboratory::set_up(&options.common)?;
    let mut tables = Vec::new();
    for subject in &options.subject {
        tables.push(measure(&mut laboratory, *subject, options.rounds)?);
    }
    let cores = format!("{}, where it {}", laboratory.cores.describe(), laboratory.cores.describe_waiting());
    let results = Results { cores, rounds: options.rounds, tables, machine };
    publish("overhead", &results.machine.date, &results, &page(&results), options.common.no_file)
}

fn measure(laboratory: &mut Laboratory, subject: Subject, rounds: u32) -> Result<Table> {
    let (arguments, load) = (subject.arguments()?, subject.load());
    let mut runs: [Vec<Run>; VARIANTS.len()] = Default::default();
    for round in 0..rounds {
        // Each kind has every place in the order once, so that what follows what makes no difference.
        for place in 0..VARIANTS.len() {
            let index = (place + round as usize) % VARIANTS.len();
            let variant = VARIANTS[index];
            eprintln!("round {} of {rounds}, {subject:?}: {}", round + 1, variant.name);
            runs[index].push(run_once(laboratory, variant, &arguments, &load)?);
        }
    }
    let baseline = runs[0].clone();
    let rows = VARIANTS.iter().zip(runs).map(|(variant, runs)| make_row(variant.name, runs, &baseline));
    let Load { stream, output_tokens, concurrency, requests, .. } = load;
    let kind = if stream { "streamed" } else { "whole" };
    let load =
        format!("{requests} requests a run, {concurrency} in flight, {output_tokens} tokens each, {kind}");
    Ok(Table { subject, load, rows: rows.collect() })
}

/// A server of its own for each run, so that what its memory looks like by chance is another each time.
fn run_once(laboratory: &mut Laboratory, variant: Variant, arguments: &[String], load: &Load) -> Result<Run> {
    let before = laboratory.driver.sink_totals()?.spans;
    let arguments: Vec<String> =
        arguments.iter().cloned().chain(variant.arguments(laboratory.driver.sink())).collect();
    let mut server = laboratory.serve(&arguments)?;
    let warm = laboratory.measure(&server, &load.warm_up())?;
    let report = laboratory.measure(&server, load)?;
    server.stop()?;
    let spans = laboratory.driver.sink_totals()?.spans - before;
    let exported_share = spans as f64 / SPANS_PER_REQUEST / (warm.requests + report.requests) as f64;
    if !variant.allows(exported_share) {
        bail!("with tracing at {}, {exported_share} of the requests were exported", variant.name);
    }
    Ok(Run { report, exported_share })
}

fn make_row(tracing: &'static str, runs: Vec<Run>, baseline: &[Run]) -> Row {
    let over = |of: &dyn Fn(&Run) -> f64| Spread::of(runs.iter().map(of));
    let beside = |of: &dyn Fn(&Report, &Report) -> f64| {
        Spread::of(runs.iter().zip(baseline).map(|(run, base)| of(&run.report, &base.report)))
    };
    Row {
        tracing,
        requests_per_second: over(&|run| run.report.requests_per_second()),
        relative_throughput: beside(&|run, base| run.requests_per_second() / base.requests_per_second()),
        whole_ms_p50: over(&|run| run.report.whole_ms.p50),
        whole_ms_p99: over(&|run| run.report.whole_ms.p99),
        first_ms_p50: over(&|run| run.report.first_ms.p50),
        first_ms_p99: over(&|run| run.report.first_ms.p99),
        cpu_us_per_request: over(&|run| run.report.server_cpu_us()),
        added_cpu_us: beside(&|run, base| run.server_cpu_us() - base.server_cpu_us()),
        exported_share: over(&|run| run.exported_share),
        runs,
    }
}

fn page(results: &Results) -> String {
    let mut page = format!(
        "# What journey tracing costs\n\n`cargo xtask bench overhead`: the same load on servers that differ in their \
         tracing options only, interleaved.\n\n{}* cores: {}\n* rounds: {}, of which the medians; ± is half of the \
         range\n* export: OTLP/gRPC to a sink in the load driver's process. Making and sending it is part of the \
         server's CPU time.\n",
        results.machine.markdown(),
        results.cores,
        results.rounds
    );
    for table in &results.tables {
        page += &format!("\n## {}\n\n{}.\n\n", table.subject.title(), table.load);
        page += &head(&[
            "tracing",
            "requests/s",
            "against off",
            "p50 ms",
            "p99 ms",
            "first p50 ms",
            "first p99 ms",
            "CPU µs per request",
            "added CPU µs",
            "exported",
        ]);
        for one in &table.rows {
            page += &row([
                one.tracing.to_owned(),
                format!(
                    "{:.1} ± {:.1} %",
                    one.requests_per_second.median,
                    100.0 * one.requests_per_second.relative()
                ),
                format!("{:+.1} %", 100.0 * (one.relative_throughput.median - 1.0)),
                format!("{:.2}", one.whole_ms_p50.median),
                format!("{:.2}", one.whole_ms_p99.median),
                format!("{:.2}", one.first_ms_p50.median),
                format!("{:.2}", one.first_ms_p99.median),
                format!(
                    "{:.1} ± {:.1} %",
                    one.cpu_us_per_request.median,
                    100.0 * one.cpu_us_per_request.relative()
                ),
                format!("{:+.1}", one.added_cpu_us.median),
                format!("{:.1} %", 100.0 * one.exported_share.median),
            ]);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_journeys_and_unwanted_ones_are_noticed() {
        let [off, none, one, _, all, ..] = VARIANTS;
        assert!(off.allows(0.0) && !off.allows(0.1));
        assert!(none.allows(0.0) && !none.allows(0.001));
        assert!(one.allows(0.012) && !one.allows(0.2));
        assert!(all.allows(1.0) && !all.allows(0.999));
    }

    #[test]
    fn options_follow_the_variant() {
        let [off, .., rules] = VARIANTS;
        assert!(off.arguments("http://sink").is_empty());
        let arguments = rules.arguments("http://sink").join(" ");
        assert!(arguments.contains("--journey-tracing-sample-rate 0 --journey-keep slow>"), "{arguments}");
    }
}
