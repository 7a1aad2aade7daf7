//! A server under test, with all processes that belong to it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::vllm_real::RealVllm;

/// How long a model may take to be loaded, and a server to end.
const START_PATIENCE: Duration = Duration::from_secs(300);
const END_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Place {
    /// vLLM, with its own server.
    #[value(skip)]
    VllmItself,
    /// wayfare, which starts vLLM without a server.
    #[value(name = "front")]
    InFront,
    /// wayfare, which vLLM starts as its server.
    #[value(name = "seat")]
    InTheSeat,
}

impl Place {
    pub(super) fn name(self) -> &'static str {
        match self {
            Place::VllmItself => "vLLM itself",
            Place::InFront => "wayfare in front of vLLM",
            Place::InTheSeat => "wayfare in the place of vLLM's own front",
        }
    }

    fn file_name(self) -> &'static str {
        match self {
            Place::VllmItself => "vllm",
            Place::InFront => "front",
            Place::InTheSeat => "seat",
        }
    }
}

/// A running server. It and all that it has started is killed when this is dropped.
pub(super) struct Site {
    process: Child,
    pub(super) address: String,
    journey_file: PathBuf,
    log: PathBuf,
}

impl Site {
    /// Starts it with these options of vLLM, and waits until it serves.
    pub(super) fn start(
        place: Place,
        vllm: &RealVllm,
        wayfare: &Path,
        folder: &Path,
        options: &[&str],
    ) -> Result<Self> {
        let journey_file = folder.join(format!("{}.journeys.jsonl", place.file_name()));
        if journey_file.exists() {
            fs::remove_file(&journey_file)?;
        }
        let log = folder.join(format!("{}.log", place.file_name()));
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let at = ["--host", "127.0.0.1", "--port", &port, "--served-model-name", "model"];
        let mut command = vllm.serve();
        match place {
            Place::VllmItself => {
                command.args(at).args(options);
            }
            Place::InTheSeat => {
                command.args(at).args(options);
                command.env("VLLM_USE_RUST_FRONTEND", "1").env("VLLM_RUST_FRONTEND_PATH", wayfare);
                let quoted = format!("--enable-journey-tracing --journey-file '{}'", journey_file.display());
                command.env("WAYFARE_OPTIONS", quoted);
            }
            Place::InFront => {
                let theirs = command;
                command = Command::new(wayfare);
                command.arg("serve").arg(&vllm.model).args(at).arg("--engine=vllm").args(options);
                command.arg("--vllm-command").arg(theirs.get_program());
                command.args(["--enable-journey-tracing", "--journey-file"]).arg(&journey_file);
                // Behind `serve MODEL`.
                command.arg("--").args(theirs.get_args().skip(2));
                let variables = theirs.get_envs().filter_map(|(name, value)| Some((name, value?)));
                command.envs(variables);
            }
        }
        let output = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let process =
            command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let address = format!("http://127.0.0.1:{port}");
        let said = format!("{} says why", log.display());
        let mut site = Self { process, address, journey_file, log };
        site.wait_until_ready().context(said)?;
        Ok(site)
    }

    #[expect(clippy::disallowed_methods, reason = "waits for another process in real time")]
    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        while self.health().is_none_or(|status| status != 200) {
            if let Some(status) = self.process.try_wait()? {
                bail!("the server ended with {status}");
            }
            if Instant::now() > deadline {
                bail!("the server is not ready after {START_PATIENCE:?}");
            }
            sleep(POLL);
        }
        Ok(())
    }

    /// What it says of its health, when it says anything.
    pub(super) fn health(&self) -> Option<u16> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(5)))
            .build();
        let agent = ureq::Agent::from(config);
        Some(agent.get(format!("{}/health", self.address)).call().ok()?.status().as_u16())
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.process.try_wait()?.is_some())
    }

    /// Asks it to end, and waits.
    pub(super) fn stop(&mut self) -> Result<()> {
        let status = self.ask_to_end()?;
        if !status.success() {
            bail!("the server ended with {status}; {} says why", self.log.display());
        }
        Ok(())
    }

    /// The same for a server whose engine was killed, which may have ended by itself.
    pub(super) fn stop_whatever_it_says(&mut self) -> Result<()> {
        self.ask_to_end().map(drop)
    }

    #[expect(clippy::disallowed_methods, reason = "waits for another process in real time")]
    fn ask_to_end(&mut self) -> Result<std::process::ExitStatus> {
        let deadline = Instant::now() + END_PATIENCE;
        if !self.has_ended()? {
            kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        }
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the server has not ended after {END_PATIENCE:?}; {} says why", self.log.display());
            }
            sleep(POLL);
        }
    }

    /// Kills the engine core, without a word.
    pub(super) fn kill_engine(&self) -> Result<()> {
        let engines = descendants(self.process.id())?;
        // vLLM names its processes.
        let is_engine = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains("EngineCore"))
        };
        let engine = engines.into_iter().find(is_engine).context("there is no process of an engine core")?;
        let engine = Pid::from_raw(i32::try_from(engine)?).context("not a process")?;
        Ok(kill_process(engine, Signal::KILL)?)
    }

    /// The spans that it has written. Only after its end.
    pub(super) fn journeys(&self) -> Result<Vec<Value>> {
        let written = fs::read_to_string(&self.journey_file)
            .with_context(|| format!("cannot read {}", self.journey_file.display()))?;
        let lines: Vec<Value> = written.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let inner = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
        let resources = lines.iter().flat_map(|line| inner(line, "resourceSpans"));
        let scopes = resources.flat_map(|resource| inner(&resource, "scopeSpans"));
        Ok(scopes.flat_map(|scope| inner(&scope, "spans")).collect())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Harmless when all have ended.
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
        let _ = self.process.wait();
    }
}

/// All processes that a process has started, and those that they have.
fn descendants(of: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Behind the name, which is in brackets and may hold anything: the state and the parent.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        parents.extend(parent.and_then(|parent| parent.parse::<u32>().ok()).map(|parent| (pid, parent)));
    }
    let mut found = vec![of];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    Ok(found)
}
