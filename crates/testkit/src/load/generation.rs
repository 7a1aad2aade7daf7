//! Streamed completions from any server of the OpenAI API, token times and counts included: what `vllm bench serve`
//! measures, in one thread that spends a few µs on a token.

mod events;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use serde::{Deserialize, Serialize};
use tokio::task::LocalSet;
use wayfare_journey::{Clock as _, MonoNs, SystemClock};

use self::events::{Event, EventReader};
use super::client::{Connection, LoadError};
use super::cpu_time::CpuClock;
use super::summary::Distribution;

/// What to ask for, and of whom.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct GenerationPlan {
    /// `ADDRESS:PORT`.
    pub address: String,
    /// Where to post to.
    pub path: String,
    /// The JSON bodies, one for each request. They ask for a stream with its usage at the end.
    pub bodies: Vec<String>,
    /// Requests in flight, each on a connection of its own.
    pub concurrency: u32,
    /// What the usage of every answer must say of its prompt.
    pub prompt_tokens: u64,
    /// What the usage of every answer must say of its length.
    pub output_tokens: u64,
}

/// What came of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct GenerationReport {
    /// Answers that were complete.
    pub requests: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Of all requests, by their usage.
    pub prompt_tokens: u64,
    /// Those among them that the server says it had computed before; zero where it does not say.
    pub cached_tokens: u64,
    /// Of all answers, by their usage.
    pub output_tokens: u64,
    /// Events with a choice. Fewer than tokens where several left together, or one had no text of its own.
    pub events: u64,
    /// From a request to its first event with a choice, in ms.
    pub ttft_ms: Distribution,
    /// From an answer's first event to its last, by its tokens after the first one, in ms; one value for each answer.
    pub tpot_ms: Distribution,
    /// Between an answer's events, in ms.
    pub itl_ms: Distribution,
    /// CPU time of the driver.
    pub driver_cpu_seconds: f64,
}

/// What one answer took.
#[derive(Debug, Default)]
struct Measured {
    ttft_ns: u64,
    /// From the first event to the last.
    decode_ns: u64,
    gaps_ns: Vec<u64>,
    prompt_tokens: u64,
    cached_tokens: u64,
    output_tokens: u64,
}

/// Carries a plan out. The first request that fails ends it, and so does one whose usage is not what the plan says.
///
/// # Errors
/// When a request fails, an answer is not whole, or its tokens are not as many as planned.
pub async fn generate(plan: GenerationPlan) -> Result<GenerationReport, LoadError> {
    let own_clock = CpuClock::of(std::process::id());
    let cpu_before = own_clock.read()?;
    let plan = Rc::new(plan);
    let waiting: VecDeque<Bytes> = plan.bodies.iter().map(|body| Bytes::from(body.clone())).collect();
    let waiting = Rc::new(RefCell::new(waiting));
    let started = SystemClock.now();
    let asking = LocalSet::new();
    let tasks: Vec<_> = (0..plan.concurrency)
        .map(|_| asking.spawn_local(ask_all(Rc::clone(&waiting), Rc::clone(&plan))))
        .collect();
    let measured = asking
        .run_until(async {
            let mut measured = Vec::new();
            for task in tasks {
                measured.extend(task.await.map_err(|_| LoadError::Panicked)??);
            }
            Ok::<_, LoadError>(measured)
        })
        .await?;
    let seconds = SystemClock.now().seconds_since(started);
    let driver_cpu_seconds = own_clock.read()? - cpu_before;
    Ok(report(&measured, seconds, driver_cpu_seconds))
}

/// Takes requests as long as there are some. Each has a connection of its own: servers close theirs after so many
/// requests or so much time, and some without saying so before.
async fn ask_all(
    waiting: Rc<RefCell<VecDeque<Bytes>>>,
    plan: Rc<GenerationPlan>,
) -> Result<Vec<Measured>, LoadError> {
    let mut measured = Vec::new();
    loop {
        let Some(body) = waiting.borrow_mut().pop_front() else { return Ok(measured) };
        let mut connection = Connection::open(&plan.address).await?;
        measured.push(ask(&mut connection, &plan, body).await?);
    }
}

