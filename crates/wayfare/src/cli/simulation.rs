//! Options of the simulated engine. Names and meanings are those of `llm-d-inference-sim` wherever it has the
//! option; docs/simulator.md says where they differ.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use wayfare_engine_local::AnswerLength;
use wayfare_journey::{KeepRules, parse_duration_ns};
use wayfare_journey_otlp::FileRotation;

use super::{EngineOptions, JourneyOptions};

/// How long steps take.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Simulated engine")]
pub(crate) struct StepTimeOptions {
    /// How long steps take, and how large the engine is: the name of a profile that comes with wayfare, or a
    /// file of the same form. docs/simulator.md lists and explains them [default: h100-llama-3.1-8b].
    #[arg(long, value_name = "FILE|NAME")]
    pub(crate) sim_profile: Option<String>,

    /// Instead of a profile: time of a prefill, however long the prompt. A number without a unit is milliseconds.
    #[arg(long, value_name = "DURATION", value_parser = latency, conflicts_with = "sim_profile")]
    pub(crate) time_to_first_token: Option<Duration>,

    /// Instead of a profile: time of a step in which sequences decode.
    #[arg(long, value_name = "DURATION", value_parser = latency, conflicts_with = "sim_profile")]
    pub(crate) inter_token_latency: Option<Duration>,

    /// Instead of a profile: time of a prefill beside that of its tokens.
    #[arg(long, value_name = "DURATION", value_parser = latency, conflicts_with = "sim_profile")]
    pub(crate) prefill_overhead: Option<Duration>,

    /// Instead of a profile: time of each token of a prefill that is not in the cache.
    #[arg(long, value_name = "DURATION", value_parser = latency, conflicts_with = "sim_profile")]
    pub(crate) prefill_time_per_token: Option<Duration>,

    /// Instead of a profile: how many times longer everything takes when --max-num-seqs sequences are computed
    /// together; at least 1.
    #[arg(long, value_name = "FACTOR", value_parser = load_factor, conflicts_with = "sim_profile")]
    pub(crate) time_factor_under_load: Option<f64>,
}

/// What the simulated engine answers, and what goes wrong.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Simulated engine")]
pub(crate) struct AnswerOptions {
    /// What answers say [default: passage].
    #[arg(long, value_name = "KIND")]
    pub(crate) sim_output: Option<OutputKind>,

    /// How many tokens answers have before they end by themselves: a number, or MIN..MAX for one in between,
    /// another for each seed. Otherwise an echo ends with its prompt, and other answers at max_tokens.
    #[arg(long, value_name = "COUNT|MIN..MAX", value_parser = answer_length)]
    pub(crate) sim_output_tokens: Option<AnswerLength>,

    /// Percentage of requests that are made to fail, from 0 to 100.
    #[arg(long, value_name = "PERCENT", value_parser = percentage)]
    pub(crate) failure_injection_rate: Option<f64>,

    /// How requests are made to fail, each way as often as the others [default: rate_limit server_error].
    #[arg(long, value_name = "TYPE", num_args = 1.., value_delimiter = ',', value_parser = failure_type,
        requires = "failure_injection_rate")]
    pub(crate) failure_types: Vec<FailureType>,

    /// How much longer a step takes that is made slow.
    #[arg(long, value_name = "DURATION", value_parser = latency, requires = "failure_injection_rate")]
    pub(crate) failure_slow_step: Option<Duration>,
}

/// Everything about the simulated engine.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SimulationOptions {
    #[command(flatten)]
    pub(crate) step_time: StepTimeOptions,

    #[command(flatten)]
    pub(crate) answers: AnswerOptions,
}

/// What answers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputKind {
    /// The prompt.
    Echo,
    /// Random words, the same for the same seed.
    Random,
    /// A fixed passage, over and over.
    Passage,
}

/// A way of failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureType {
    RateLimit,
    ServerError,
    ExecutorError,
    SlowStep,
    EnginePanic,
}

