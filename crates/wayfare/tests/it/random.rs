//! Thousands of requests that end in every way at once, and what arrived of them.
//!
//! In CI two thousand requests. `cargo xtask soak --minutes N` sets `WAYFARE_SOAK_MINUTES` and goes on for so
//! long. `WAYFARE_SEED` repeats the choices of an earlier run, though not its timing.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use wayfare_journey::{Clock as _, SystemClock};
use wayfare_scheduler::SchedulerConfig;
use wayfare_testkit::StepBehaviour;

use crate::arrived::Journey;
use crate::heap::{live_bytes, resident_bytes};
use crate::raw_client::{Answer, Client};
use crate::rig::{CHAT, COMPLETIONS, ENDLESS, PATIENCE, Rig, Setup, request};

const ROUND_REQUESTS: u64 = 500;
const CI_SEED: u64 = 1;
const CI_ROUNDS: u64 = 4;
const CLIENTS: usize = 24;
const BUG: &str = "/bug";
/// How the panics begin that are part of the test, also those of the executor.
const WANTED_PANIC: &str = "the test wants";
/// What a round may leave behind for ever: connections and threads that are about to end, and caches.
const MOST_GROWTH_BYTES: usize = 4 << 20;

/// How a round ends for those that are in flight when nine of ten requests have been started.
#[derive(Clone, Copy, Debug, PartialEq)]
enum RoundEnd {
    Quiet,
    Panic,
    Shutdown,
}

/// When the client leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Patience {
    /// It takes its whole answer.
    Endless,
    BeforeTheBody,
    /// So long after it has sent its request, without reading.
    For(Duration),
    /// When it has read so many times.
    Reads(u32),
}

#[derive(Clone, Debug)]
struct Plan {
    path: &'static str,
    body: String,
    is_good: bool,
    patience: Patience,
    traceparent: Option<Traceparent>,
    request_id: Option<&'static str>,
}

#[derive(Clone, Debug)]
struct Traceparent {
    trace_id: String,
    parent: String,
    is_sampled: bool,
}

impl Plan {
    fn random(random: &mut StdRng) -> Self {
        let path = if random.random_bool(0.5) { CHAT } else { COMPLETIONS };
        let good = || request(path, json!({}));
        let (path, body, is_good) = match random.random_range(0..100) {
            0..80 => (path, good_body(path, random).to_string(), true),
            80..83 => (path, "{\"prompt\": [".to_owned(), false),
            83..86 => (path, with(good(), json!({"model": "other"})).to_string(), false),
            86..89 => (path, with(good(), json!({"max_tokens": 100_000})).to_string(), false),
            89..92 => (path, with(good(), json!({"top_p": 7})).to_string(), false),
            92..95 => (path, with(good(), json!({"n": 0})).to_string(), false),
            95..98 => (BUG, String::new(), false),
            _ => ("/v1/nothing", String::new(), false),
        };
        let patience = match random.random_range(0..100) {
            0..60 => Patience::Endless,
            60..65 => Patience::BeforeTheBody,
            65..85 => Patience::For(Duration::from_micros(random.random_range(0..20_000))),
            _ => Patience::Reads(random.random_range(1..30)),
        };
        let traceparent = random.random_bool(0.5).then(|| Traceparent {
            trace_id: format!("{:032x}", random.random_range(1..=u128::MAX)),
            parent: format!("{:016x}", random.random_range(1..=u64::MAX)),
            is_sampled: random.random_bool(0.8),
        });
        let request_id = random.random_bool(0.3).then_some("same");
        Self { path, body, is_good, patience, traceparent, request_id }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "callers write literals")]
fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn good_body(path: &str, random: &mut StdRng) -> Value {
    let prompt = "p".repeat(random.random_range(1..100));
    let prompt = if path == CHAT {
        json!({"messages": [{"role": "user", "content": prompt}]})
    } else {
        json!({"prompt": prompt})
    };
    let mut body = with(
        prompt,
        json!({
            "max_tokens": random.random_range(1..60),
            "stream": random.random_bool(0.6),
            "seed": if random.random_bool(0.3) { random.random_range(0..60) } else { ENDLESS },
        }),
    );
    match random.random_range(0..5) {
        0 => body = with(body, json!({"stop": ["no p", "never"]})),
        1 => body = with(body, json!({"stop_token_ids": [random.random_range(0..258)]})),
        2 => body = with(body, json!({"ignore_eos": true, "stream_options": null})),
        3 => body = with(body, json!({"n": random.random_range(2..4)})),
        _ => {}
    }
    body
}

/// What the client saw.
#[derive(Debug, Default)]
struct Outcome {
    /// Status and `traceresponse` of the answer, as far as it was read.
    head: Option<(u16, String)>,
    answer: Option<Answer>,
}

