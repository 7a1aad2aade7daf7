//! From options to the parts of a simulated engine.

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use wayfare_engine_local::{
    AnswerText, Answers, FailureKind, FailurePlan, RequestLatencies, StepTimeModel, StepTimer,
};
use wayfare_scheduler::SchedulerConfig;
use wayfare_text::TextFiles;

use crate::backend::with_rules;
use crate::cli::{AnswerOptions, EngineOptions, FailureType, OutputKind, SimulationOptions, StepTimeOptions};

use super::profile::Profile;

/// What the simulated engine recites.
const PASSAGE: &str = "This answer is simulated: no model was run, only its time passed. ";
/// What random answers are made of: short, common and harmless.
const WORDS: &str = "a about after all also and any as at back be because but by can come could day do even \
    find first for from get give go good have here how if in into it just know like look make many more most \
    new no not now of on one only or other out over people same say see so some take than that the then there \
    these thing think this time to two up use very want way we well what when which who will with work year";
/// How much longer a step takes that is made slow, unless the options say.
const SLOW_STEP: Duration = Duration::from_secs(1);

/// A simulated engine's times and sizes.
#[derive(Debug)]
pub(crate) struct Simulated {
    /// What it is modelled on.
    pub(crate) name: String,
    pub(crate) config: SchedulerConfig,
    pub(crate) timer: StepTimer,
}

impl Simulated {
    /// Puts profile, latencies and sizes together.
    ///
    /// # Errors
    /// When there is no such profile, or the options do not fit together.
    pub(crate) fn resolve(step_time: &StepTimeOptions, engine: &EngineOptions) -> Result<Self> {
        let profile = Profile::find(step_time.sim_profile.as_deref().unwrap_or(Profile::DEFAULT))?;
        let config = with_rules(sizes(&profile.engine, engine), engine);
        config.validate()?;
        let seed = engine.seed.unwrap_or(0);
        let (name, model, noise_fraction) = if step_time.has_latencies() {
            let latencies = latencies(step_time, config.max_num_seqs)?;
            ("the latencies of the options".to_owned(), StepTimeModel::Latencies(latencies), 0.0)
        } else {
            (profile.name, profile.step_time, profile.noise_fraction)
        };
        Ok(Self { name, config, timer: StepTimer::new(model, noise_fraction, seed) })
    }
}

/// The profile's sizes where the options say nothing. With another block size, the pool keeps its tokens.
fn sizes(suggested: &SchedulerConfig, options: &EngineOptions) -> SchedulerConfig {
    let or = |option: Option<NonZeroU32>, suggested: u32| option.map_or(suggested, NonZeroU32::get);
    let block_size = or(options.block_size, suggested.block_size);
    let pool_tokens = u64::from(suggested.num_kv_blocks) * u64::from(suggested.block_size);
    let num_kv_blocks = u32::try_from(pool_tokens.div_ceil(u64::from(block_size))).unwrap_or(u32::MAX);
    SchedulerConfig::with_sizes(
        or(options.max_num_seqs, suggested.max_num_seqs),
        or(options.max_num_batched_tokens, suggested.max_num_batched_tokens),
        or(options.max_model_len, suggested.max_model_len),
        block_size,
        or(options.num_gpu_blocks_override, num_kv_blocks),
    )
}

fn latencies(options: &StepTimeOptions, max_num_seqs: u32) -> Result<RequestLatencies> {
    let micros = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64() * 1e6;
    let (whole, overhead) = (micros(options.time_to_first_token), micros(options.prefill_overhead));
    let per_prefill_token_us = micros(options.prefill_time_per_token);
    if whole > 0.0 && (overhead > 0.0 || per_prefill_token_us > 0.0) {
        bail!(
            "--time-to-first-token is the whole time of a prefill; leave it out, or leave out --prefill-overhead \
             and --prefill-time-per-token"
        );
    }
    Ok(RequestLatencies {
        prefill_us: whole + overhead,
        per_prefill_token_us,
        inter_token_us: micros(options.inter_token_latency),
        factor_under_load: options.time_factor_under_load.unwrap_or(1.0),
        max_num_seqs,
    })
}

