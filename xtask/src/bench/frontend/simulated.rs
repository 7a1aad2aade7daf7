//! Over the simulated engine, in the server's process.
//!
//! Two kinds of run. With steps of no time the engine makes tokens faster than they can be written, so several
//! leave in one event: that is the throughput. With paced steps every token is an event and a write of its own,
//! as with a real model that the server keeps up with: that is the cost of a streamed token at its highest.

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{Options, enough, shown};
use crate::bench::driver::Report;
use crate::bench::results::{head, row};
use crate::bench::statistics::{Line, Spread};
use crate::bench::subject::{Laboratory, Load, PROMPT_TOKENS, simulated};

/// Lengths of the answers, in tokens. Two, so that what a request costs can be told from what its tokens do.
const OUTPUT_TOKENS: [u32; 2] = [16, 256];
/// Paced steps leave this much time for each request in flight, several times what its token costs.
const PACE_US: u32 = 30;
/// Shorter sleeps are not exact.
const SHORTEST_STEP_US: u32 = 500;

/// One kind of run.
#[derive(Clone, Copy, Debug, Serialize)]
struct Setting {
    concurrency: u32,
    /// Time of an engine step; 0 for none.
    step_us: u32,
}

/// What one kind of run gave.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    setting: Setting,
    /// By length of the answer.
    lengths: Vec<LengthOutcome>,
    /// CPU time of the server for each streamed token.
    cpu_us_per_token: Spread,
    /// CPU time of the server for each request, beyond its tokens.
    cpu_us_per_request: Spread,
}

#[derive(Debug, Serialize)]
struct LengthOutcome {
    output_tokens: u32,
    requests_per_second: Spread,
    tokens_per_second: Spread,
    events_per_token: Spread,
    first_ms_p50: Spread,
    whole_ms_p99: Spread,
    server_load: Spread,
    runs: Vec<Report>,
}

/// The outcomes of all kinds of run.
#[derive(Debug, Serialize)]
pub(super) struct Simulated {
    prompt_tokens: usize,
    /// The driver, while it waits.
    driver: &'static str,
    outcomes: Vec<Outcome>,
}

/// Runs all kinds, so many rounds of them.
///
/// # Errors
/// When a server does not start or a request fails.
pub(super) fn measure(laboratory: &mut Laboratory, options: &Options) -> Result<Simulated> {
    let settings = settings(&options.concurrency);
    // All kinds of run in each round, so that what else the machine does meets all of them.
    let mut runs: Vec<[Vec<Report>; OUTPUT_TOKENS.len()]> =
        settings.iter().map(|_| Default::default()).collect();
    for round in 1..=options.rounds {
        for (setting, runs) in settings.iter().zip(&mut runs) {
            eprintln!("round {round} of {}: {}", options.rounds, describe(*setting));
            let mut server = laboratory.serve(&simulated(setting.step_us, setting.concurrency))?;
            for (output_tokens, runs) in OUTPUT_TOKENS.into_iter().zip(runs) {
                let mut load = load(setting.concurrency, output_tokens);
                let warm = laboratory.measure(&server, &load.warm_up())?;
                load.requests = enough(&warm, options.seconds, setting.concurrency);
                runs.push(laboratory.measure(&server, &load)?);
            }
            server.stop()?;
        }
    }
    let outcomes = settings.into_iter().zip(runs).map(|(setting, runs)| outcome(setting, runs));
    Ok(Simulated {
        prompt_tokens: PROMPT_TOKENS,
        driver: laboratory.cores.describe_waiting(),
        outcomes: outcomes.collect::<Result<_>>()?,
    })
}

fn settings(concurrency: &[u32]) -> Vec<Setting> {
    let pace = |concurrency: u32| (concurrency * PACE_US).max(SHORTEST_STEP_US);
    let of = |concurrency: u32| [0, pace(concurrency)].map(|step_us| Setting { concurrency, step_us });
    concurrency.iter().copied().flat_map(of).collect()
}

fn load(concurrency: u32, output_tokens: u32) -> Load {
    Load { stream: true, output_tokens, concurrency, requests: u64::from(concurrency) * 8, settle_ms: 0 }
}