async fn run(address: std::net::SocketAddr, plan: &Plan) -> std::io::Result<Outcome> {
    let mut client = Client::connect(address).await?;
    let traceparent = plan
        .traceparent
        .as_ref()
        .map(|parent| format!("00-{}-{}-0{}", parent.trace_id, parent.parent, u8::from(parent.is_sampled)));
    let mut headers = Vec::new();
    headers.extend(traceparent.as_deref().map(|value| ("traceparent", value)));
    headers.extend(plan.request_id.map(|value| ("x-request-id", value)));
    client.send_head(plan.path, &headers, plan.body.len()).await?;
    let mut outcome = Outcome::default();
    if plan.patience == Patience::BeforeTheBody {
        client.send_bytes(&plan.body.as_bytes()[..plan.body.len() / 2]).await?;
        return Ok(outcome);
    }
    client.send_bytes(plan.body.as_bytes()).await?;
    match plan.patience {
        Patience::BeforeTheBody => {}
        Patience::For(time) => tokio::time::sleep(time).await,
        Patience::Reads(times) => {
            for _ in 0..times {
                // It does not wait for more after a whole answer.
                let read = tokio::time::timeout(Duration::from_millis(50), client.read_some()).await;
                if read != Ok(true) {
                    break;
                }
            }
        }
        Patience::Endless => {
            let answer = client.answer().await.ok_or(std::io::ErrorKind::UnexpectedEof)?;
            let traceresponse = answer.header("traceresponse").unwrap_or_default().to_owned();
            outcome.head = Some((answer.status, traceresponse));
            outcome.answer = Some(answer);
        }
    }
    Ok(outcome)
}

fn setup(random: &mut StdRng) -> Setup {
    let mut faults = StdRng::seed_from_u64(random.random());
    let bug = async || -> &'static str { panic!("{WANTED_PANIC}") };
    Setup::with(|setup| {
        setup.scheduler = SchedulerConfig {
            max_num_seqs: random.random_range(2..12),
            max_num_batched_tokens: random.random_range(32..200),
            max_model_len: 256,
            block_size: 16,
            num_kv_blocks: random.random_range(18..40),
            prefix_caching: random.random_bool(0.5).then(|| random.random()),
            ..setup.scheduler
        };
        setup.max_queued = random.random_bool(0.5).then(|| NonZeroU32::new(8)).flatten();
        setup.limits.request_timeout = random.random_bool(0.5).then_some(Duration::from_millis(60));
        setup.sample_rate = if random.random_bool(0.5) { 1.0 } else { 0.5 };
        setup.more = Router::new().route(BUG, post(bug));
        setup.faults = Box::new(move |_| match faults.random_range(0..1_000) {
            0..5 => StepBehaviour::Fail,
            5..100 => StepBehaviour::Slow(Duration::from_millis(3)),
            _ => StepBehaviour::Slow(Duration::from_micros(100)),
        });
    })
}

/// Thousands of panics on purpose, each with its backtrace, would hide what the test says.
fn say_nothing_of_wanted_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.payload_as_str().is_some_and(|message| message.starts_with(WANTED_PANIC)) {
            usual(panic);
        }
    }));
}

/// The journeys of one round, all checked.
async fn round(seed: u64, number: u64) -> Vec<Journey> {
    let mut random = StdRng::seed_from_u64(seed.wrapping_add(number));
    let end = [RoundEnd::Quiet, RoundEnd::Panic, RoundEnd::Shutdown][(number % 3) as usize];
    let rig = Arc::new(setup(&mut random).start());
    let plans: Arc<Vec<Plan>> = Arc::new((0..ROUND_REQUESTS).map(|_| Plan::random(&mut random)).collect());
    let next = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (rig, plans, next) = (Arc::clone(&rig), Arc::clone(&plans), Arc::clone(&next));
            tokio::spawn(async move {
                let mut outcomes = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(plan) = plans.get(index as usize) else { return outcomes };
                    if index == ROUND_REQUESTS * 9 / 10 {
                        match end {
                            RoundEnd::Quiet => {}
                            RoundEnd::Panic => rig.control.next_step(StepBehaviour::Panic),
                            RoundEnd::Shutdown => rig.shutdown.close(),
                        }
                    }
                    let outcome = tokio::time::timeout(PATIENCE, run(rig.address, plan)).await;
                    let outcome = outcome.unwrap_or_else(|_| panic!("no answer to {plan:?}")).unwrap();
                    outcomes.push((plan.clone(), outcome));
                }
            })
        })
        .collect();
    let mut outcomes = Vec::new();
    for client in clients {
        outcomes.extend(client.await.unwrap());
    }
    let Ok(rig) = Arc::try_unwrap(rig) else { panic!("all clients have ended") };
    // Those that left at once may not have been read yet.
    wait_until_steady(&rig).await;
    let recorded = rig.tracer.counters().recorded() as usize;
    let journeys = rig.journeys(recorded);
    let sampled_out = rig.tracer.counters().sampled_out();
    assert!(recorded as u64 + sampled_out <= ROUND_REQUESTS);
    rig.flush();
    assert_eq!(rig.sink.spans().iter().filter(|span| span.name == "llm_request").count(), recorded);
    check_outcomes(&outcomes, &journeys);
    journeys
}

