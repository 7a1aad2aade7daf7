//! A server process.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use wayfare_journey::{Clock as _, SystemClock};
use wayfare_testkit::wait_until;

use crate::heap::resident_bytes_of;

const READY: &str = "wayfare is ready: ";
const PATIENCE: Duration = Duration::from_secs(60);

/// `wayfare serve` on a free port of the loopback interface; killed when dropped.
pub(crate) struct ServerProcess {
    process: Child,
    log: Arc<Mutex<String>>,
    log_reader: Option<JoinHandle<()>>,
    pub(crate) address: String,
}

/// How a process ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) took: Duration,
    pub(crate) log: String,
}

/// `wayfare serve ARGUMENTS`, with nothing of our own environment that could change it.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayfare"));
    let changes_it = |name: &str| name.starts_with("OTEL_") || name.ends_with("_API_KEY");
    for (name, _) in std::env::vars().filter(|(name, _)| changes_it(name)) {
        command.env_remove(name);
    }
    command.arg("serve").args(["--host", "127.0.0.1", "--port", "0"]).args(arguments);
    command.env("RUST_LOG", "info").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `wayfare serve sim ARGUMENTS` with these variables.
pub(crate) fn simulated(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = command(&[&["sim"], arguments].concat());
    command.envs(variables.iter().copied());
    command
}

impl ServerProcess {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::spawn(&mut command(arguments))
    }

    pub(crate) fn simulated(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::spawn(&mut simulated(arguments, variables))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut process = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (kept, stderr) = (Arc::clone(&log), process.stderr.take().unwrap());
        let log_reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().push_str(&format!("{line}\n"));
            }
        });
        let mut first_line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut first_line).unwrap();
        let mut server = Self { process, log, log_reader: Some(log_reader), address: String::new() };
        let Some(address) = first_line.trim_end().strip_prefix(READY) else {
            let ended = server.wait();
            panic!("the server did not start ({}):\n{}\n{}", ended.status, ended.log, model_hint());
        };
        server.address = address.to_owned();
        server
    }

    pub(crate) fn socket_address(&self) -> SocketAddr {
        let (_, address) = self.address.split_once("://").unwrap();
        address.parse().unwrap()
    }

    /// What has been read of the log. What is written to it before a line on standard output may be read after
    /// that line.
    pub(crate) fn log(&self) -> String {
        self.log.lock().clone()
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(mut self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Bytes of memory that the process holds; 0 where the system does not say.
    pub(crate) fn resident_bytes(&self) -> u64 {
        resident_bytes_of(&self.process.id().to_string())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> Ended {
        let started = SystemClock.now();
        let mut status = None;
        wait_until(PATIENCE, || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        let took = Duration::from_nanos(SystemClock.now().since(started));
        self.log_reader.take().unwrap().join().unwrap();
        Ended { status: status.unwrap(), took, log: self.log() }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a start that is meant to fail.
pub(crate) fn failed_start(command: &mut Command) -> Ended {
    let started = SystemClock.now();
    let output = command.output().unwrap();
    let took = Duration::from_nanos(SystemClock.now().since(started));
    assert!(output.stdout.is_empty(), "a server that did not start says that it is ready");
    Ended { status: output.status, took, log: String::from_utf8_lossy(&output.stderr).into_owned() }
}

fn model_hint() -> &'static str {
    "if the default model is missing, fetch it with `cargo xtask model`"
}
