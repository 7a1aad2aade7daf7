//! The other end of the load driver's pipe.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What to send. The fields are those of `LoadPlan` in the testkit, which says what they mean.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) address: String,
    pub(crate) server_pid: u32,
    pub(crate) path: &'static str,
    pub(crate) body: String,
    pub(crate) stream: bool,
    pub(crate) concurrency: u32,
    pub(crate) requests: u64,
    pub(crate) spin: bool,
    pub(crate) settle_ms: u64,
}

/// What came of it. The fields are those of `LoadReport` in the testkit, which says what they mean.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) events: u64,
    pub(crate) frames: u64,
    pub(crate) first_ms: Quantiles,
    pub(crate) whole_ms: Quantiles,
    pub(crate) server_cpu_seconds: f64,
    pub(crate) driver_cpu_seconds: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// What has reached the driver's OTLP sink.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct SinkTotals {
    pub(crate) spans: u64,
}

impl Report {
    pub(crate) fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// CPU time of the server by request, in µs.
    pub(crate) fn server_cpu_us(&self) -> f64 {
        self.server_cpu_seconds * 1e6 / self.requests as f64
    }

    /// The share of the time in which the server computed, in cores.
    pub(crate) fn server_load(&self) -> f64 {
        self.server_cpu_seconds / self.seconds
    }
}

/// The driver's process. Ends when its input is closed; killed when dropped before.
pub(crate) struct Driver {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    sink: String,
}

impl Driver {
    /// Starts `program`.
    ///
    /// # Errors
    /// When it does not say where its sink is.
    pub(crate) fn start(program: &Path) -> Result<Self> {
        let mut process = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let input = process.stdin.take().context("the driver has no input")?;
        let output = BufReader::new(process.stdout.take().context("the driver has no output")?);
        let mut driver = Self { process, input, output, sink: String::new() };
        driver.sink = serde_json::from_str(&driver.line()?)?;
        Ok(driver)
    }

    /// Where its OTLP sink listens.
    pub(crate) fn sink(&self) -> &str {
        &self.sink
    }

    /// Carries a plan out.
    ///
    /// # Errors
    /// When a request fails or the driver does.
    pub(crate) fn run(&mut self, plan: &Plan) -> Result<Report> {
        Ok(serde_json::from_str(&self.ask(&json!({ "run": plan }))?)?)
    }

    /// What has reached its sink.
    ///
    /// # Errors
    /// When the driver fails.
    pub(crate) fn sink_totals(&mut self) -> Result<SinkTotals> {
        Ok(serde_json::from_str(&self.ask(&json!("sink"))?)?)
    }

    /// Sends a command, and returns the line that answers it.
    ///
    /// # Errors
    /// When the driver fails.
    pub(crate) fn ask(&mut self, command: &Value) -> Result<String> {
        writeln!(self.input, "{command}").context("the driver has ended")?;
        self.line()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            let status = self.process.wait()?;
            bail!("the load driver ended with {status}");
        }
        Ok(line)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Harmless when it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
