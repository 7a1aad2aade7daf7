//! Engine cores that do what a test says: `tests/peer/peer.py`, with the socket and encoding libraries of vLLM.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use crate::rig::PATIENCE;

/// Ports for a handshake, requests and the outputs of a few ranks, one behind the other, free a moment ago.
pub(crate) fn free_ports() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let Some(last) = first.checked_add(6) else { continue };
        if (first..last).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
}

/// A running engine core. Killed when it is dropped.
pub(crate) struct Peer {
    child: Child,
    stdin: ChildStdin,
    events: Receiver<Value>,
}

impl Peer {
    /// Starts one that says hello at this port.
    pub(crate) fn start(port: u16, arguments: &[&str]) -> Self {
        let address = format!("tcp://127.0.0.1:{port}");
        Self::run(&[&["--handshake", &address], arguments].concat())
    }

    /// Starts one that has been told where to connect to.
    pub(crate) fn told(folder: &Path, rank: u16, ranks: u16) -> Self {
        let at = |name: &str| format!("ipc://{}", folder.join(name).display());
        let (rank, ranks) = (rank.to_string(), ranks.to_string());
        Self::run(&[
            "--inputs",
            &at("inputs"),
            "--outputs",
            &at("outputs"),
            "--rank",
            &rank,
            "--ranks",
            &ranks,
        ])
    }

    fn run(arguments: &[&str]) -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = tests.join("../../target/vllm-peer/bin/python");
        assert!(python.exists(), "{} is missing: run `cargo xtask test --only vllm-peer`", python.display());
        let mut child = Command::new(python)
            .arg(tests.join("tests/peer/peer.py"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tx, events) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = tx.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self { stdin: child.stdin.take().unwrap(), child, events }
    }

    pub(crate) fn tell(&mut self, command: &Value) {
        writeln!(self.stdin, "{command}").unwrap();
        self.stdin.flush().unwrap();
    }

    /// The next event of a kind; those before it are not of interest.
    pub(crate) fn expect(&self, kind: &str) -> Value {
        loop {
            let event = self.events.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no event {kind}"));
            if event["event"] == kind {
                return event;
            }
        }
    }

    /// The requests it is sent before the next event of a kind.
    pub(crate) fn before(&self, kind: &str) -> Vec<Value> {
        let events = std::iter::repeat_with(|| self.events.recv_timeout(PATIENCE).expect("there are events"));
        events.take_while(|event| event["event"] != kind).filter(|event| event["event"] == "add").collect()
    }

    /// The name of the next request that it is sent.
    pub(crate) fn added(&self) -> String {
        self.expect("add")["request_id"].as_str().unwrap().to_owned()
    }

    /// A step with these outputs, each with the name of its request in it.
    pub(crate) fn step(&mut self, outputs: &Value) {
        self.tell(&json!({ "do": "outputs", "outputs": outputs }));
    }

    /// The time on its clock.
    pub(crate) fn now(&mut self) -> f64 {
        self.tell(&json!({ "do": "now" }));
        self.expect("now")["seconds"].as_f64().unwrap()
    }

    pub(crate) fn raw(&mut self, frame: &[u8]) {
        self.frames(&[frame]);
    }

    /// A message of these frames, whatever is in them.
    pub(crate) fn frames(&mut self, frames: &[impl AsRef<[u8]>]) {
        let hex = |frame: &[u8]| frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let frames: Vec<String> = frames.iter().map(|frame| hex(frame.as_ref())).collect();
        self.tell(&json!({ "do": "raw", "frames": frames }));
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
