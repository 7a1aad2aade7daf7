//! The load driver: keeps a number of requests in flight, and says what they took and what the server spent.
//!
//! It runs in a process of its own, `wayfare-load`, so that it can be kept off the server's cores. That process
//! reads a [`Command`] per line, and answers each with a line.

mod answer;
mod client;
mod cpu_time;
mod generation;
mod sink;
mod summary;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wayfare_journey::{Clock as _, SystemClock};

use self::client::{Connection, Measured, RequestMaker};
use self::cpu_time::CpuClock;

pub use self::client::LoadError;
pub use self::cpu_time::CpuTimeError;
pub use self::generation::{GenerationPlan, GenerationReport, generate};
pub use self::sink::{CountingSink, SinkTotals};
pub use self::summary::{Distribution, Quantiles};

/// What the driver is told, one per line.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Sends requests; the answer is a [`LoadReport`].
    Run(LoadPlan),
    /// Asks for completions; the answer is a [`GenerationReport`].
    Generate(GenerationPlan),
    /// Asks what has reached the driver's OTLP sink so far; the answer is a [`SinkTotals`].
    Sink,
}

/// What to send, and to whom.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LoadPlan {
    /// `ADDRESS:PORT`.
    pub address: String,
    /// The server's process, whose CPU time is read.
    pub server_pid: u32,
    /// Where to post to.
    pub path: String,
    /// The JSON body. The first `@@@@@@@@` in it becomes the request's number in hexadecimal, so that no two
    /// prompts are the same.
    pub body: String,
    /// Whether the answers come as server-sent events.
    pub stream: bool,
    /// Requests in flight, each on a connection of its own.
    pub concurrency: u32,
    /// Requests in all.
    pub requests: u64,
    /// Whether the driver waits for answers by looking again and again instead of sleeping. Where it has a core of
    /// its own, the server's kernel time then holds no waking of the client, which no server of distant clients
    /// has; in a virtual machine that is the most expensive part of a small write.
    #[serde(default)]
    pub spin: bool,
    /// How long to wait between the last answer and the second reading of the server's CPU time, so that what
    /// the server does afterwards counts, too.
    pub settle_ms: u64,
}

/// What came of a plan.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LoadReport {
    /// Answers that were complete.
    pub requests: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Events, if the answers were streamed.
    pub events: u64,
    /// Pieces in which the answers arrived.
    pub frames: u64,
    /// Time to the first piece of an answer, in ms.
    pub first_ms: Quantiles,
    /// Time to the end of an answer, in ms.
    pub whole_ms: Quantiles,
    /// CPU time of the server, user and kernel together, in seconds.
    pub server_cpu_seconds: f64,
    /// CPU time of the driver. When it did not spin and this is about [`seconds`](Self::seconds), the driver was
    /// what limited.
    pub driver_cpu_seconds: f64,
}

/// Carries a plan out. The first request that fails ends it, and so does an answer that ended for another reason
/// than its length.
///
/// # Errors
/// When a request fails, an answer is not whole, or the server's CPU time cannot be read.
pub async fn run(plan: &LoadPlan) -> Result<LoadReport, LoadError> {
    let maker = Arc::new(RequestMaker::new(plan)?);
    let tickets = Arc::new(AtomicU64::new(0));
    let mut connections = Vec::new();
    for _ in 0..plan.concurrency {
        connections.push(Connection::open(&plan.address).await?);
    }
    let (server_clock, own_clock) = (CpuClock::of(plan.server_pid), CpuClock::of(std::process::id()));
    let (server_before, own_before) = (server_clock.read()?, own_clock.read()?);
    let spinning = plan.spin.then(|| tokio::spawn(spin()));
    let started = SystemClock.now();
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|mut connection| {
            let (maker, tickets, requests) = (Arc::clone(&maker), Arc::clone(&tickets), plan.requests);
            tokio::spawn(async move {
                let mut measured = Vec::new();
                loop {
                    let number = tickets.fetch_add(1, Ordering::Relaxed);
                    if number >= requests {
                        return Ok::<Vec<Measured>, LoadError>(measured);
                    }
                    measured.push(connection.ask(&maker, number).await?);
                }
            })
        })
        .collect();
    let mut measured = Vec::new();
    for task in tasks {
        measured.extend(task.await.map_err(|_| LoadError::Panicked)??);
    }
    let seconds = SystemClock.now().seconds_since(started);
    if let Some(spinning) = spinning {
        spinning.abort();
    }
    let driver_cpu_seconds = own_clock.read()? - own_before;
    tokio::time::sleep(Duration::from_millis(plan.settle_ms)).await;
    let server_cpu_seconds = server_clock.read()? - server_before;
    let milliseconds = |ns: fn(&Measured) -> u64| measured.iter().map(|one| ns(one) as f64 / 1e6).collect();
    Ok(LoadReport {
        requests: measured.len() as u64,
        seconds,
        events: measured.iter().map(|one| one.events).sum(),
        frames: measured.iter().map(|one| one.frames).sum(),
        first_ms: Quantiles::of(milliseconds(|one| one.first_ns)),
        whole_ms: Quantiles::of(milliseconds(|one| one.whole_ns)),
        server_cpu_seconds,
        driver_cpu_seconds,
    })
}

/// Keeps the runtime from sleeping.
async fn spin() {
    loop {
        tokio::task::yield_now().await;
    }
}
