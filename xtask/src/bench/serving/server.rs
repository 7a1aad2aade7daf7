//! A server under test.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use wayfare_journey::{Clock as _, MonoNs, SystemClock};

use super::process_tree;

/// vLLM's start takes half a minute where nothing else runs.
const START_LIMIT_S: f64 = 300.0;
const POLL: Duration = Duration::from_millis(10);
const STOP_LIMIT_S: f64 = 20.0;

/// Its process and all that it has started. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    port: u16,
    started: MonoNs,
}

impl Server {
    /// Starts `command` on a free port of this machine, with its output in the file `log`, and waits until it says that
    /// it is ready.
    ///
    /// # Errors
    /// When it ends, or does not become ready.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let port = free_port()?;
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let program = command.get_program().to_string_lossy().into_owned();
        let started = SystemClock.now();
        let process = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let mut server = Self { process, port, started };
        let health = format!("http://{}/health", server.address());
        while ureq::get(&health).call().is_err() {
            if let Some(status) = server.process.try_wait()? {
                bail!("{program} ended with {status}; see {}", log.display());
            }
            if server.seconds_since_start() > START_LIMIT_S {
                bail!("{program} is not ready after {START_LIMIT_S} s; see {}", log.display());
            }
            sleep(POLL);
        }
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn seconds_since_start(&self) -> f64 {
        SystemClock.now().seconds_since(self.started)
    }

    /// See [`process_tree::peak_resident_bytes`].
    pub(crate) fn peak_resident_bytes(&self) -> u64 {
        process_tree::peak_resident_bytes(self.process.id())
    }

    /// Stops it where it stands, so that it takes no time from another.
    pub(crate) fn pause(&self) {
        process_tree::signal(self.process.id(), Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        process_tree::signal(self.process.id(), Signal::CONT);
    }

    /// Asks it to end, and waits for that.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.resume();
        let root = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(root, Signal::TERM)?;
        let asked = SystemClock.now();
        while self.process.try_wait()?.is_none() && SystemClock.now().seconds_since(asked) < STOP_LIMIT_S {
            sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Harmless when it has ended: it has not been waited for before, or nothing is left under its number.
        if matches!(self.process.try_wait(), Ok(None)) {
            process_tree::signal(self.process.id(), Signal::KILL);
            let _ = self.process.wait();
        }
    }
}

/// A port that nobody listens on. Another could take it before it is used; the server says so then.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Where the servers' output goes.
pub(crate) fn log_folder(target: &Path) -> Result<PathBuf> {
    let folder = target.join("serving");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
