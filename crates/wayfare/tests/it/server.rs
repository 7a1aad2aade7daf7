//! A server process.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

const READY: &str = "wayfare is ready: ";

/// `wayfare serve` on a free port of the loopback interface; killed when dropped.
pub(crate) struct ServerProcess {
    process: Child,
    log: Option<JoinHandle<String>>,
    pub(crate) address: String,
}

/// How a process ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
}

/// `wayfare serve ARGUMENTS`, with nothing of our own environment that could change it.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayfare"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_") || name == "VLLM_API_KEY")
    {
        command.env_remove(name);
    }
    command.arg("serve").args(["--host", "127.0.0.1", "--port", "0"]).args(arguments);
    command.env("RUST_LOG", "info").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl ServerProcess {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::spawn(&mut command(arguments))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut process = command.spawn().unwrap();
        let mut stderr = process.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(address) = line.trim_end().strip_prefix(READY) else {
            let status = process.wait().unwrap();
            panic!("the server did not start ({status}):\n{}\n{}", log.join().unwrap(), model_hint());
        };
        let address = address.to_owned();
        Self { process, log: Some(log), address }
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(mut self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> Ended {
        let status = self.process.wait().unwrap();
        Ended { status, log: self.log.take().unwrap().join().unwrap() }
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
    let output = command.output().unwrap();
    assert!(output.stdout.is_empty(), "a server that did not start says that it is ready");
    Ended { status: output.status, log: String::from_utf8_lossy(&output.stderr).into_owned() }
}

fn model_hint() -> &'static str {
    "if the default model is missing, fetch it with `cargo xtask model`"
}