impl FailureType {
    const ALL: [(&str, Self); 5] = [
        ("rate_limit", Self::RateLimit),
        ("server_error", Self::ServerError),
        ("executor_error", Self::ExecutorError),
        ("slow_step", Self::SlowStep),
        ("engine_panic", Self::EnginePanic),
    ];
}

impl StepTimeOptions {
    /// The first option that was given, by name.
    fn first_given(&self) -> Option<&'static str> {
        first_given([
            ("--sim-profile", self.sim_profile.is_some()),
            ("--time-to-first-token", self.time_to_first_token.is_some()),
            ("--inter-token-latency", self.inter_token_latency.is_some()),
            ("--prefill-overhead", self.prefill_overhead.is_some()),
            ("--prefill-time-per-token", self.prefill_time_per_token.is_some()),
            ("--time-factor-under-load", self.time_factor_under_load.is_some()),
        ])
    }

    /// Whether latencies are given instead of a profile.
    pub(crate) fn has_latencies(&self) -> bool {
        self.sim_profile.is_none() && self.first_given().is_some()
    }
}

impl SimulationOptions {
    /// The first option that was given, by name.
    pub(crate) fn first_given(&self) -> Option<&'static str> {
        let answers = &self.answers;
        let of_answers = || {
            first_given([
                ("--sim-output", answers.sim_output.is_some()),
                ("--sim-output-tokens", answers.sim_output_tokens.is_some()),
                ("--failure-injection-rate", answers.failure_injection_rate.is_some()),
                ("--failure-types", !answers.failure_types.is_empty()),
                ("--failure-slow-step", answers.failure_slow_step.is_some()),
            ])
        };
        self.step_time.first_given().or_else(of_answers)
    }
}

fn first_given<const N: usize>(options: [(&'static str, bool); N]) -> Option<&'static str> {
    options.into_iter().find_map(|(name, is_given)| is_given.then_some(name))
}

/// Options of `wayfare simulate`.
#[derive(Clone, Debug, Args)]
pub(crate) struct SimulateOptions {
    /// The requests: a .csv file with a header line, or a .jsonl file, of arrival_time (seconds), prompt_tokens,
    /// output_tokens and, if wanted, prefix_group, prefix_tokens, priority.
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: PathBuf,

    /// How many times as fast requests arrive as the trace says.
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR", value_parser = rate_scale)]
    pub(crate) rate_scale: f64,

    /// Prints the summary as JSON.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) step_time: StepTimeOptions,

    #[command(flatten)]
    pub(crate) engine: EngineOptions,

    #[command(flatten)]
    pub(crate) journey: ReplayJourneyOptions,
}

/// Where the journeys of a replay go. They are recorded when they go anywhere.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Journey tracing")]
pub(crate) struct ReplayJourneyOptions {
    /// Collector that journeys are sent to, such as http://localhost:4317.
    #[arg(long, value_name = "URL")]
    otlp_traces_endpoint: Option<String>,

    /// File that journeys are appended to, as OTLP/JSON lines.
    #[arg(long, value_name = "PATH")]
    journey_file: Option<PathBuf>,

    /// Size at which the journey file is set aside as PATH.1 and a new one begun.
    #[arg(long, default_value_t = FileRotation::DEFAULT_MAX_BYTES, value_name = "BYTES")]
    journey_file_max_bytes: std::num::NonZeroU64,

    /// Most journey files that are kept: PATH, PATH.1, PATH.2, from new to old.
    #[arg(long, default_value_t = FileRotation::DEFAULT_MAX_FILES, value_name = "COUNT")]
    journey_file_max_files: std::num::NonZeroU32,

    /// Share of requests that are recorded, from 0 to 1.
    #[arg(long, default_value_t = 1.0, value_name = "RATE")]
    journey_tracing_sample_rate: f64,

    /// Journeys that are kept whatever the sample rate says, by what became of them.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "RULES")]
    journey_keep: KeepRules,
}

impl ReplayJourneyOptions {
    /// The same as a server would be told it: recorded when there is somewhere to send them to, never kept in
    /// memory.
    pub(crate) fn as_of_a_server(&self) -> JourneyOptions {
        JourneyOptions {
            enable_journey_tracing: self.otlp_traces_endpoint.is_some() || self.journey_file.is_some(),
            otlp_traces_endpoint: self.otlp_traces_endpoint.clone(),
            journey_tracing_sample_rate: self.journey_tracing_sample_rate,
            journey_file: self.journey_file.clone(),
            journey_file_max_bytes: self.journey_file_max_bytes,
            journey_file_max_files: self.journey_file_max_files,
            journey_keep: self.journey_keep.clone(),
            journey_store_max: 0,
            journey_store_bytes: 0,
            trace_url_template: None,
        }
    }
}

/// A duration with its unit, or a number of milliseconds.
fn latency(text: &str) -> Result<Duration, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let with_unit = if is_number { format!("{text}ms") } else { text.to_owned() };
    parse_duration_ns(&with_unit).map(Duration::from_nanos).map_err(|error| error.to_string())
}

fn load_factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (1.0..=1e6).contains(&factor) {
        Ok(factor)
    } else {
        Err("must be at least 1 and at most 1e6".to_owned())
    }
}

fn rate_scale(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let is_usable = (1e-6..=1e6).contains(&factor);
    if is_usable { Ok(factor) } else { Err("must be between 1e-6 and 1e6".to_owned()) }
}

fn percentage(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=100.0).contains(&percent) { Ok(percent) } else { Err("must be between 0 and 100".to_owned()) }
}

