//! Profiles: how long steps take on some machine, and how large its engine is. The form is in docs/simulator.md.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use wayfare_engine_local::{LinearStepTime, StepTimeModel};
use wayfare_scheduler::SchedulerConfig;

/// The profiles that come with wayfare, by name.
const SHIPPED: [(&str, &str); 4] = [
    ("h100-llama-3.1-8b", include_str!("../../profiles/h100-llama-3.1-8b.json")),
    ("a100-llama-3.1-8b", include_str!("../../profiles/a100-llama-3.1-8b.json")),
    ("cpu-smollm2-135m", include_str!("../../profiles/cpu-smollm2-135m.json")),
    ("instant", include_str!("../../profiles/instant.json")),
];
/// The longest time that a coefficient may be: an hour.
const MOST_MICROS: f64 = 3.6e9;
/// The largest profile that is read.
const MOST_BYTES: u64 = 1 << 20;

/// A profile, checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Profile {
    pub(super) name: String,
    pub(super) step_time: StepTimeModel,
    pub(super) noise_fraction: f64,
    pub(super) engine: SchedulerConfig,
}

/// The file's form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileFile {
    name: String,
    /// Where the numbers are from, for people.
    origin: Vec<String>,
    step_time: StepTimePart,
    engine: EnginePart,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepTimePart {
    base_us: f64,
    per_prefill_token_us: f64,
    per_decode_token_us: f64,
    per_kv_token_us: f64,
    #[serde(default)]
    noise_fraction: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnginePart {
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    block_size: u32,
    num_kv_blocks: u32,
    max_model_len: u32,
}

impl Profile {
    /// The profile that is used when none is named.
    pub(super) const DEFAULT: &str = "h100-llama-3.1-8b";

    /// Finds a shipped profile by its name, or reads a file.
    ///
    /// # Errors
    /// When there is neither, or the file is no profile.
    pub(super) fn find(name_or_path: &str) -> Result<Self> {
        if let Some((name, text)) = SHIPPED.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(text).with_context(|| format!("the profile {name}"));
        }
        let path = Path::new(name_or_path);
        if !path.exists() {
            let names: Vec<_> = SHIPPED.iter().map(|(name, _)| *name).collect();
            bail!(
                "--sim-profile {name_or_path:?} is neither a file nor a profile that comes with wayfare; these \
                 are {}",
                names.join(", ")
            );
        }
        let read = || -> Result<Self> {
            if fs::metadata(path)?.len() > MOST_BYTES {
                bail!("it is larger than {MOST_BYTES} bytes");
            }
            Self::parse(&fs::read_to_string(path)?)
        };
        read().with_context(|| format!("--sim-profile {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let ProfileFile { name, origin, step_time, engine } = serde_json::from_str(text)?;
        if name.trim().is_empty() {
            bail!("name must not be empty");
        }
        if origin.iter().all(|line| line.trim().is_empty()) {
            bail!("origin must say where the numbers are from");
        }
        let coefficients = [
            ("base_us", step_time.base_us),
            ("per_prefill_token_us", step_time.per_prefill_token_us),
            ("per_decode_token_us", step_time.per_decode_token_us),
            ("per_kv_token_us", step_time.per_kv_token_us),
        ];
        for (key, micros) in coefficients {
            if !(0.0..=MOST_MICROS).contains(&micros) {
                bail!("step_time.{key} is {micros}, but must be from 0 to {MOST_MICROS} microseconds");
            }
        }
        if !(0.0..1.0).contains(&step_time.noise_fraction) {
            bail!("step_time.noise_fraction is {}, but must be from 0 to below 1", step_time.noise_fraction);
        }
        let engine = SchedulerConfig::with_sizes(
            engine.max_num_seqs,
            engine.max_num_batched_tokens,
            engine.max_model_len,
            engine.block_size,
            engine.num_kv_blocks,
        );
        engine.validate().context("engine")?;
        let model = LinearStepTime {
            base_us: step_time.base_us,
            per_prefill_token_us: step_time.per_prefill_token_us,
            per_decode_token_us: step_time.per_decode_token_us,
            per_kv_token_us: step_time.per_kv_token_us,
        };
        let noise_fraction = step_time.noise_fraction;
        Ok(Self { name, step_time: StepTimeModel::Linear(model), noise_fraction, engine })
    }
}

#[cfg(test)]
mod tests {
    use wayfare_engine_local::StepWork;

    use super::*;

    #[test]
    fn every_shipped_profile_is_one_and_has_the_name_it_goes_by() {
        for (name, _) in SHIPPED {
            assert_eq!(Profile::find(name).unwrap().name, name);
        }
        Profile::find(Profile::DEFAULT).unwrap();
    }

    #[test]
    fn every_shipped_profile_is_in_the_documentation() {
        let page = include_str!("../../../../docs/simulator.md");
        for (name, _) in SHIPPED {
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
    }

    /// The figures that the profile was made from come out of it again.
    #[test]
    fn the_profile_of_our_own_engine_gives_what_was_measured() {
        let profile = Profile::find("cpu-smollm2-135m").unwrap();
        let rate = |tokens: f64, work: StepWork| tokens / profile.step_time.micros(&work) * 1e6;
        let prefill = StepWork { prefill_tokens: 128, ..StepWork::default() };
        let decode = |sequences| StepWork { decode_tokens: sequences, ..StepWork::default() };
        for (measured, modelled) in
            [(2388.0, rate(128.0, prefill)), (338.0, rate(1.0, decode(1))), (1366.0, rate(16.0, decode(16)))]
        {
            assert!((modelled / measured - 1.0_f64).abs() < 0.005, "{modelled} for {measured}");
        }
    }

    #[test]
    fn what_is_no_profile_is_refused_with_its_place() {
        let good = SHIPPED[0].1;
        assert!(Profile::parse(good).is_ok());
        let wrong = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            format!("{:#}", Profile::parse(&good.replace(from, to)).unwrap_err())
        };
        for (from, to, words) in [
            ("\"base_us\": 5753", "\"base_us\": -1", "step_time.base_us is -1"),
            ("\"base_us\": 5753", "\"base_us\": 1e300", "step_time.base_us"),
            ("\"base_us\": 5753", "\"base_us\": \"5753\"", "line 11"),
            ("\"base_us\"", "\"base_ms\"", "unknown field `base_ms`"),
            ("\"base_us\": 5753,", "", "missing field `base_us`"),
            ("\"base_us\": 5753", "\"base_us\": 1, \"base_us\": 2", "duplicate field"),
            (
                "\"per_kv_token_us\": 0",
                "\"per_kv_token_us\": 0, \"noise_fraction\": 1",
                "noise_fraction is 1",
            ),
            ("\"block_size\": 16", "\"block_size\": 0", "block_size must be at least 1"),
            ("\"block_size\": 16", "\"block_size\": -16", "line"),
            ("\"num_kv_blocks\": 29205", "\"num_kv_blocks\": 1", "num_kv_blocks"),
            ("\"name\": \"h100-llama-3.1-8b\"", "\"name\": \" \"", "name must not be empty"),
            ("\"origin\": [", "\"origin\": [], \"more\": [", "unknown field `more`"),
        ] {
            let refusal = wrong(from, to);
            assert!(refusal.contains(words), "{refusal:?} does not say {words:?}");
        }
    }

    #[test]
    fn a_file_is_read_and_a_name_that_is_none_is_told_which_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.json");
        fs::write(&path, SHIPPED[1].1.replace("16440", "100")).unwrap();
        let profile = Profile::find(path.to_str().unwrap()).unwrap();
        assert_eq!(profile.step_time.micros(&StepWork::default()), 100.0);
        fs::write(&path, "{").unwrap();
        let refusal = format!("{:#}", Profile::find(path.to_str().unwrap()).unwrap_err());
        assert!(refusal.contains("mine.json") && refusal.contains("line 1 column 1"), "{refusal}");
        let refusal = Profile::find("h200").unwrap_err().to_string();
        assert!(refusal.contains("h200") && refusal.contains("cpu-smollm2-135m"), "{refusal}");
    }
}
