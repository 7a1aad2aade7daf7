//! The server that is measured, and the programs that measure it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::cores::Cores;
use super::driver::{Driver, Plan, Report};
use crate::process::{cargo, run as run_command, target_directory};
use crate::server::ServerProcess;

/// Where a request's number stands in its prompt; the driver puts it in.
const NUMBER: &str = "@@@@@@@@";

/// Where requests go.
pub(crate) const CHAT_PATH: &str = "/v1/chat/completions";

/// Options that all benches of the server have.
#[derive(Clone, Debug, Args)]
pub(crate) struct SubjectOptions {
    /// Server to measure, instead of the release build of this tree. For comparisons.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) server: Option<PathBuf>,

    /// Prints the results and writes no file.
    #[arg(long)]
    pub(crate) no_file: bool,
}

impl SubjectOptions {
    /// The program of the server, built unless another is given.
    ///
    /// # Errors
    /// When the build fails.
    pub(crate) fn program(&self) -> Result<PathBuf> {
        if let Some(program) = &self.server {
            return Ok(program.clone());
        }
        run_command(&mut cargo(&["build", "--release", "--package", "wayfare"]))?;
        Ok(target_directory()?.join("release/wayfare"))
    }
}

/// A prompt in words: 72 bytes, which with the chat template (19 tokens) and the number with its space (9) make
/// [`PROMPT_TOKENS`] for the simulated engine, whose tokens are bytes.
pub(crate) const PROMPT: &str = "Tell me in a few words what a lighthouse is, who keeps it, and what for.";
/// Tokens of the prompt on the simulated engine.
pub(crate) const PROMPT_TOKENS: usize = 19 + 9 + PROMPT.len();

/// What a bench works with.
pub(crate) struct Laboratory {
    program: PathBuf,
    /// Plays an engine core of vLLM.
    pub(crate) mock_vllm: PathBuf,
    pub(crate) cores: Cores,
    pub(crate) driver: Driver,
}

impl Laboratory {
    /// Builds what is needed, one package after the other, so that the server has its own features and no others.
    ///
    /// # Errors
    /// When a build fails or the driver does not start.
    pub(crate) fn set_up(options: &SubjectOptions) -> Result<Self> {
        let program = options.program()?;
        let release = target_directory()?.join("release");
        run_command(&mut cargo(&["build", "--release", "--package", "wayfare-testkit", "--bins"]))?;
        let cores = Cores::divide()?;
        let driver = cores.on_driver_cores(|| Driver::start(&release.join("wayfare-load")))?;
        Ok(Self { program, mock_vllm: release.join("wayfare-mock-vllm"), cores, driver })
    }

    /// Starts a server with these arguments after `serve`.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn serve(&self, arguments: &[String]) -> Result<ServerProcess> {
        let mut command = Command::new(&self.program);
        command.args(["serve", "--host", "127.0.0.1", "--port", "0"]).args(arguments);
        // Its log would be between the results.
        command.env("RUST_LOG", "error").stdin(Stdio::null());
        self.cores.on_server_cores(|| ServerProcess::start(&mut command))
    }

    /// Sends `load` to `server`.
    ///
    /// # Errors
    /// When a request fails.
    pub(crate) fn measure(&mut self, server: &ServerProcess, load: &Load) -> Result<Report> {
        let spin = self.cores.driver_is_alone();
        self.send(server.address(), server.id(), load, &load.body(None, PROMPT), spin)
    }

    /// Sends as many requests as `load` says, with this body, to the process at this URL.
    ///
    /// # Errors
    /// When a request fails.
    pub(crate) fn send(
        &mut self,
        url: &str,
        server_pid: u32,
        load: &Load,
        body: &Value,
        spin: bool,
    ) -> Result<Report> {
        self.driver.run(&Plan {
            address: url.trim_start_matches("http://").to_owned(),
            server_pid,
            path: CHAT_PATH,
            body: body.to_string(),
            stream: load.stream,
            concurrency: load.concurrency,
            requests: load.requests,
            spin,
            settle_ms: load.settle_ms,
        })
    }
}

/// The simulated engine, with steps that take so long and room for so many requests at once.
pub(crate) fn simulated(step_us: u32, concurrency: u32) -> Vec<String> {
    let time = format!("{step_us}us");
    let times: &[&str] = match step_us {
        0 => &["--sim-profile", "instant"],
        _ => &["--time-to-first-token", &time, "--inter-token-latency", &time],
    };
    let room = concurrency.max(64).to_string();
    [&["sim"], times, &["--max-num-seqs", &room]].concat().into_iter().map(String::from).collect()
}

/// Chat requests, all alike but for the number in their prompt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) stream: bool,
    pub(crate) output_tokens: u32,
    pub(crate) concurrency: u32,
    pub(crate) requests: u64,
    /// See `LoadPlan`.
    pub(crate) settle_ms: u64,
}

impl Load {
    /// The body of a request with the words of `prompt` behind its number.
    pub(crate) fn body(&self, model: Option<&str>, prompt: &str) -> Value {
        let content = format!("{NUMBER} {prompt}");
        let mut body = json!({
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.output_tokens,
            "ignore_eos": true,
            "temperature": 0,
            "stream": self.stream,
        });
        if let Some(model) = model {
            body["model"] = model.into();
        }
        body
    }

    /// The same with fewer requests, to fill caches and to start threads.
    pub(crate) fn warm_up(&self) -> Self {
        let requests = (self.requests / 4).max(u64::from(self.concurrency));
        Self { requests, settle_ms: 0, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_has_a_hundred_tokens() {
        assert_eq!(PROMPT_TOKENS, 100);
    }
}