fn answer_length(text: &str) -> Result<AnswerLength, String> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|count| *count > 0);
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    match (number(min), number(max)) {
        (Some(min), Some(max)) if min <= max => Ok(AnswerLength { min, max }),
        _ => Err("expected a number of tokens, or MIN..MAX, from 1 up".to_owned()),
    }
}

fn failure_type(text: &str) -> Result<FailureType, String> {
    let known = FailureType::ALL.iter().find(|(name, _)| *name == text);
    known.map(|(_, kind)| *kind).ok_or_else(|| {
        let names: Vec<_> = FailureType::ALL.iter().map(|(name, _)| *name).collect();
        let there_are = format!("there are {}", names.join(", "));
        match text {
            "invalid_api_key" | "context_length" | "invalid_request" | "model_not_found" => format!(
                "this server gives that error to requests that deserve it and to no others; {there_are}"
            ),
            _ => there_are,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_durations_or_milliseconds() {
        assert_eq!(latency("250"), Ok(Duration::from_millis(250)));
        assert_eq!(latency("0"), Ok(Duration::ZERO));
        assert_eq!(latency("750us"), Ok(Duration::from_micros(750)));
        assert_eq!(latency("1.5s"), Ok(Duration::from_millis(1500)));
        for bad in ["", "-1", "soon", "1.5", "1 s"] {
            assert!(latency(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_outside_of_their_ranges_are_refused() {
        assert_eq!(load_factor("2.5"), Ok(2.5));
        assert_eq!(percentage("0.5"), Ok(0.5));
        assert_eq!(answer_length("7"), Ok(AnswerLength { min: 7, max: 7 }));
        assert_eq!(answer_length("7..90"), Ok(AnswerLength { min: 7, max: 90 }));
        for bad in ["0.9", "NaN", "inf", "x"] {
            assert!(load_factor(bad).is_err(), "{bad}");
        }
        for bad in ["-1", "100.1", "NaN"] {
            assert!(percentage(bad).is_err(), "{bad}");
        }
        for bad in ["0", "0..5", "5..2", "..5", "5..", "many", "1..4294967296"] {
            assert!(answer_length(bad).is_err(), "{bad}");
        }
        assert!(rate_scale("0").is_err() && rate_scale("2").is_ok());
    }

    #[test]
    fn unknown_failures_are_told_what_there_is() {
        assert_eq!(failure_type("slow_step"), Ok(FailureType::SlowStep));
        for (name, words) in [("model_not_found", "deserve"), ("disk_full", "engine_panic")] {
            let refusal = failure_type(name).unwrap_err();
            assert!(refusal.contains(words) && refusal.contains("rate_limit"), "{refusal}");
        }
    }
}