impl AnswerOptions {
    /// What the answers say, in the tokens of this vocabulary.
    ///
    /// # Errors
    /// When the vocabulary cannot say it.
    pub(crate) fn answers(&self, text: &TextFiles, config: &SchedulerConfig, seed: u64) -> Result<Answers> {
        let encode = |text_to_say: &str| text.tokenizer.encode(text_to_say, false);
        let text_of_answers = match self.sim_output.unwrap_or(OutputKind::Passage) {
            OutputKind::Passage => AnswerText::Passage(encode(PASSAGE)?.into()),
            OutputKind::Random => {
                let words = WORDS.split_whitespace().map(|word| encode(&format!("{word} ")));
                let words: Vec<Box<[_]>> =
                    words.map(|word| word.map(Vec::into_boxed_slice)).collect::<Result<_, _>>()?;
                AnswerText::Words(words.into())
            }
            OutputKind::Echo => {
                AnswerText::Echo { block_size: config.block_size, num_kv_blocks: config.num_kv_blocks }
            }
        };
        let end_of_text = *text.end_of_text.first().ok_or_else(|| anyhow!("the tokeniser ends no text"))?;
        // In the order in which they end JSON soonest; other grammars get what they allow of it.
        let mut closers = Vec::new();
        for closer in ["}", "]", "\"", ","] {
            if let [token] = encode(closer)?[..] {
                closers.push(token);
            }
        }
        Ok(Answers {
            text: text_of_answers,
            length: self.sim_output_tokens,
            end_of_text,
            closers: closers.into(),
            seed,
        })
    }

    /// What is made to fail; `None` when nothing is.
    pub(crate) fn failures(&self, seed: u64) -> Option<FailurePlan> {
        let percent = self.failure_injection_rate.filter(|percent| *percent > 0.0)?;
        let kind = |failure: &FailureType| match failure {
            FailureType::RateLimit => FailureKind::RateLimit,
            FailureType::ServerError => FailureKind::ServerError,
            FailureType::ExecutorError => FailureKind::ExecutorError,
            FailureType::SlowStep => FailureKind::SlowStep(self.failure_slow_step.unwrap_or(SLOW_STEP)),
            FailureType::EnginePanic => FailureKind::EnginePanic,
        };
        let of_llm_d = [FailureType::RateLimit, FailureType::ServerError];
        let asked: &[_] = if self.failure_types.is_empty() { &of_llm_d } else { &self.failure_types };
        Some(FailurePlan { probability: percent / 100.0, kinds: asked.iter().map(kind).collect(), seed })
    }
}

