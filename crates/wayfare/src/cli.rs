//! The command line. Names and meanings are vLLM's wherever it has the option.

mod chat;
mod frontend;
mod http;
mod insight;
mod live;
mod simulation;
mod vllm;

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use wayfare_console::StoreLimits;
use wayfare_journey::KeepRules;
use wayfare_journey_otlp::FileRotation;

pub(crate) use self::chat::ChatOptions;
pub(crate) use self::frontend::FrontendOptions;
pub(crate) use self::http::{ClientCertificates, CorsOptions, HttpLimitOptions, TlsOptions};
pub(crate) use self::insight::{DiffOptions, ExplainOptions, ExportForm, ExportOptions};
#[cfg(feature = "top")]
pub(crate) use self::live::TopOptions;
pub(crate) use self::live::{FlightOptions, LiveOptions};
pub(crate) use simulation::{
    AnswerOptions, FailureType, OutputKind, SimulateOptions, SimulationOptions, StepTimeOptions,
};
pub(crate) use vllm::{EngineKind, RestartOption, VllmOptions};

use crate::parent::TiedOptions;

/// Where an API key is looked for that is not given as an option.
const API_KEY_VARIABLES: [&str; 2] = ["WAYFARE_API_KEY", "VLLM_API_KEY"];

/// The key of the first variable that is set.
pub(crate) fn api_key_of(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    API_KEY_VARIABLES.iter().find_map(|name| variable(name))
}

/// An OpenAI-compatible LLM server that accounts for all the time of every request.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves a model over the OpenAI API.
    Serve(Box<ServeOptions>),
    /// Serves in the place of vLLM's own front: vLLM starts this when VLLM_USE_RUST_FRONTEND is 1 and
    /// VLLM_RUST_FRONTEND_PATH names this program.
    Frontend(Box<FrontendOptions>),
    /// Becomes another program, which ends when the server that has started it ends.
    #[command(hide = true)]
    Tied(TiedOptions),
    /// Replays a trace of arrivals through the scheduler on a virtual clock and says what became of it: no
    /// server, no model, no waiting.
    Simulate(Box<SimulateOptions>),
    /// Shows the requests in flight of a running server, in this terminal.
    #[cfg(feature = "top")]
    Top(TopOptions),
    /// Says which requests were in flight when a server died that had --flight-recorder.
    Flight(FlightOptions),
    /// Reads traces and says what they tell: what is missing, how long requests took, where the time went, and why.
    Explain(Box<ExplainOptions>),
    /// Compares the traces of two runs, and says which changes are certain.
    Diff(Box<DiffOptions>),
    /// Writes traces in the form of another tool.
    Export(Box<ExportOptions>),
}

/// Options of `wayfare serve`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeOptions {
    /// What to serve: a `.gguf` file; a directory with config.json, tokenizer.json and safetensors; a Hugging
    /// Face name `org/repo` or `org/repo:file.gguf`; `sim` for the simulated engine. Nothing serves the
    /// default model, SmolLM2-135M-Instruct.
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<String>,

    #[command(flatten)]
    pub(crate) http: HttpOptions,

    #[command(flatten)]
    pub(crate) http_limits: HttpLimitOptions,

    #[command(flatten)]
    pub(crate) tls: TlsOptions,

    #[command(flatten)]
    pub(crate) cors: CorsOptions,

    #[command(flatten)]
    pub(crate) chat: ChatOptions,

    #[command(flatten)]
    pub(crate) engine: EngineOptions,

    #[command(flatten)]
    pub(crate) vllm: VllmOptions,

    #[command(flatten)]
    pub(crate) simulation: SimulationOptions,

    #[command(flatten)]
    pub(crate) journey: JourneyOptions,

    #[command(flatten)]
    pub(crate) live: LiveOptions,

    #[command(flatten)]
    pub(crate) steps: StepOptions,

    #[command(flatten)]
    pub(crate) admin: AdminOptions,
}