fn outcome(setting: Setting, runs: [Vec<Report>; OUTPUT_TOKENS.len()]) -> Result<Outcome> {
    let rounds = runs.iter().map(Vec::len).min().unwrap_or_default();
    let lines = (0..rounds).map(|round| {
        let points = OUTPUT_TOKENS
            .iter()
            .zip(&runs)
            .map(|(tokens, runs)| (f64::from(*tokens), runs[round].server_cpu_us()));
        Line::through(&points.collect::<Vec<_>>()).context("two lengths make a line")
    });
    let lines = lines.collect::<Result<Vec<_>>>()?;
    let lengths = OUTPUT_TOKENS.into_iter().zip(runs);
    Ok(Outcome {
        setting,
        cpu_us_per_token: Spread::of(lines.iter().map(|line| line.slope)),
        cpu_us_per_request: Spread::of(lines.iter().map(|line| line.intercept)),
        lengths: lengths.map(|(output_tokens, runs)| length_outcome(output_tokens, runs)).collect(),
    })
}

fn length_outcome(output_tokens: u32, runs: Vec<Report>) -> LengthOutcome {
    let tokens = |run: &Report| run.requests as f64 * f64::from(output_tokens);
    // Beside its tokens an answer has three events: the role, the end, and `[DONE]`.
    let token_events = |run: &Report| run.events.saturating_sub(2 * run.requests) as f64;
    let over = |of: &dyn Fn(&Report) -> f64| Spread::of(runs.iter().map(of));
    LengthOutcome {
        output_tokens,
        requests_per_second: over(&Report::requests_per_second),
        tokens_per_second: over(&|run| tokens(run) / run.seconds),
        events_per_token: over(&|run| token_events(run) / tokens(run)),
        first_ms_p50: over(&|run| run.first_ms.p50),
        whole_ms_p99: over(&|run| run.whole_ms.p99),
        server_load: over(&Report::server_load),
        runs,
    }
}

fn describe(setting: Setting) -> String {
    let Setting { concurrency, step_us } = setting;
    match step_us {
        0 => format!("{concurrency} in flight, steps of no time"),
        step_us => format!("{concurrency} in flight, a step every {step_us} µs"),
    }
}

/// The section of the page.
pub(super) fn section(results: &Simulated) -> String {
    let mut page = format!(
        "## Over the simulated engine\n\nStreamed chat requests with a prompt of {} tokens and two lengths of answer. The \
         engine is in the server's process. What a token costs, and a request beyond its tokens, is the line through \
         answers of {} and of {} tokens. With steps of no time several tokens leave in one event; with paced steps each \
         is an event and a write of its own. The driver {}; one that does not need not be woken by the server's kernel, as \
         a distant client need not.\n\n",
        results.prompt_tokens, OUTPUT_TOKENS[0], OUTPUT_TOKENS[1], results.driver,
    );
    page += &head(&["run", "CPU µs per token", "CPU µs per request beyond"]);
    for outcome in &results.outcomes {
        let Outcome { setting, cpu_us_per_token, cpu_us_per_request, .. } = outcome;
        page += &row([describe(*setting), shown(cpu_us_per_token, 2), shown(cpu_us_per_request, 1)]);
    }
    page += "\n";
    page += &head(&[
        "run",
        "tokens",
        "requests/s",
        "tokens/s",
        "events per token",
        "first p50 ms",
        "whole p99 ms",
        "server load",
    ]);
    for outcome in &results.outcomes {
        for length in &outcome.lengths {
            page += &row([
                describe(outcome.setting),
                length.output_tokens.to_string(),
                shown(&length.requests_per_second, 0),
                shown(&length.tokens_per_second, 0),
                format!("{:.2}", length.events_per_token.median),
                format!("{:.2}", length.first_ms_p50.median),
                format!("{:.2}", length.whole_ms_p99.median),
                format!("{:.2}", length.server_load.median),
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
    fn tokens_and_requests_are_told_apart() {
        // 80 µs a request and 5 µs a token.
        let runs = [vec![report(1000, 1.0, 0.160)], vec![report(100, 1.0, 0.136)]];
        let outcome = outcome(Setting { concurrency: 64, step_us: 0 }, runs).unwrap();
        assert!((outcome.cpu_us_per_token.median - 5.0).abs() < 1e-9, "{outcome:?}");
        assert!((outcome.cpu_us_per_request.median - 80.0).abs() < 1e-9, "{outcome:?}");
        assert_eq!(outcome.lengths[0].events_per_token.median, 1.0);
        assert_eq!(outcome.lengths[0].tokens_per_second.median, 16_000.0);
    }
}