/// Until no more requests are noticed, and those that were are over.
async fn wait_until_steady(rig: &Rig) {
    let noticed = || rig.tracer.counters().recorded() + rig.tracer.counters().sampled_out();
    let mut before = u64::MAX;
    while before != noticed() || rig.tracer.counters().in_flight() > 0 {
        rig.wait_until_nothing_is_left();
        before = noticed();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn check_outcomes(outcomes: &[(Plan, Outcome)], journeys: &[Journey]) {
    let by_span: HashMap<&str, &Journey> =
        journeys.iter().map(|journey| (journey.request.span_id.as_str(), journey)).collect();
    let by_trace: HashMap<&str, &Journey> =
        journeys.iter().map(|journey| (journey.request.trace_id.as_str(), journey)).collect();
    for (plan, outcome) in outcomes {
        if let Some(sent) = &plan.traceparent {
            let journey = by_trace.get(sent.trace_id.as_str());
            assert!(sent.is_sampled || journey.is_none(), "{plan:?} was not to be recorded");
            if let Some(journey) = journey {
                assert_eq!(journey.request.parent_span_id.as_ref(), Some(&sent.parent), "{plan:?}");
            }
        }
        let Some((status, traceresponse)) = &outcome.head else { continue };
        let expected: &[u16] = match plan.path {
            BUG => &[500],
            "/v1/nothing" => &[404],
            // On a busy machine the time is up before the body is read, or looked at.
            _ if plan.is_good => &[200, 408, 429, 500, 503, 504],
            _ => &[400, 404, 408, 503, 504],
        };
        assert!(expected.contains(status), "{plan:?} got {status}");
        let parts: Vec<&str> = traceresponse.split('-').collect();
        let journey = by_span.get(parts[2]);
        assert_eq!(
            journey.is_some(),
            parts[3].ends_with(['1', '3']),
            "{traceresponse} tells what is recorded"
        );
        let Some(journey) = journey else { continue };
        assert_eq!(journey.request.trace_id, parts[1]);
        assert_eq!(journey.status(), Some(i64::from(*status)), "{plan:?}");
        let Some(answer) = &outcome.answer else { continue };
        let failed = *status >= 400 || answer.text.contains("data: {\"error\":");
        assert_eq!(failed, journey.ending() != "departed", "{plan:?} {answer:?} {journey:#?}");
        assert!(!journey.ending().starts_with("client_disconnect"), "{plan:?}");
    }
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thousands_of_mixed_endings_keep_every_rule() {
    let soak = number_from("WAYFARE_SOAK_MINUTES").map(|minutes| Duration::from_secs(60 * minutes));
    // A soak looks for what nobody has seen yet; a short run is the same every time.
    let usual_seed = || if soak.is_some() { rand::random() } else { CI_SEED };
    let seed = number_from("WAYFARE_SEED").unwrap_or_else(usual_seed);
    say_nothing_of_wanted_panics();
    // Shown when the test fails.
    println!("WAYFARE_SEED={seed}");
    let started = SystemClock.now();
    let elapsed = || Duration::from_nanos(SystemClock.now().since(started));
    let mut endings: BTreeMap<String, u64> = BTreeMap::new();
    let (mut rounds, mut preemptions, mut memory_at_start) = (0, 0, (0, 0));
    while rounds < CI_ROUNDS || soak.is_some_and(|time| elapsed() < time) {
        for journey in round(seed, rounds).await {
            let reason = journey.finish_reason().map(|reason| format!(" {reason}"));
            let departed = journey.ending() == "departed";
            let kind =
                if departed { format!("departed{}", reason.unwrap_or_default()) } else { journey.ending() };
            *endings.entry(kind).or_default() += 1;
            preemptions += journey.core_events().iter().filter(|name| **name == "PREEMPTED").count();
        }
        rounds += 1;
        if rounds == 3 {
            // Every kind of round has been there once; what grows from now on grows for ever.
            memory_at_start = (resident_bytes(), live_bytes());
        }
    }
    let requests = rounds * ROUND_REQUESTS;
    let recorded: u64 = endings.values().sum();
    println!(
        "{requests} requests in {:.1} s, {recorded} recorded, {preemptions} preemptions",
        elapsed().as_secs_f64()
    );
    for (ending, count) in &endings {
        println!("{count:>9}  {ending}");
    }
    let (resident, live) = (resident_bytes(), live_bytes());
    println!(
        "resident memory: {} MiB after 3 rounds, {} MiB at the end",
        memory_at_start.0 >> 20,
        resident >> 20
    );
    println!(
        "of it allocated: {} KiB after 3 rounds, {} KiB at the end",
        memory_at_start.1 >> 10,
        live >> 10
    );
    assert!(live < memory_at_start.1 + MOST_GROWTH_BYTES, "memory leaks");
    for expected in [
        "departed stop",
        "departed length",
        "client_disconnect: client_disconnect",
        "generation_error: generation_error",
        "validation_error: invalid_json",
        "exception: internal_error",
        "engine_dead: engine_dead",
        "shutdown: shutdown",
    ] {
        assert!(endings.contains_key(expected), "no request ended as {expected}: {endings:?}");
    }
    assert!(preemptions > 0);
}