/// The HTTP side.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct HttpOptions {
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0", value_name = "ADDRESS")]
    pub(crate) host: IpAddr,

    /// Port to listen on; 0 takes a free one and says which.
    #[arg(long, default_value_t = 8000)]
    pub(crate) port: u16,

    /// Unix socket to listen on, instead of an address and a port.
    #[arg(long, value_name = "PATH")]
    pub(crate) uds: Option<PathBuf>,

    /// Names under which clients ask for the model; the first one is the default. Otherwise MODEL as given.
    #[arg(long, num_args = 1.., value_name = "NAME")]
    pub(crate) served_model_name: Vec<String>,

    /// Keys of which a client must present one, as `Authorization: Bearer KEY`; may be given several times. Otherwise
    /// the one in WAYFARE_API_KEY or VLLM_API_KEY.
    #[arg(long, num_args = 1.., value_name = "KEY")]
    pub(crate) api_key: Vec<String>,

    /// Lets clients ask for the metrics of their own request, by `"include_metrics": true`, and adds a Server-Timing
    /// header to answers that are not streamed.
    #[arg(long)]
    pub(crate) enable_per_request_metrics: bool,

    /// How long a request may take from its arrival to its last token, in seconds. Otherwise as long as it takes.
    #[arg(long, value_name = "SECONDS", value_parser = time_limit)]
    pub(crate) request_timeout: Option<Duration>,

    /// How long requests in flight may go on after SIGTERM or Ctrl-C, in seconds.
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) shutdown_timeout: Duration,
}

impl HttpOptions {
    /// The keys of the option, or else of the first variable that is set.
    pub(crate) fn api_keys(&self, variable: impl Fn(&str) -> Option<String>) -> Vec<String> {
        if !self.api_key.is_empty() {
            return self.api_key.clone();
        }
        api_key_of(variable).into_iter().collect()
    }
}

/// The engine and its sizes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineOptions {
    /// Most tokens of a request, prompt and answer together. Otherwise what the model was made for, or less
    /// when the KV cache is smaller.
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_model_len: Option<NonZeroU32>,

    /// Most requests computed at once [default: 32 on a CPU, that of the profile simulated].
    #[arg(long, value_name = "COUNT")]
    pub(crate) max_num_seqs: Option<NonZeroU32>,

    /// Most tokens computed in one step; longer prompts are computed in chunks [default: 2048, that of the
    /// profile simulated].
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_num_batched_tokens: Option<NonZeroU32>,

    /// Tokens per KV block [default: 16, that of the profile simulated].
    #[arg(long, value_name = "TOKENS")]
    pub(crate) block_size: Option<NonZeroU32>,

    /// KV blocks in the pool, of which one is reserved. Otherwise sized from the free memory, or by the profile.
    #[arg(long, alias = "num-kv-blocks", value_name = "COUNT")]
    pub(crate) num_gpu_blocks_override: Option<NonZeroU32>,

    /// Most requests that may wait to be computed; one more is refused with 429. Otherwise any number.
    #[arg(long, value_name = "COUNT")]
    pub(crate) max_num_queued_reqs: Option<NonZeroU32>,

    /// Most prompt tokens of all requests that wait; one that would exceed it is refused with 429. Otherwise any
    /// number.
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_num_queued_tokens: Option<NonZeroU64>,

    /// Who of those that wait goes first: fcfs, in order of arrival, or priority, by the request's field
    /// `priority` (the smallest first), then by arrival.
    #[arg(long, value_enum, default_value_t = PolicyOption::Fcfs, value_name = "POLICY")]
    pub(crate) scheduling_policy: PolicyOption,

    /// Most tokens of one request in a step, so that a long prompt does not take whole steps; 0 for no such limit.
    #[arg(long, default_value_t = 0, value_name = "TOKENS")]
    pub(crate) long_prefill_token_threshold: u32,

    /// Computes long prompts in parts, which is the default.
    #[arg(long, overrides_with = "no_enable_chunked_prefill")]
    pub(crate) enable_chunked_prefill: bool,

    /// Computes every prompt in one step; it waits for a step that has room for the whole of it.
    #[arg(long, overrides_with = "enable_chunked_prefill")]
    pub(crate) no_enable_chunked_prefill: bool,

    /// Shares the KV blocks of prompts that begin alike, which is the default.
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    pub(crate) enable_prefix_caching: bool,

    /// Computes every prompt anew.
    #[arg(long, overrides_with = "enable_prefix_caching")]
    pub(crate) no_enable_prefix_caching: bool,

    /// Shows at /metrics how long cached prefixes stay in the KV cache and lie unused there.
    #[arg(long)]
    pub(crate) kv_cache_metrics: bool,

    /// Share of the KV blocks that are followed for that, above 0 and at most 1.
    #[arg(long, default_value_t = 0.01, value_name = "RATE", value_parser = block_share)]
    pub(crate) kv_cache_metrics_sample: f64,

    /// Makes the random numbers of requests without a seed of their own a fixed series; seeds what is random in
    /// the simulated engine, too.
    #[arg(long)]
    pub(crate) seed: Option<u64>,

    /// Threads that compute. Otherwise one per processor.
    #[arg(long, value_name = "COUNT")]
    pub(crate) threads: Option<NonZeroU32>,

    /// What keys and values are stored as. `auto` is float16.
    #[arg(long, value_enum, default_value_t, value_name = "TYPE")]
    pub(crate) kv_cache_dtype: KvCacheDtype,
}

