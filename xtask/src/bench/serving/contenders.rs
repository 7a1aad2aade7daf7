//! The servers that are compared, and how each is started and asked.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

use super::loads::{Load, LoadName};
use crate::vllm_real::RealVllm;
use crate::{llama_server, model, vllm_real};

/// The name under which every server is asked for its model.
const MODEL: &str = "bench";
const MAX_MODEL_LEN: &str = "2048";
/// Blocks of 16 tokens, enough for every load; otherwise their number follows the free memory of the moment.
const KV_BLOCKS: &str = "1536";
/// Requests in flight of the largest load.
const MAX_NUM_SEQS: &str = "64";

/// A server with its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// This project's.
    Wayfare,
    /// vLLM's build for processors.
    Vllm,
    /// The same without prefix caching.
    VllmUncached,
    /// llama.cpp's own server.
    LlamaCpp,
    /// The same, told not to reuse what a slot holds.
    LlamaCppUncached,
}

impl Contender {
    /// In tables.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Wayfare => "wayfare",
            Self::Vllm => "vLLM",
            Self::VllmUncached => "vLLM, no prefix caching",
            Self::LlamaCpp => "llama.cpp",
            Self::LlamaCppUncached => "llama.cpp, no prompt caching",
        }
    }

    /// Whether it computes every prompt from its beginning.
    pub(crate) fn is_uncached(self) -> bool {
        matches!(self, Self::VllmUncached | Self::LlamaCppUncached)
    }

    /// Whether it takes part in a load: without caching only where caching has something to find.
    pub(crate) fn takes(self, load: LoadName) -> bool {
        !self.is_uncached() || load == LoadName::SharedPrefix
    }

    /// Whether it starts so slowly that it is kept for all rounds, and stopped where it stands while others run.
    pub(crate) fn is_kept(self) -> bool {
        matches!(self, Self::Vllm | Self::VllmUncached)
    }

    /// The body of a request for a completion of exactly so many tokens. Token ids are a prompt for each of the servers.
    pub(crate) fn body(self, prompt: &[u32], output_tokens: u32) -> Value {
        let mut body = json!({
            "model": MODEL,
            "prompt": prompt,
            "max_tokens": output_tokens,
            "ignore_eos": true,
            "temperature": 0,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        if self == Self::LlamaCppUncached {
            body["cache_prompt"] = false.into();
        }
        body
    }
}

/// What is there to be compared.
#[derive(Debug)]
pub(crate) struct Programs {
    wayfare: PathBuf,
    gguf: PathBuf,
    vllm: Option<RealVllm>,
    llama_cpp: Option<PathBuf>,
    cores: usize,
}

impl Programs {
    /// wayfare's own, and those in the cache; with `install` those that are not there yet, too.
    ///
    /// # Errors
    /// When the default model or what is to be installed cannot be had.
    pub(crate) fn find(wayfare: PathBuf, install: bool, cores: usize) -> Result<Self> {
        let (vllm, llama_cpp) = if install {
            (Some(vllm_real::ensure()?), Some(llama_server::ensure()?))
        } else {
            (vllm_real::installed()?, llama_server::installed()?)
        };
        Ok(Self { wayfare, gguf: model::ensure()?, vllm, llama_cpp, cores })
    }

    /// Those of which the program is there.
    pub(crate) fn contenders(&self) -> Vec<Contender> {
        let is_there = |contender: &Contender| match contender {
            Contender::Wayfare => true,
            Contender::Vllm | Contender::VllmUncached => self.vllm.is_some(),
            Contender::LlamaCpp | Contender::LlamaCppUncached => self.llama_cpp.is_some(),
        };
        Contender::value_variants().iter().copied().filter(is_there).collect()
    }

    /// The command that serves with room for all of the load's requests at once; where to listen comes behind.
    ///
    /// # Errors
    /// When the program is not there.
    pub(crate) fn command(&self, contender: Contender, load: Load) -> Result<Command> {
        match contender {
            Contender::Wayfare => Ok(self.wayfare()),
            Contender::Vllm => self.vllm("--enable-prefix-caching"),
            Contender::VllmUncached => self.vllm("--no-enable-prefix-caching"),
            Contender::LlamaCpp | Contender::LlamaCppUncached => self.llama_cpp(load),
        }
    }

    fn wayfare(&self) -> Command {
        let mut command = Command::new(&self.wayfare);
        command.arg("serve").arg(&self.gguf).args(["--served-model-name", MODEL]);
        command.args(["--max-model-len", MAX_MODEL_LEN, "--max-num-seqs", MAX_NUM_SEQS]);
        command.args(["--num-gpu-blocks-override", KV_BLOCKS]);
        command
    }

    fn vllm(&self, prefix_caching: &str) -> Result<Command> {
        let mut command = self.vllm.as_ref().context("vLLM is not installed")?.serve();
        // By itself it leaves one core to its HTTP side, which on a small machine is half of them.
        command.env("VLLM_CPU_NUM_OF_RESERVED_CPU", "0");
        command.args(["--served-model-name", MODEL, "--max-model-len", MAX_MODEL_LEN]);
        // So that the usage says how much of a prompt was cached.
        command.args(["--enable-prompt-tokens-details", prefix_caching]);
        Ok(command)
    }

    fn llama_cpp(&self, load: Load) -> Result<Command> {
        let mut command = Command::new(self.llama_cpp.as_ref().context("llama.cpp is not installed")?);
        let slots = load.concurrency;
        // Slots share the context evenly, in multiples of 256 tokens.
        let context = slots * (load.request_tokens() + 1).next_multiple_of(256);
        let threads = self.cores.to_string();
        command.arg("--model").arg(&self.gguf);
        command.args(["--parallel", &slots.to_string(), "--ctx-size", &context.to_string()]);
        command.args(["--threads", &threads, "--threads-batch", &threads, "--no-webui"]);
        // Copies of what idle slots hold, which take time and serve no load here.
        command.args(["--cache-ram", "0"]);
        Ok(command)
    }

    /// What a contender is, and how it was started, for the reader of the results.
    ///
    /// # Errors
    /// When the program is not there.
    pub(crate) fn version(&self, contender: Contender, commit: &str) -> Result<String> {
        Ok(match contender {
            Contender::Wayfare => format!("commit {commit}"),
            Contender::Vllm | Contender::VllmUncached => vllm_real::versions(),
            Contender::LlamaCpp | Contender::LlamaCppUncached => {
                let program = self.llama_cpp.as_ref().context("llama.cpp is not installed")?;
                format!("{}; {}", version_line(program)?, llama_server::source())
            }
        })
    }

    /// The weights that a contender computes with.
    pub(crate) fn weights(contender: Contender) -> &'static str {
        match contender {
            Contender::Wayfare | Contender::LlamaCpp | Contender::LlamaCppUncached => {
                "the default model's GGUF file, Q4_1"
            }
            Contender::Vllm | Contender::VllmUncached => "the same values, dequantised and rounded to bf16",
        }
    }
}

