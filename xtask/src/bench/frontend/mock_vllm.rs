//! Over an engine core that speaks vLLM's protocol and computes nothing, next to the fronts that vLLM has itself.
//!
//! All fronts are up for the whole bench, each over an engine core of its own, and take turns within each round, so that
//! what else the machine does meets all of them. Requests, the model's text side and what the engine core answers are the
//! same for all. The engine cores are on the driver's core: what the front's process spends is the front's alone.

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::fronts::{Front, FrontKind, MODEL_NAME, Programs};
use super::{Options, enough, shown};
use crate::bench::driver::Report;
use crate::bench::results::{head, row};
use crate::bench::statistics::Spread;
use crate::bench::subject::{CHAT_PATH, Laboratory, Load, PROMPT};

/// Longer than the exporter waits before it sends a batch, several times: making and sending journeys is part of the CPU
/// time.
const SETTLE_MS: u64 = 600;
/// So long a paced step takes for each request in flight: a little more than a token costs where it is cheap.
const PACE_US: u32 = 40;
/// Both spans of a request.
const SPANS_PER_REQUEST: u64 = 2;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// Short answers at once: what a request costs.
    Short,
    /// Long answers at once: the engine core is always ahead, so several tokens may leave in one event.
    Long,
    /// Long answers at a pace: each token is an event where the front keeps up.
    Paced,
}

/// One kind of run.
#[derive(Clone, Copy, Debug, Serialize)]
struct Setting {
    kind: Kind,
    concurrency: u32,
    output_tokens: u32,
    /// Time of an engine step; 0 for none.
    step_us: u32,
}

impl Setting {
    fn all(concurrency: &[u32]) -> Vec<Self> {
        let of = |concurrency: u32| {
            let paced = concurrency * PACE_US;
            [(Kind::Short, 4, 0), (Kind::Long, 128, 0), (Kind::Paced, 128, paced)]
                .map(|(kind, output_tokens, step_us)| Self { kind, concurrency, output_tokens, step_us })
        };
        concurrency.iter().copied().flat_map(of).collect()
    }

    fn load(self, requests: u64, settle_ms: u64) -> Load {
        let Self { output_tokens, concurrency, .. } = self;
        Load { stream: true, output_tokens, concurrency, requests, settle_ms }
    }

    fn describe(self) -> String {
        let Self { output_tokens, concurrency, step_us, .. } = self;
        let pace = if step_us == 0 { "at once".to_owned() } else { format!("a token every {step_us} µs") };
        format!("{concurrency} in flight, {output_tokens} tokens {pace}")
    }
}

/// What one front did in one kind of run.
#[derive(Debug, Serialize)]
struct FrontOutcome {
    front: FrontKind,
    requests_per_second: Spread,
    tokens_per_second: Spread,
    /// In each round by that of vLLM's front in Rust.
    throughput_by_vllm_rs: Spread,
    events_per_answer: Spread,
    cpu_us_per_request: Spread,
    /// In each round by that of vLLM's front in Rust.
    cpu_by_vllm_rs: Spread,
    first_ms_p50: Spread,
    whole_ms_p99: Spread,
    server_load: Spread,
    runs: Vec<Report>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    setting: Setting,
    fronts: Vec<FrontOutcome>,
}

/// The outcomes of all kinds of run.
#[derive(Debug, Serialize)]
pub(super) struct MockVllm {
    prompt_tokens: u64,
    outcomes: Vec<Outcome>,
}

/// Runs all kinds, so many rounds of them.
///
/// # Errors
/// When a front does not start, a request fails, or a journey was lost.
pub(super) fn measure(
    laboratory: &mut Laboratory,
    programs: &Programs,
    options: &Options,
) -> Result<MockVllm> {
    let fronts = FrontKind::ALL.map(|kind| Front::start(kind, laboratory, programs));
    let mut fronts: Vec<Front> = fronts.into_iter().collect::<Result<_>>()?;
    let prompt_tokens = prompt_tokens(&fronts)?;
    let settings = Setting::all(&options.mock_concurrency);
    let mut runs: Vec<[Vec<Report>; FrontKind::ALL.len()]> =
        settings.iter().map(|_| Default::default()).collect();
    // The one that was asked for the prompt's length.
    let mut traced = 1;
    for round in 0..options.rounds {
        for (setting, runs) in settings.iter().zip(&mut runs) {
            // Each has every place in the order, so that what follows what makes no difference.
            for place in 0..fronts.len() {
                let index = (place + round as usize) % fronts.len();
                let front = &mut fronts[index];
                eprintln!(
                    "round {} of {}, {}: {}",
                    round + 1,
                    options.rounds,
                    setting.describe(),
                    front.kind.name()
                );
                front.pace(setting.step_us)?;
                let warm_up = setting.load(u64::from(setting.concurrency) * 2, 0);
                let warm = send(laboratory, front, &warm_up)?;
                let load = setting.load(enough(&warm, options.seconds, setting.concurrency), SETTLE_MS);
                let report = send(laboratory, front, &load)?;
                if front.kind == FrontKind::WayfareTraced {
                    traced += warm.requests + report.requests;
                }
                runs[index].push(report);
            }
        }
    }
    fronts.into_iter().try_for_each(Front::stop)?;
    let spans = laboratory.driver.sink_totals()?.spans;
    ensure!(spans == SPANS_PER_REQUEST * traced, "{spans} spans have come of {traced} requests");
    let outcomes = settings.into_iter().zip(runs).map(|(setting, runs)| outcome(setting, runs));
    Ok(MockVllm { prompt_tokens, outcomes: outcomes.collect() })
}

