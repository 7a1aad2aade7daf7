//! The first five minutes: the default model is served with journey tracing on, a few requests are made, and
//! their journeys shown.

mod client;
mod server;

use std::io::IsTerminal as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use wayfare_insight::{TracedJourney, read_journeys, waterfall};

use crate::demo::client::{Answer, Client};
use crate::model;
use crate::process::{cargo, run as run_command};

/// Options of `cargo xtask demo`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Ends after the journeys have been shown, instead of serving on.
    #[arg(long)]
    once: bool,
    /// Port of the server; 0 takes a free one.
    #[arg(long, default_value_t = 8000)]
    port: u16,
}

impl Options {
    /// As CI runs it.
    pub(crate) fn once() -> Self {
        Self { once: true, port: 0 }
    }
}

/// Widest waterfall; wider terminals are not filled.
const MAX_WIDTH: usize = 120;
/// How long the exporter may take to write the last journey down.
const EXPORT_PATIENCE: Duration = Duration::from_secs(10);
/// Requests that run at the same time, each with an answer so long that the KV cache cannot hold all of them.
const CROWD: [&str; 4] = [
    "Tell me a story about a lighthouse.",
    "Describe a forest in winter.",
    "Explain how bread is made.",
    "Write about the sea.",
];
const CROWD_ANSWER_TOKENS: u32 = 160;

/// Entry point of `cargo xtask demo`.
///
/// # Errors
/// When anything on the way fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    model::ensure()?;
    eprintln!("Building wayfare in release mode; the first time takes a few minutes …");
    run_command(&mut cargo(&["build", "--release", "--package", "wayfare"]))?;

    let folder = tempfile::tempdir()?;
    let journey_file = folder.path().join("journeys.jsonl");
    let mut server = server::start(options.port, &journey_file)?;
    let client = Client::new(server.address());
    let questions = converse(&client)?;
    let journeys = wait_for_journeys(&journey_file, questions)?;
    let width = terminal_width().min(MAX_WIDTH);
    println!("\nThe journey of each of these {} requests:\n", journeys.len());
    for journey in &journeys {
        println!("{}", waterfall(journey, width, std::io::stdout().is_terminal()));
    }
    let preemptions: u64 = journeys.iter().map(TracedJourney::preemptions).sum();
    if preemptions == 0 {
        bail!("no request was preempted, although the KV cache was too small for all of them");
    }
    if options.once {
        return server.stop();
    }
    println!(
        "The server goes on at {0}; Ctrl-C ends it. Try:\n\n  \
         curl {0}/v1/chat/completions -H 'content-type: application/json' \\\n    \
         -d '{{\"messages\":[{{\"role\":\"user\",\"content\":\"What is a journey?\"}}],\"max_tokens\":60}}'\n\n\
         Journeys are appended to {1}.",
        server.address(),
        journey_file.display()
    );
    server.wait()
}

/// Sends a handful of requests of different kinds; returns how many.
fn converse(client: &Client) -> Result<usize> {
    let question = "What is the capital of France?";
    let whole = client.ask(question, 48, false)?;
    println!("\n  > {question}\n  {}\n", whole.text.trim());
    let streamed = client.ask(question, 48, true)?;
    println!(
        "  The same, streamed: {} chunks, the first after {:.0} ms.",
        streamed.chunks,
        streamed.first_ms()
    );
    if whole.text != streamed.text {
        bail!("the streamed answer is another: {:?}", streamed.text);
    }
    println!("  Now {} at once, more than the KV cache holds.", CROWD.len());
    let crowd: Vec<Result<Answer>> = thread::scope(|scope| {
        let asked: Vec<_> = CROWD
            .iter()
            .enumerate()
            .map(|(index, question)| {
                scope.spawn(move || client.fill(question, CROWD_ANSWER_TOKENS, index % 2 == 0))
            })
            .collect();
        asked
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a request's thread panicked")))
            .collect()
    });
    for answer in crowd {
        let answer = answer?;
        if answer.completion_tokens != Some(CROWD_ANSWER_TOKENS) {
            bail!("asked for {CROWD_ANSWER_TOKENS} tokens, got {:?}", answer.completion_tokens);
        }
    }
    Ok(2 + CROWD.len())
}

#[expect(clippy::disallowed_methods, reason = "waits for another process in real time")]
fn wait_for_journeys(file: &Path, wanted: usize) -> Result<Vec<TracedJourney>> {
    let deadline = Instant::now() + EXPORT_PATIENCE;
    loop {
        let written = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        // The last line may be half written.
        let whole_lines = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let journeys = read_journeys(&written[..whole_lines])?;
        let is_complete = |journey: &TracedJourney| journey.request.is_some() && !journey.cores.is_empty();
        if journeys.len() >= wanted && journeys.iter().all(is_complete) {
            return Ok(journeys);
        }
        if Instant::now() > deadline {
            bail!("only {} of {wanted} journeys were written to {}", journeys.len(), file.display());
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn terminal_width() -> usize {
    terminal_size::terminal_size().map_or(100, |(width, _)| usize::from(width.0))
}