/// The command as one would type it, without folders.
pub(crate) fn shown(command: &Command) -> String {
    let without_folder = |part: &std::ffi::OsStr| {
        let path = Path::new(part);
        path.file_name().filter(|_| path.is_absolute()).unwrap_or(part).to_string_lossy().into_owned()
    };
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), value?.to_string_lossy())));
    let program = [without_folder(command.get_program())];
    let arguments = command.get_args().map(without_folder);
    variables.chain(program).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// What `--version` says first of versions; llama.cpp says it on standard error.
fn version_line(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.contains("version"));
    Ok(line.context("the program says no version")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs() -> Programs {
        Programs {
            wayfare: "/somewhere/wayfare".into(),
            gguf: "/models/model.gguf".into(),
            vllm: None,
            llama_cpp: Some("/cache/llama-server".into()),
            cores: 2,
        }
    }

    #[test]
    fn those_without_caching_take_the_load_that_has_a_prefix() {
        let taking = |load| Contender::value_variants().iter().filter(move |one| one.takes(load)).count();
        assert_eq!((taking(LoadName::Sixteen), taking(LoadName::SharedPrefix)), (3, 5));
    }

    #[test]
    fn what_is_not_installed_is_left_out() {
        let contenders = [Contender::Wayfare, Contender::LlamaCpp, Contender::LlamaCppUncached];
        assert_eq!(programs().contenders(), contenders);
        let load = LoadName::Single.load();
        assert!(programs().command(Contender::Vllm, load).is_err());
    }

    #[test]
    fn llama_cpp_has_a_slot_and_a_context_for_each_request() {
        let load = LoadName::Long.load();
        let command = programs().command(Contender::LlamaCpp, load).unwrap();
        assert_eq!(
            shown(&command),
            "llama-server --model model.gguf --parallel 8 --ctx-size 10240 --threads 2 --threads-batch 2 --no-webui \
             --cache-ram 0"
        );
    }

    #[test]
    fn bodies_ask_for_exactly_so_many_tokens() {
        let body = Contender::LlamaCppUncached.body(&[5, 6], 64);
        assert_eq!(body["prompt"], json!([5, 6]));
        assert_eq!((&body["max_tokens"], &body["ignore_eos"]), (&json!(64), &json!(true)));
        assert_eq!(body["cache_prompt"], json!(false));
        assert!(Contender::Wayfare.body(&[5], 1).get("cache_prompt").is_none());
    }

    #[test]
    fn the_cache_of_wayfare_has_room_for_every_load() {
        let blocks: u32 = KV_BLOCKS.parse().unwrap();
        for name in LoadName::value_variants() {
            let load = name.load();
            let needed = load.concurrency * load.request_tokens().div_ceil(16);
            assert!(needed < blocks, "{name:?}");
            assert!(load.concurrency <= MAX_NUM_SEQS.parse().unwrap(), "{name:?}");
        }
    }
}
