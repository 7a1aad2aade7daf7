//! What the runs of one load come to.

use serde::{Deserialize, Serialize};

use super::contenders::Contender;
use super::loads::{Load, LoadName};
use crate::bench::statistics::Spread;

/// What one run gave. The fields are those of `GenerationReport` in the testkit, which says what they mean.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) events: u64,
    pub(crate) ttft_ms: Distribution,
    pub(crate) tpot_ms: Distribution,
    pub(crate) itl_ms: Distribution,
    pub(crate) driver_cpu_seconds: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Distribution {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Report {
    fn output_tokens_per_second(&self) -> f64 {
        self.output_tokens as f64 / self.seconds
    }
}

/// A contender's runs of a load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) contender: Contender,
    pub(crate) output_tokens_per_second: Spread,
    pub(crate) total_tokens_per_second: Spread,
    pub(crate) requests_per_second: Spread,
    pub(crate) ttft_ms_mean: Spread,
    pub(crate) ttft_ms_p50: Spread,
    pub(crate) ttft_ms_p99: Spread,
    pub(crate) tpot_ms_p50: Spread,
    pub(crate) tpot_ms_p99: Spread,
    pub(crate) itl_ms_p50: Spread,
    pub(crate) itl_ms_p99: Spread,
    /// Of the prompts' tokens, as the server counts them.
    pub(crate) cached_share: Spread,
    pub(crate) tokens_per_event: Spread,
    /// The driver's CPU time as a share of what all cores had.
    pub(crate) driver_share: Spread,
    /// One for each round.
    pub(crate) runs: Vec<Report>,
}

impl Row {
    pub(crate) fn of(contender: Contender, runs: Vec<Report>, cores: usize) -> Self {
        let over = |of: &dyn Fn(&Report) -> f64| Spread::of(runs.iter().map(of));
        Self {
            contender,
            output_tokens_per_second: over(&Report::output_tokens_per_second),
            total_tokens_per_second: over(&|run| {
                (run.prompt_tokens + run.output_tokens) as f64 / run.seconds
            }),
            requests_per_second: over(&|run| run.requests as f64 / run.seconds),
            ttft_ms_mean: over(&|run| run.ttft_ms.mean),
            ttft_ms_p50: over(&|run| run.ttft_ms.p50),
            ttft_ms_p99: over(&|run| run.ttft_ms.p99),
            tpot_ms_p50: over(&|run| run.tpot_ms.p50),
            tpot_ms_p99: over(&|run| run.tpot_ms.p99),
            itl_ms_p50: over(&|run| run.itl_ms.p50),
            itl_ms_p99: over(&|run| run.itl_ms.p99),
            cached_share: over(&|run| run.cached_tokens as f64 / run.prompt_tokens as f64),
            tokens_per_event: over(&|run| run.output_tokens as f64 / run.events as f64),
            driver_share: over(&|run| run.driver_cpu_seconds / (run.seconds * cores as f64)),
            runs,
        }
    }
}

/// How many times better wayfare is than the best of some peers, which may be another in each round. Above 1 it is
/// better.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Comparison {
    pub(crate) peers: Vec<Contender>,
    /// Its output tokens/s by the most of a peer.
    pub(crate) output_tokens_per_second: Spread,
    /// The shortest mean TTFT of a peer by its own.
    pub(crate) ttft_ms_mean: Spread,
    /// The shortest median TPOT of a peer by its own.
    pub(crate) tpot_ms_p50: Spread,
}

impl Comparison {
    /// With those peers of which `is_peer` says so; `None` when there is nothing to compare.
    pub(crate) fn with(rows: &[Row], is_peer: impl Fn(Contender) -> bool) -> Option<Self> {
        let own = rows.iter().find(|row| row.contender == Contender::Wayfare)?;
        let peers: Vec<&Row> =
            rows.iter().filter(|row| row.contender != Contender::Wayfare && is_peer(row.contender)).collect();
        if peers.is_empty() {
            return None;
        }
        let by_round = |better: &dyn Fn(&Report, &Report) -> f64| {
            // The best peer is the one that leaves the smallest ratio.
            let smallest = |(round, run): (usize, &Report)| {
                let ratios = peers.iter().filter_map(|peer| Some(better(run, peer.runs.get(round)?)));
                ratios.fold(f64::INFINITY, f64::min)
            };
            Spread::of(own.runs.iter().enumerate().map(smallest))
        };
        Some(Self {
            peers: peers.iter().map(|row| row.contender).collect(),
            output_tokens_per_second: by_round(&|own, peer| {
                own.output_tokens_per_second() / peer.output_tokens_per_second()
            }),
            ttft_ms_mean: by_round(&|own, peer| peer.ttft_ms.mean / own.ttft_ms.mean),
            tpot_ms_p50: by_round(&|own, peer| peer.tpot_ms.p50 / own.tpot_ms.p50),
        })
    }
}

