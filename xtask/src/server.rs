//! A running `wayfare serve`.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

const READY: &str = "wayfare is ready: ";

/// The process. Killed when dropped.
pub(crate) struct ServerProcess {
    process: Child,
    address: String,
}

impl ServerProcess {
    /// Starts `command`, a `wayfare serve`, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut process =
            command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {program}"))?;
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

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
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

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Harmless when it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
