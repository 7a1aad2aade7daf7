//! The server that the demo talks to.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::process::target_directory;

/// Small on purpose, so that a request is preempted: 47 usable blocks of 16 tokens.
const KV_BLOCKS: &str = "48";
const MAX_MODEL_LEN: &str = "512";
const READY: &str = "wayfare is ready: ";

/// A running `wayfare serve`. Killed when dropped.
pub(crate) struct DemoServer {
    process: Child,
    address: String,
}

impl DemoServer {
    /// Starts the release build, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(crate) fn start(port: u16, journey_file: &Path) -> Result<Self> {
        // Ctrl-C goes to the server, too; the demo ends when the server has.
        ctrlc::set_handler(|| ()).context("cannot listen for Ctrl-C")?;
        let program = target_directory()?.join("release").join("wayfare");
        let mut command = Command::new(&program);
        command
            .args(["serve", "--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--num-gpu-blocks-override", KV_BLOCKS, "--max-model-len", MAX_MODEL_LEN])
            .args(["--enable-journey-tracing", "--journey-file"])
            .arg(journey_file)
            .stdout(Stdio::piped());
        let shown: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        eprintln!("$ wayfare {}", shown.join(" "));
        let mut process = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let output = process.stdout.take().context("the server has no output")?;
        let first_line = BufReader::new(output).lines().next().transpose()?;
        let Some(address) = first_line.as_deref().and_then(|line| line.strip_prefix(READY)) else {
            let status = process.wait()?;
            bail!("the server did not start: {status}");
        };
        Ok(Self { process, address: address.to_owned() })
    }

    /// Its URL.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Waits until the server has ended.
    ///
    /// # Errors
    /// When it ended badly.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let status = self.process.wait()?;
        if !status.success() {
            bail!("the server ended with {status}");
        }
        Ok(())
    }

    /// Asks the server to end, as a service manager does, and waits for it.
    ///
    /// # Errors
    /// When it ended badly.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let process = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
        self.wait()
    }
}

impl Drop for DemoServer {
    fn drop(&mut self) {
        // Harmless when it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
