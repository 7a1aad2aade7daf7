//! The summary of a replay, for people and as JSON. Times are in seconds.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use wayfare_scheduler::SchedulerConfig;

use super::distribution::Percentiles;

/// Everything that is printed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) setting: Setting,
    /// From the first arrival to the last token.
    pub(super) duration_s: f64,
    pub(super) requests: Requests,
    pub(super) throughput: Throughput,
    pub(super) latency_s: Latencies,
    pub(super) tokens: Tokens,
    pub(super) engine: Engine,
    pub(super) load: Load,
    /// Where the time of the requests that were served went, all of them together: the ledger. Only what is not zero.
    pub(super) spent: Vec<Spent>,
}

/// A bucket of the ledger.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Spent {
    pub(super) bucket: String,
    pub(super) seconds: f64,
    /// Of the time of all requests that were served.
    pub(super) fraction: f64,
}

/// What was replayed on what.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Setting {
    trace: String,
    rate_scale: f64,
    profile: String,
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    max_model_len: u32,
    block_size: u32,
    num_kv_blocks: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Requests {
    pub(super) served: u64,
    pub(super) refused_too_long: u64,
    pub(super) refused_queue_full: u64,
    pub(super) preempted: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Throughput {
    pub(super) requests_per_s: f64,
    pub(super) prompt_tokens_per_s: f64,
    pub(super) output_tokens_per_s: f64,
}

/// Of the requests that were served; `None` where there is no value.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latencies {
    /// From arrival to first token.
    pub(super) time_to_first_token: Option<Percentiles>,
    /// From first to last token, by their number: one value per request.
    pub(super) time_per_output_token: Option<Percentiles>,
    /// From token to token: one value per token, to within a part in two thousand.
    pub(super) inter_token_latency: Option<Percentiles>,
    /// From arrival to being scheduled for the first time.
    pub(super) queue: Option<Percentiles>,
    /// From arrival to last token.
    pub(super) end_to_end: Option<Percentiles>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Tokens {
    pub(super) prompt: u64,
    pub(super) output: u64,
    /// Computed again after a preemption.
    pub(super) recomputed: u64,
    pub(super) prefix_cache_queries: u64,
    pub(super) prefix_cache_hits: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Engine {
    pub(super) steps: u64,
    pub(super) preemptions: u64,
}

/// Means are over the time in which there was a step.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Load {
    /// Share of the duration in which there was a step.
    pub(super) busy_fraction: f64,
    pub(super) running_mean: f64,
    pub(super) running_max: u64,
    pub(super) waiting_max: u64,
    /// Share of the KV blocks in use.
    pub(super) kv_usage_mean: f64,
    pub(super) kv_usage_max: f64,
}

impl Setting {
    pub(super) fn new(profile: &str, trace: &Path, rate_scale: f64, config: &SchedulerConfig) -> Self {
        Self {
            trace: trace.display().to_string(),
            rate_scale,
            profile: profile.to_owned(),
            max_num_seqs: config.max_num_seqs,
            max_num_batched_tokens: config.max_num_batched_tokens,
            max_model_len: config.max_model_len,
            block_size: config.block_size,
            num_kv_blocks: config.num_kv_blocks,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, duration_s, requests, throughput, latency_s, tokens, engine, load, spent } = self;
        let arrived = requests.served + requests.refused_too_long + requests.refused_queue_full;
        writeln!(f, "{setting}\n")?;
        writeln!(
            f,
            "requests    {arrived} arrived, {} served, {} refused as too long, {} refused by a full queue",
            requests.served, requests.refused_too_long, requests.refused_queue_full
        )?;
        writeln!(
            f,
            "throughput  {:.2} requests/s, {:.0} prompt tokens/s, {:.0} output tokens/s, over {duration_s:.1} s\n",
            throughput.requests_per_s, throughput.prompt_tokens_per_s, throughput.output_tokens_per_s
        )?;
        writeln!(f, "{latency_s}")?;
        writeln!(
            f,
            "engine      {} steps, busy {:.1}% of the time, {:.1} running on average, {} at most, {} waiting at most",
            engine.steps,
            load.busy_fraction * 100.0,
            load.running_mean,
            load.running_max,
            load.waiting_max
        )?;
        writeln!(
            f,
            "KV cache    {:.1}% used on average, {:.1}% at most",
            load.kv_usage_mean * 100.0,
            load.kv_usage_max * 100.0
        )?;
        writeln!(
            f,
            "preemption  {} preemptions of {} requests, {} tokens computed again",
            engine.preemptions, requests.preempted, tokens.recomputed
        )?;
        write!(
            f,
            "prefixes    {} of {} prompt tokens found in the cache",
            tokens.prefix_cache_hits, tokens.prefix_cache_queries
        )?;
        for (index, Spent { bucket, seconds, fraction }) in spent.iter().enumerate() {
            let title = if index == 0 { "\n\ntime spent  " } else { "\n            " };
            write!(f, "{title}{bucket:<21} {seconds:>12.3} s {:>5.1}%", fraction * 100.0)?;
        }
        Ok(())
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.trace)?;
        if self.rate_scale != 1.0 {
            write!(f, ", {} times as fast,", self.rate_scale)?;
        }
        write!(
            f,
            " on {}: {} sequences and {} tokens a step, {} KV blocks of {} tokens, {} tokens a sequence",
            self.profile,
            self.max_num_seqs,
            self.max_num_batched_tokens,
            self.num_kv_blocks,
            self.block_size,
            self.max_model_len
        )
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "ms", "mean", "p50", "p90", "p95", "p99", "max"
        )?;
        let rows = [
            ("TTFT", self.time_to_first_token),
            ("TPOT", self.time_per_output_token),
            ("ITL", self.inter_token_latency),
            ("queue", self.queue),
            ("end to end", self.end_to_end),
        ];
        for (name, percentiles) in rows {
            let Some(Percentiles { mean, p50, p90, p95, p99, max }) = percentiles else {
                writeln!(f, "{name:<10} {:>10}", "–")?;
                continue;
            };
            write!(f, "{name:<10}")?;
            for seconds in [mean, p50, p90, p95, p99, max] {
                write!(f, " {:>10.2}", seconds * 1e3)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