/// What keys and values are stored as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvCacheDtype {
    #[default]
    Auto,
    Float16,
    #[value(name = "bfloat16")]
    BFloat16,
    Float32,
}

/// Who of those that wait goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyOption {
    /// In order of arrival.
    Fcfs,
    /// By priority, then by arrival.
    Priority,
}

/// Journey tracing.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Journey tracing")]
pub(crate) struct JourneyOptions {
    /// Records the journey of every request.
    #[arg(long)]
    pub(crate) enable_journey_tracing: bool,

    /// Collector that journeys are sent to, such as http://localhost:4317. The protocol is that of
    /// OTEL_EXPORTER_OTLP_PROTOCOL: grpc (the default), http/protobuf or http/json.
    #[arg(long, value_name = "URL")]
    pub(crate) otlp_traces_endpoint: Option<String>,

    /// Share of requests that are recorded, from 0 to 1, chosen by trace id.
    #[arg(long, default_value_t = 1.0, value_name = "RATE")]
    pub(crate) journey_tracing_sample_rate: f64,

    /// File that journeys are appended to, as OTLP/JSON lines.
    #[arg(long, value_name = "PATH")]
    pub(crate) journey_file: Option<PathBuf>,

    /// Size at which the journey file is set aside as PATH.1 and a new one begun.
    #[arg(long, default_value_t = FileRotation::DEFAULT_MAX_BYTES, value_name = "BYTES")]
    pub(crate) journey_file_max_bytes: NonZeroU64,

    /// Most journey files that are kept: PATH, PATH.1, PATH.2, from new to old.
    #[arg(long, default_value_t = FileRotation::DEFAULT_MAX_FILES, value_name = "COUNT")]
    pub(crate) journey_file_max_files: NonZeroU32,

    /// Journeys that are kept whatever the sample rate says, by what became of them, such as
    /// slow>2s,ttft>500ms,queue>1s,error,aborted,preempted,rate=0.01. One match is enough.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "RULES")]
    pub(crate) journey_keep: KeepRules,

    /// Finished journeys that are kept in memory, for GET /journeys/recent; 0 keeps none.
    #[arg(long, default_value_t = StoreLimits::default().max_journeys, value_name = "COUNT")]
    pub(crate) journey_store_max: usize,

    /// Most bytes of all journeys that are kept in memory.
    #[arg(long, default_value_t = StoreLimits::default().max_bytes, value_name = "BYTES")]
    pub(crate) journey_store_bytes: usize,

    /// Where the page at /journeys links to for the whole trace, with {trace_id} in the place of the id, such as
    /// http://localhost:16686/trace/{trace_id}. Otherwise it has no such link.
    #[arg(long, value_name = "URL", value_parser = trace_url_template)]
    pub(crate) trace_url_template: Option<String>,
}

/// Step tracing.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Step tracing")]
pub(crate) struct StepOptions {
    /// Records what the engine does in its steps, and sends it where journeys go.
    #[arg(long)]
    pub(crate) step_tracing_enabled: bool,