/// Refuses options of the simulated engine for a model that is computed.
///
/// # Errors
/// When there is such an option.
pub(crate) fn refuse_for_real_model(options: &SimulationOptions) -> Result<()> {
    match options.first_given() {
        None => Ok(()),
        Some(option) => bail!("{option} is for the simulated engine: serve the MODEL `sim`, or leave it out"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use wayfare_engine_local::StepWork;

    use super::*;
    use crate::cli::{Cli, Command, ServeOptions};

    fn parse(arguments: &[&str]) -> Result<Box<ServeOptions>, clap::Error> {
        let command = Cli::try_parse_from([&["wayfare", "serve", "sim"], arguments].concat())?.command;
        let Command::Serve(options) = command else { unreachable!("it was asked for") };
        Ok(options)
    }

    fn resolve(arguments: &[&str]) -> Result<Simulated> {
        let options = parse(arguments)?;
        Simulated::resolve(&options.simulation.step_time, &options.engine)
    }

    /// The time in microseconds of a prefill of so many tokens, and of a decode step of so many sequences.
    fn times(arguments: &[&str], prefill_tokens: u64, sequences: u32) -> [Duration; 2] {
        let mut timer = resolve(arguments).unwrap().timer;
        let prefill = StepWork { sequences: 1, prefill_tokens, completed_prefills: 1, ..StepWork::default() };
        let decode = StepWork { sequences, decode_tokens: u64::from(sequences), ..StepWork::default() };
        [timer.next(&prefill), timer.next(&decode)]
    }

    #[test]
    fn sizes_are_the_profiles_unless_options_say_otherwise() {
        let config = resolve(&["--sim-profile", "cpu-smollm2-135m"]).unwrap().config;
        assert_eq!((config.max_num_seqs, config.num_kv_blocks, config.block_size), (32, 4096, 16));
        let arguments = ["--sim-profile", "cpu-smollm2-135m", "--max-num-seqs", "5", "--block-size", "64"];
        let config = resolve(&arguments).unwrap().config;
        assert_eq!((config.max_num_seqs, config.num_kv_blocks, config.block_size), (5, 1024, 64));
        let config = resolve(&["--num-kv-blocks", "99", "--max-model-len", "77"]).unwrap().config;
        assert_eq!(
            (config.num_kv_blocks, config.max_model_len, config.max_num_batched_tokens),
            (99, 77, 2048)
        );
        assert!(resolve(&["--max-num-batched-tokens", "7"]).is_err(), "fewer than sequences");
    }

    #[test]
    fn latencies_mean_what_they_mean_to_llm_d_for_a_request_alone() {
        let ms = Duration::from_millis;
        let constant = ["--time-to-first-token", "100", "--inter-token-latency", "12ms"];
        assert_eq!(times(&constant, 256, 1), [ms(100), ms(12)]);
        assert_eq!(times(&constant, 9, 7), [ms(100), ms(12)]);
        let per_token = [
            "--prefill-overhead",
            "30ms",
            "--prefill-time-per-token",
            "250us",
            "--inter-token-latency",
            "12",
        ];
        assert_eq!(times(&per_token, 256, 1), [ms(94), ms(12)]);
        let loaded = ["--inter-token-latency", "10", "--time-factor-under-load", "3", "--max-num-seqs", "5"];
        assert_eq!(times(&loaded, 9, 1), [Duration::ZERO, ms(10)]);
        assert_eq!(times(&loaded, 9, 5)[1], ms(30));
    }

    #[test]
    fn latencies_do_not_go_with_a_profile_nor_with_each_other() {
        for option in ["--time-to-first-token", "--inter-token-latency", "--prefill-overhead"] {
            let refusal = parse(&["--sim-profile", "instant", option, "5"]).unwrap_err().to_string();
            assert!(refusal.contains(option) && refusal.contains("--sim-profile"), "{refusal}");
        }
        let both = ["--time-to-first-token", "5", "--prefill-overhead", "5"];
        let refusal = resolve(&both).unwrap_err().to_string();
        assert!(
            refusal.contains("--time-to-first-token") && refusal.contains("--prefill-overhead"),
            "{refusal}"
        );
        assert!(resolve(&["--time-to-first-token", "0", "--prefill-overhead", "5"]).is_ok());
    }

    #[test]
    fn a_real_model_takes_none_of_these_options() {
        assert!(refuse_for_real_model(&parse(&["--seed", "1"]).unwrap().simulation).is_ok());
        for arguments in [
            &["--sim-profile", "instant"][..],
            &["--time-factor-under-load", "2"],
            &["--sim-output", "echo"],
            &["--sim-output-tokens", "7"],
            &["--failure-injection-rate", "0"],
        ] {
            let refusal = refuse_for_real_model(&parse(arguments).unwrap().simulation).unwrap_err();
            assert!(refusal.to_string().contains(arguments[0]), "{refusal}");
        }
    }

    #[test]
    fn failures_are_those_asked_for_or_those_of_llm_d() {
        let plan = |arguments: &[&str]| parse(arguments).unwrap().simulation.answers.failures(7);
        assert_eq!(plan(&[]), None);
        assert_eq!(plan(&["--failure-injection-rate", "0"]), None);
        let plain = plan(&["--failure-injection-rate", "25"]).unwrap();
        assert_eq!((plain.probability, plain.seed), (0.25, 7));
        assert_eq!(plain.kinds, [FailureKind::RateLimit, FailureKind::ServerError]);
        let asked = ["--failure-injection-rate", "5", "--failure-types", "slow_step", "engine_panic"];
        let kinds = plan(&asked).unwrap().kinds;
        assert_eq!(kinds, [FailureKind::SlowStep(SLOW_STEP), FailureKind::EnginePanic]);
        let timed = ["--failure-injection-rate=5", "--failure-types=slow_step", "--failure-slow-step=20ms"];
        assert_eq!(plan(&timed).unwrap().kinds, [FailureKind::SlowStep(Duration::from_millis(20))]);
        assert!(parse(&["--failure-types", "slow_step"]).is_err(), "a rate is missing");
        assert!(parse(&["--failure-injection-rate", "5", "--failure-types", "model_not_found"]).is_err());
    }
}