/// A load and what came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) name: LoadName,
    pub(crate) load: Load,
    pub(crate) rows: Vec<Row>,
    /// With the peers as they come, which have prefix caches of their own.
    pub(crate) against_peers: Option<Comparison>,
    /// With the peers that compute every prompt from its beginning.
    pub(crate) against_uncached: Option<Comparison>,
}

impl Table {
    pub(crate) fn of(name: LoadName, load: Load, rows: Vec<Row>) -> Self {
        let against_peers = Comparison::with(&rows, |peer| !peer.is_uncached());
        let against_uncached = Comparison::with(&rows, Contender::is_uncached);
        Self { name, load, rows, against_peers, against_uncached }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run of ten requests of 100 tokens in and 50 out.
    pub(crate) fn report(seconds: f64, ttft_ms: f64, tpot_ms: f64) -> Report {
        let all = |value: f64| Distribution { mean: value, p50: value, p99: value };
        Report {
            requests: 10,
            seconds,
            prompt_tokens: 1_000,
            cached_tokens: 250,
            output_tokens: 500,
            events: 400,
            ttft_ms: all(ttft_ms),
            tpot_ms: all(tpot_ms),
            itl_ms: all(tpot_ms),
            driver_cpu_seconds: 0.1,
        }
    }

    #[test]
    fn a_row_holds_the_medians_of_its_rounds() {
        let runs = vec![report(5.0, 30.0, 3.0), report(10.0, 10.0, 1.0), report(20.0, 20.0, 2.0)];
        let row = Row::of(Contender::Wayfare, runs, 2);
        assert_eq!(row.output_tokens_per_second, Spread { median: 50.0, min: 25.0, max: 100.0 });
        assert_eq!(row.total_tokens_per_second.median, 150.0);
        assert_eq!(row.requests_per_second.median, 1.0);
        assert_eq!((row.ttft_ms_mean.median, row.tpot_ms_p50.median), (20.0, 2.0));
        assert_eq!((row.cached_share.median, row.tokens_per_event.median), (0.25, 1.25));
        assert_eq!(row.driver_share.median, 0.005);
    }

    #[test]
    fn each_round_is_compared_with_its_best_peer() {
        let rows = [
            Row::of(Contender::Wayfare, vec![report(5.0, 10.0, 2.0), report(5.0, 10.0, 2.0)], 2),
            Row::of(Contender::Vllm, vec![report(10.0, 40.0, 1.0), report(20.0, 40.0, 4.0)], 2),
            Row::of(Contender::LlamaCpp, vec![report(15.0, 20.0, 8.0), report(15.0, 50.0, 8.0)], 2),
            Row::of(Contender::VllmUncached, vec![report(1.0, 1.0, 1.0); 2], 2),
        ];
        let comparison = Comparison::with(&rows, |peer| !peer.is_uncached()).unwrap();
        assert_eq!(comparison.peers, [Contender::Vllm, Contender::LlamaCpp]);
        // Twice vLLM, which is the better one of the first round, and three times llama.cpp in the second.
        assert_eq!(comparison.output_tokens_per_second, Spread { median: 2.5, min: 2.0, max: 3.0 });
        assert_eq!(comparison.ttft_ms_mean, Spread { median: 3.0, min: 2.0, max: 4.0 });
        assert_eq!(comparison.tpot_ms_p50, Spread { median: 1.25, min: 0.5, max: 2.0 });
        let uncached = Comparison::with(&rows, Contender::is_uncached).unwrap();
        assert_eq!(uncached.output_tokens_per_second.median, 0.2);
        assert_eq!(Comparison::with(&rows[..1], |_| true), None);
        assert_eq!(Comparison::with(&rows[1..], |_| true), None);
    }
}