    /// Share of steps that are recorded, from 0 to 1.
    #[arg(long, default_value_t = 0.01, value_name = "RATE")]
    pub(crate) step_tracing_sample_rate: f64,

    /// Share of the recorded steps that are recorded with every running request, from 0 to 1.
    #[arg(long, default_value_t = 0.001, value_name = "RATE")]
    pub(crate) step_tracing_rich_subsample_rate: f64,

    /// Steps per span, from 10 to 10000.
    #[arg(long, default_value = "100", value_name = "STEPS", value_parser = closure_interval)]
    pub(crate) step_tracing_closure_interval: NonZeroU32,
}

/// Steering the running server.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Administration")]
pub(crate) struct AdminOptions {
    /// Port to listen on for the administration: what is recorded, pausing the engine, resetting the prefix cache.
    /// 0 takes a free one. Without it there is no such listener.
    #[arg(long, value_name = "PORT")]
    pub(crate) admin_port: Option<u16>,

    /// Address to listen on with --admin-port. Whoever reaches it may pause the server.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub(crate) admin_host: IpAddr,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn block_share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if share > 0.0 && share <= 1.0 { Ok(share) } else { Err("not above 0 and at most 1".to_owned()) }
}

fn closure_interval(text: &str) -> Result<NonZeroU32, String> {
    let steps: NonZeroU32 = text.parse().map_err(|_| "not a number of steps".to_owned())?;
    if (10..=10_000).contains(&steps.get()) { Ok(steps) } else { Err("not from 10 to 10000".to_owned()) }
}

fn trace_url_template(text: &str) -> Result<String, String> {
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return Err("expected a URL that begins with http:// or https://".to_owned());
    }
    if !text.contains("{trace_id}") {
        return Err("expected {trace_id} in it, where the trace's id goes".to_owned());
    }
    Ok(text.to_owned())
}

fn time_limit(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("no request is done in no time; leave the option out for no limit".to_owned()),
        limit => Ok(limit),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_is_in_the_documentation() {
        let page = include_str!("../../../docs/flags.md");
        let command = Cli::command();
        // Some are there with some features only.
        let subcommands = ["serve", "frontend", "simulate", "explain", "diff", "export", "flight", "top"]
            .map(|name| command.find_subcommand(name));
        for subcommand in subcommands.into_iter().flatten() {
            let shown = subcommand.get_arguments().filter_map(|argument| argument.get_long());
            let missing: Vec<_> = shown.filter(|long| !page.contains(&format!("`--{long}"))).collect();
            assert_eq!(missing, [""; 0], "docs/flags.md does not name them");
        }
    }

    #[test]
    fn a_shutdown_timeout_is_a_number_of_seconds() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for bad in ["-1", "soon", "NaN", "1e300"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn api_keys_come_from_the_option_or_a_variable() {
        let parse =
            |arguments: &[&str]| match Cli::parse_from([&["wayfare", "serve"], arguments].concat()).command {
                Command::Serve(options) => options.http,
                _ => unreachable!("it was told to serve"),
            };
        let set = |name: &str| Some(format!("key of {name}"));
        assert_eq!(parse(&["--api-key", "a", "b", "--api-key", "c"]).api_keys(set), ["a", "b", "c"]);
        assert_eq!(parse(&[]).api_keys(set), ["key of WAYFARE_API_KEY"]);
        let only_vllms = |name: &str| set(name).filter(|_| name == "VLLM_API_KEY");
        assert_eq!(parse(&[]).api_keys(only_vllms), ["key of VLLM_API_KEY"]);
        assert_eq!(parse(&[]).api_keys(|_| None), [""; 0]);
    }

    #[test]
    fn a_trace_url_is_of_the_web_and_has_a_place_for_the_id() {
        let jaeger = "http://localhost:16686/trace/{trace_id}";
        assert_eq!(trace_url_template(jaeger), Ok(jaeger.to_owned()));
        for bad in ["http://localhost/trace/", "javascript:alert('{trace_id}')", "localhost/{trace_id}", ""] {
            assert!(trace_url_template(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_limit_is_not_zero() {
        assert_eq!(time_limit("0.5"), Ok(Duration::from_millis(500)));
        assert!(time_limit("0").is_err());
    }
}