fn send(laboratory: &mut Laboratory, front: &Front, load: &Load) -> Result<Report> {
    // The driver shares its core with the engine core, so it must not wait by looking again and again.
    laboratory.send(&front.url, front.pid, load, &body(load), false).with_context(|| front.kind.name())
}

fn body(load: &Load) -> Value {
    let prompt = [PROMPT; 5].join(" ");
    load.body(Some(MODEL_NAME), &prompt)
}

/// How long the prompt is, as each front counts it.
fn prompt_tokens(fronts: &[Front]) -> Result<u64> {
    let load = Load { stream: false, output_tokens: 1, concurrency: 1, requests: 1, settle_ms: 0 };
    let ask = |front: &Front| -> Result<u64> {
        let answer = ureq::post(format!("{}{CHAT_PATH}", front.url)).send_json(body(&load));
        let answer: Value = answer.with_context(|| front.kind.name())?.body_mut().read_json()?;
        answer["usage"]["prompt_tokens"].as_u64().context("an answer without a count of tokens")
    };
    let counts = fronts.iter().map(ask).collect::<Result<Vec<_>>>()?;
    ensure!(
        counts.windows(2).all(|pair| pair[0] == pair[1]),
        "the fronts see different prompts: {counts:?} tokens"
    );
    counts.first().copied().context("there are fronts")
}

fn outcome(setting: Setting, runs: [Vec<Report>; FrontKind::ALL.len()]) -> Outcome {
    let of = |kind| FrontKind::ALL.iter().position(|one| *one == kind).unwrap_or_default();
    let vllm_rs = runs[of(FrontKind::VllmRs)].clone();
    let fronts = FrontKind::ALL.into_iter().zip(runs).map(|(front, runs)| {
        let over = |of: &dyn Fn(&Report) -> f64| Spread::of(runs.iter().map(of));
        let by_vllm_rs = |of: &dyn Fn(&Report) -> f64| {
            Spread::of(runs.iter().zip(&vllm_rs).map(|(run, rs)| of(run) / of(rs)))
        };
        let tokens = f64::from(setting.output_tokens);
        FrontOutcome {
            front,
            requests_per_second: over(&Report::requests_per_second),
            tokens_per_second: over(&|run| run.requests_per_second() * tokens),
            throughput_by_vllm_rs: by_vllm_rs(&Report::requests_per_second),
            events_per_answer: over(&|run| run.events as f64 / run.requests as f64),
            cpu_us_per_request: over(&Report::server_cpu_us),
            cpu_by_vllm_rs: by_vllm_rs(&Report::server_cpu_us),
            first_ms_p50: over(&|run| run.first_ms.p50),
            whole_ms_p99: over(&|run| run.whole_ms.p99),
            server_load: over(&Report::server_load),
            runs,
        }
    });
    Outcome { setting, fronts: fronts.collect() }
}

/// The section of the page.
pub(super) fn section(results: &MockVllm) -> String {
    let mut page = format!(
        "## Over vLLM's protocol, next to vLLM's own fronts\n\nStreamed chat requests with a prompt of {} tokens to four \
         fronts, each over a mock of vLLM's engine core that answers at once or at a pace. Driver and engine cores share \
         the other core and sleep when they have nothing to do; where the load is below 1, they or the pace were the \
         limit, and CPU time is what compares. Traced journeys go to an OTLP receiver in the driver's process, and all \
         of them have arrived.\n",
        results.prompt_tokens
    );
    for Outcome { setting, fronts } in &results.outcomes {
        page += &format!("\n### {}\n\n", setting.describe());
        page += &head(&[
            "front",
            "requests/s",
            "tokens/s",
            "by vLLM's Rust",
            "CPU µs per request",
            "by vLLM's Rust",
            "events per answer",
            "first p50 ms",
            "whole p99 ms",
            "load",
        ]);
        for outcome in fronts {
            page += &row([
                outcome.front.name().to_owned(),
                shown(&outcome.requests_per_second, 0),
                format!("{:.0}", outcome.tokens_per_second.median),
                format!("{:.2}", outcome.throughput_by_vllm_rs.median),
                shown(&outcome.cpu_us_per_request, 0),
                format!("{:.2}", outcome.cpu_by_vllm_rs.median),
                format!("{:.1}", outcome.events_per_answer.median),
                format!("{:.2}", outcome.first_ms_p50.median),
                format!("{:.2}", outcome.whole_ms_p99.median),
                format!("{:.2}", outcome.server_load.median),
            ]);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn each_front_is_compared_with_vllms_own_in_the_same_round() {
        let setting = Setting { kind: Kind::Short, concurrency: 64, output_tokens: 4, step_us: 0 };
        let of = |seconds: [f64; 3]| seconds.map(|seconds| report(1000, seconds, 0.1)).to_vec();
        // A machine that was slow in the second round.
        let runs = [of([1.0, 2.0, 1.0]), of([1.0; 3]), of([2.0, 4.0, 2.0]), of([10.0; 3])];
        let outcome = outcome(setting, runs);
        let traced = &outcome.fronts[0];
        assert_eq!(traced.throughput_by_vllm_rs, Spread { median: 2.0, min: 2.0, max: 2.0 });
        assert_eq!((traced.requests_per_second.median, traced.tokens_per_second.median), (1000.0, 4000.0));
        assert_eq!((traced.cpu_us_per_request.median, traced.events_per_answer.median), (100.0, 18.0));
        assert_eq!(outcome.fronts[2].throughput_by_vllm_rs.median, 1.0);
        assert_eq!(outcome.fronts[3].cpu_by_vllm_rs.median, 1.0);
    }
}