async fn ask(connection: &mut Connection, plan: &GenerationPlan, body: Bytes) -> Result<Measured, LoadError> {
    let request = Request::post(&plan.path)
        .header(header::HOST, &plan.address)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body))?;
    let started = SystemClock.now();
    let response = connection.send(request).await?;
    let status = response.status();
    let mut body = response.into_body();
    if !status.is_success() {
        let body = body.collect().await?.to_bytes();
        return Err(LoadError::Status {
            status: status.as_u16(),
            body: String::from_utf8_lossy(&body).into_owned(),
        });
    }
    let mut reader = EventReader::default();
    let mut answer = Answer::default();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        let now = SystemClock.now();
        reader.take(&piece);
        while let Some(event) = reader.next_event() {
            let event = event.map_err(|tail| LoadError::NotWhole { tail })?;
            answer.take(event, started, now);
        }
    }
    answer.finish(plan)
}

/// What has been read of an answer.
#[derive(Debug, Default)]
struct Answer {
    measured: Measured,
    last: Option<MonoNs>,
    is_cut_at_its_length: bool,
    is_done: bool,
    has_usage: bool,
}

impl Answer {
    fn take(&mut self, event: Event, started: MonoNs, now: MonoNs) {
        let measured = &mut self.measured;
        match event {
            Event::Done => self.is_done = true,
            Event::Chunk(chunk) => {
                if let Some(choice) = chunk.choices.first() {
                    match self.last {
                        None => measured.ttft_ns = now.since(started),
                        Some(last) => {
                            measured.gaps_ns.push(now.since(last));
                            measured.decode_ns += now.since(last);
                        }
                    }
                    self.last = Some(now);
                    self.is_cut_at_its_length |= choice.finish_reason.as_deref() == Some("length");
                }
                if let Some(usage) = chunk.usage {
                    self.has_usage = true;
                    measured.prompt_tokens = usage.prompt_tokens;
                    measured.output_tokens = usage.completion_tokens;
                    measured.cached_tokens =
                        usage.prompt_tokens_details.map_or(0, |details| details.cached_tokens);
                }
            }
        }
    }

    fn finish(self, plan: &GenerationPlan) -> Result<Measured, LoadError> {
        if !(self.is_done && self.has_usage && self.is_cut_at_its_length) {
            let missing = format!(
                "length reached: {}, usage: {}, [DONE]: {}",
                self.is_cut_at_its_length, self.has_usage, self.is_done
            );
            return Err(LoadError::NotWhole { tail: missing });
        }
        let Measured { prompt_tokens, output_tokens, .. } = self.measured;
        if (prompt_tokens, output_tokens) != (plan.prompt_tokens, plan.output_tokens) {
            return Err(LoadError::Tokens {
                wanted: (plan.prompt_tokens, plan.output_tokens),
                counted: (prompt_tokens, output_tokens),
            });
        }
        Ok(self.measured)
    }
}

fn report(measured: &[Measured], seconds: f64, driver_cpu_seconds: f64) -> GenerationReport {
    let sum = |of: fn(&Measured) -> u64| measured.iter().map(of).sum();
    let ms = |ns: u64| ns as f64 / 1e6;
    let per_token = |one: &Measured| ms(one.decode_ns) / (one.output_tokens - 1) as f64;
    GenerationReport {
        requests: measured.len() as u64,
        seconds,
        prompt_tokens: sum(|one| one.prompt_tokens),
        cached_tokens: sum(|one| one.cached_tokens),
        output_tokens: sum(|one| one.output_tokens),
        events: sum(|one| one.gaps_ns.len() as u64 + 1),
        ttft_ms: Distribution::of(measured.iter().map(|one| ms(one.ttft_ns)).collect()),
        tpot_ms: Distribution::of(
            measured.iter().filter(|one| one.output_tokens > 1).map(per_token).collect(),
        ),
        itl_ms: Distribution::of(
            measured.iter().flat_map(|one| &one.gaps_ns).map(|gap_ns| ms(*gap_ns)).collect(),
        ),
        driver_cpu_seconds,
    }
}
