//! Options of what reads traces.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use wayfare_insight::{Condition, DEFAULT_MAX_JOURNEYS};

/// Which traces are read, and how much of them is kept.
#[derive(Clone, Debug, Args)]
pub(crate) struct TraceOptions {
    /// Most journeys that are kept in memory; of more, a sample is, by trace id.
    #[arg(long, default_value_t = DEFAULT_MAX_JOURNEYS, value_name = "COUNT")]
    pub(crate) max_journeys: usize,
}

/// Options of `wayfare explain`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ExplainOptions {
    /// Files of traces: OTLP as JSON lines or protobuf, or what Jaeger and Tempo answer; compressed with gzip or zstd
    /// or not. With a file those that were rotated from it are read; of a directory all files; `-` is the standard
    /// input.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Tells about one request: by the id of its response, the id that its client gave it, or its trace id.
    #[arg(long, value_name = "ID", conflicts_with = "slowest")]
    pub(crate) request: Option<String>,

    /// Tells about so many requests, those that took longest.
    #[arg(long, value_name = "COUNT")]
    pub(crate) slowest: Option<NonZeroUsize>,

    /// Prints JSON instead of text.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) traces: TraceOptions,
}

/// Options of `wayfare diff`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DiffOptions {
    /// Traces of the first run: a file, with those that were rotated from it, or a directory.
    #[arg(value_name = "BEFORE")]
    pub(crate) before: PathBuf,

    /// Traces of the second run.
    #[arg(value_name = "AFTER")]
    pub(crate) after: PathBuf,

    /// Ends with exit code 1 when this holds, such as "p99.ttft>+10%"; may be given several times. A change counts
    /// when it is certain: when the interval of 95 % leaves out zero.
    #[arg(long, value_name = "CONDITION")]
    pub(crate) fail_if: Vec<Condition>,

    /// Prints JSON instead of text.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) traces: TraceOptions,
}

/// Options of `wayfare export`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ExportOptions {
    /// Files of traces, as for `wayfare explain`.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// What to make of them.
    #[arg(long, value_enum, value_name = "FORM")]
    pub(crate) to: ExportForm,

    /// File to write; `-` is the standard output. Of tracev2 it is what the names of the two files begin with.
    #[arg(long, short, value_name = "PATH")]
    pub(crate) output: PathBuf,

    /// Most requests that are drawn, for the forms that draw single ones (perfetto): the first to arrive.
    #[arg(long, default_value_t = 20_000, value_name = "COUNT")]
    pub(crate) max_requests: usize,

    #[command(flatten)]
    pub(crate) traces: TraceOptions,
}

/// What traces can be made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportForm {
    /// JSON for ui.perfetto.dev: a track per request and per engine, counters, arrows from blocker to blocked.
    Perfetto,
    /// A row per request.
    Csv,
    /// A row per request, in columns.
    #[cfg(feature = "parquet")]
    Parquet,
    /// The workload, for the simulator BLIS: PATH.yaml and PATH.csv.
    Tracev2,
    /// A report with plots, in one file that loads nothing.
    Html,
}
