//! Taking the measure of a replay.
//!
//! HOT PATH: runs per step and per token. What grows is one number per request and measure.

use wayfare_engine::{EngineStats, Finish};
use wayfare_engine_local::{Refusal, Served, StepReport, VirtualClock};
use wayfare_journey::{MonoNs, WaitReason};

use super::distribution::{Counts, Values};
use super::report::{Engine, Latencies, Load, Report, Requests, Setting, Spent, Throughput, Tokens};

/// What has been seen so far.
#[derive(Debug, Default)]
pub(super) struct Summary {
    served: u64,
    refused_too_long: u64,
    refused_queue_full: u64,
    prompt_tokens: u64,
    output_tokens: u64,
    preempted_requests: u64,
    first_arrival: Option<MonoNs>,
    last_end: Option<MonoNs>,
    to_first_token: Values,
    per_output_token: Values,
    between_tokens: Counts,
    queued: Values,
    end_to_end: Values,
    load: LoadOverTime,
    spent: SpentTime,
}

/// Where the time of the requests that were served went, in nanoseconds of all of them together.
#[derive(Debug, Default)]
struct SpentTime {
    admit: u128,
    waits: [u128; WaitReason::COUNT],
    prefill: u128,
    prefill_wait: u128,
    decode: u128,
    interference: u128,
    preempted: u128,
    recompute: u128,
}

/// The engine's state, weighed by how long it lasted.
#[derive(Debug, Default)]
struct LoadOverTime {
    step_ns: u128,
    running: u128,
    blocks: u128,
    most_running: u64,
    most_waiting: u64,
    most_blocks: u64,
}

impl Summary {
    pub(super) fn refused(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::TooLong { .. } => self.refused_too_long += 1,
            Refusal::QueueFull { .. } => self.refused_queue_full += 1,
        }
    }

    pub(super) fn token_gap(&mut self, gap_ns: u64) {
        self.between_tokens.add(gap_ns);
    }

    pub(super) fn served(&mut self, served: &Served<'_>) {
        let Served { arrived, ended, prompt_tokens, output_tokens, finish } = *served;
        self.served += 1;
        self.prompt_tokens += u64::from(prompt_tokens);
        self.output_tokens += u64::from(output_tokens);
        self.first_arrival = Some(self.first_arrival.map_or(arrived, |first| first.min(arrived)));
        self.last_end = self.last_end.max(Some(ended));
        self.end_to_end.add(ended.since(arrived));
        if let Some(scheduled) = finish.times.first_scheduled {
            self.queued.add(scheduled.since(arrived));
        }
        if let Some(first_token) = finish.times.first_token {
            self.to_first_token.add(first_token.since(arrived));
            if output_tokens > 1 {
                self.per_output_token.add(ended.since(first_token) / u64::from(output_tokens - 1));
            }
        }
        self.account(arrived, finish);
    }

    pub(super) fn step(&mut self, report: &StepReport) {
        let StepReport { started, ended, stats } = report;
        let load = &mut self.load;
        let step_ns = u128::from(ended.since(*started));
        load.step_ns += step_ns;
        load.running += step_ns * u128::from(stats.running);
        load.blocks += step_ns * u128::from(stats.kv_blocks_used);
        load.most_running = load.most_running.max(stats.running);
        load.most_waiting = load.most_waiting.max(stats.waiting);
        load.most_blocks = load.most_blocks.max(stats.kv_blocks_used);
    }

    /// Adds the scheduler's account of one request. The one place where totals over such accounts are made.
    fn account(&mut self, arrived: MonoNs, finish: &Finish) {
        self.preempted_requests += u64::from(finish.num_preemptions > 0);
        let (ledger, spent) = (&finish.ledger, &mut self.spent);
        spent.admit += u128::from(finish.times.queued.since(arrived));
        for (reason, ns) in ledger.queue.iter() {
            spent.waits[reason as usize] += u128::from(ns);
        }
        for (total, ns) in [
            (&mut spent.prefill, ledger.prefill_ns),
            (&mut spent.prefill_wait, ledger.prefill_wait_ns),
            (&mut spent.decode, ledger.decode_ns),
            (&mut spent.interference, ledger.interference_ns),
            (&mut spent.preempted, ledger.preempted_ns),
            (&mut spent.recompute, ledger.recompute_ns),
        ] {
            *total += u128::from(ns);
        }
    }

    /// The figures, with those that the engine has counted itself.
    pub(super) fn report(self, setting: Setting, totals: &EngineStats) -> Report {
        let begin = self.first_arrival.unwrap_or(VirtualClock::START);
        let duration_s = self.last_end.unwrap_or(begin).seconds_since(begin);
        let per_second = |count: u64| if duration_s > 0.0 { count as f64 / duration_s } else { 0.0 };
        Report {
            setting,
            duration_s,
            requests: Requests {
                served: self.served,
                refused_too_long: self.refused_too_long,
                refused_queue_full: self.refused_queue_full,
                preempted: self.preempted_requests,
            },
            throughput: Throughput {
                requests_per_s: per_second(self.served),
                prompt_tokens_per_s: per_second(self.prompt_tokens),
                output_tokens_per_s: per_second(self.output_tokens),
            },
            latency_s: Latencies {
                time_to_first_token: self.to_first_token.percentiles(),
                time_per_output_token: self.per_output_token.percentiles(),
                inter_token_latency: self.between_tokens.percentiles(),
                queue: self.queued.percentiles(),
                end_to_end: self.end_to_end.percentiles(),
            },
            tokens: Tokens {
                prompt: self.prompt_tokens,
                output: self.output_tokens,
                recomputed: totals.recomputed_tokens,
                prefix_cache_queries: totals.prefix_cache_queries,
                prefix_cache_hits: totals.prefix_cache_hits,
            },
            engine: Engine { steps: totals.steps, preemptions: totals.preemptions },
            load: self.load.report(totals.kv_blocks_total, duration_s),
            spent: self.spent.report(),
        }
    }
}

impl SpentTime {
    fn report(&self) -> Vec<Spent> {
        let waits = WaitReason::ALL
            .into_iter()
            .map(|reason| (format!("queue: {}", reason.as_str()), self.waits[reason as usize]));
        let others = [
            ("prefill", self.prefill),
            ("prefill_wait", self.prefill_wait),
            ("decode", self.decode),
            ("interference", self.interference),
            ("preempted", self.preempted),
            ("recompute", self.recompute),
        ];
        let others = others.map(|(name, ns)| (name.to_owned(), ns));
        let all: Vec<(String, u128)> =
            [("admit".to_owned(), self.admit)].into_iter().chain(waits).chain(others).collect();
        let whole: u128 = all.iter().map(|(_, ns)| ns).sum();
        let spent = all.into_iter().filter(|(_, ns)| *ns > 0);
        spent
            .map(|(bucket, ns)| Spent {
                bucket,
                seconds: ns as f64 / 1e9,
                fraction: ns as f64 / whole as f64,
            })
            .collect()
    }
}

impl LoadOverTime {
    fn report(&self, blocks: u64, duration_s: f64) -> Load {
        let mean = |weighed: u128| if self.step_ns > 0 { weighed as f64 / self.step_ns as f64 } else { 0.0 };
        let blocks = blocks.max(1) as f64;
        let busy = self.step_ns as f64 / 1e9;
        Load {
            busy_fraction: if duration_s > 0.0 { (busy / duration_s).min(1.0) } else { 0.0 },
            running_mean: mean(self.running),
            running_max: self.most_running,
            waiting_max: self.most_waiting,
            kv_usage_mean: mean(self.blocks) / blocks,
            kv_usage_max: self.most_blocks as f64 / blocks,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::path::Path;
    use std::time::Duration;

    use wayfare_engine_local::{
        Arrival, LinearStepTime, QueueLimits, Replay, ReplayObserver, ReplayOptions, StepTimeModel, StepTimer,
    };
    use wayfare_scheduler::SchedulerConfig;

    use super::*;
    use crate::simulate::Observer;
    use crate::simulate::distribution::Percentiles;

    const CONFIG: SchedulerConfig = SchedulerConfig::with_sizes(4, 64, 256, 4, 101);

    /// 10 ms a step and 1 ms a token.
    fn replay(arrivals: &[(u64, u32, u32)]) -> Report {
        let model = StepTimeModel::Linear(LinearStepTime {
            base_us: 10_000.0,
            per_prefill_token_us: 1_000.0,
            per_decode_token_us: 1_000.0,
            per_kv_token_us: 0.0,
        });
        let options = ReplayOptions {
            config: CONFIG,
            queue_limits: QueueLimits::default(),
            timer: StepTimer::new(model, 0.0, 0),
            clock: VirtualClock::new(),
            tracer: None,
            model_name: "test".to_owned(),
        };
        let arrivals = arrivals.iter().map(|&(at_ms, prompt_tokens, output_tokens)| {
            let at = Duration::from_millis(at_ms);
            Ok::<_, Infallible>(Arrival { at, prompt_tokens, output_tokens, prefix: None, priority: 0 })
        });
        let mut observer = Observer { summary: Summary::default(), export: None };
        let totals = Replay::new(options).unwrap().run(arrivals, &mut observer).unwrap();
        observer.summary.report(Setting::new("test", Path::new("x.csv"), 1.0, &CONFIG), &totals)
    }

    fn two(mean: f64, first: f64, second: f64) -> Option<Percentiles> {
        let p99 = second;
        Some(Percentiles { mean, p50: first, p90: p99, p95: p99, p99, max: second })
    }

    /// Steps: 0 to 30 ms with the first prompt (20 tokens); to 49 ms with a decode and the second prompt (8
    /// tokens), which arrived at 5 ms; to 61 ms with two decodes, the last of both.
    #[test]
    fn figures_computed_by_hand() {
        let report = replay(&[(0, 20, 3), (5, 8, 2), (6, 300, 1)]);
        let requests = Requests { served: 2, refused_too_long: 1, refused_queue_full: 0, preempted: 0 };
        assert_eq!((report.requests, report.duration_s), (requests, 0.061));
        let latency = &report.latency_s;
        assert_eq!(latency.time_to_first_token, two(0.037, 0.030, 0.044));
        assert_eq!(latency.time_per_output_token, two(0.013_75, 0.012, 0.015_5));
        assert_eq!(latency.queue, two(0.0125, 0.0, 0.025));
        assert_eq!(latency.end_to_end, two(0.0585, 0.056, 0.061));
        // Gaps of 19, 12 and 12 ms, to within a part in two thousand.
        let gaps = latency.inter_token_latency.unwrap();
        assert_eq!(gaps.max, 0.019);
        assert!((gaps.mean - 0.043 / 3.0).abs() < 1e-12 && (gaps.p50 - 0.012).abs() < 6e-6, "{gaps:?}");
        assert_eq!((report.engine.steps, report.engine.preemptions), (3, 0));
        assert_eq!((report.tokens.prompt, report.tokens.output, report.tokens.recomputed), (28, 5, 0));
        assert_eq!(report.throughput.requests_per_s, 2.0 / 0.061);
        let load = &report.load;
        assert_eq!((load.busy_fraction, load.running_max, load.waiting_max), (1.0, 2, 0));
        assert!((load.running_mean - (30.0 + 2.0 * 31.0) / 61.0).abs() < 1e-9, "{load:?}");
        // 5, 8 and 9 blocks of 100.
        let blocks = (30.0 * 5.0 + 19.0 * 8.0 + 12.0 * 9.0) / 61.0;
        assert!((load.kv_usage_mean - blocks / 100.0).abs() < 1e-9, "{load:?}");
        assert_eq!(load.kv_usage_max, 0.09);
        // The second one was read when the first step was over, 25 ms after it arrived, and scheduled at once. Of its
        // prefill step of 19 ms the first one's share was 8 of 9 tokens.
        let spent: Vec<_> = report.spent.iter().map(|spent| (spent.bucket.as_str(), spent.seconds)).collect();
        let interference = 0.019 * 8.0 / 9.0;
        let expected = [
            ("admit", 0.025),
            ("prefill", 0.030 + 0.019),
            ("decode", 0.019 - interference + 0.012 + 0.012),
            ("interference", interference),
        ];
        assert_eq!(spent.len(), expected.len(), "{spent:?}");
        for ((bucket, seconds), (name, by_hand)) in spent.iter().zip(expected) {
            assert_eq!(*bucket, name);
            assert!((seconds - by_hand).abs() < 1e-8, "{bucket}: {seconds}, {by_hand} by hand");
        }
        let whole: f64 = report.spent.iter().map(|spent| spent.seconds).sum();
        assert!((whole - (0.061 + 0.056)).abs() < 1e-9, "it adds up to the end-to-end times");
    }

    #[test]
    fn nothing_and_idle_time_are_summed_up_too() {
        let nothing = replay(&[]);
        assert_eq!((nothing.requests.served, nothing.duration_s), (0, 0.0));
        assert!(nothing.latency_s.end_to_end.is_none());
        assert!(nothing.to_string().contains("TTFT"));
        // Busy for 11 ms at the beginning and at the end of a second.
        let idle = replay(&[(0, 1, 1), (989, 1, 1)]);
        assert_eq!((idle.duration_s, idle.load.busy_fraction), (1.0, 0.022));
        assert!(idle.latency_s.time_per_output_token.is_none());
    }

    #[test]
    fn the_observer_hands_everything_on() {
        let mut observer = Observer { summary: Summary::default(), export: None };
        observer.refused(Refusal::QueueFull { waiting: 1 });
        observer.token_gap(5);
        let report = observer
            .summary
            .report(Setting::new("test", Path::new("x.csv"), 1.0, &CONFIG), &EngineStats::default());
        assert_eq!(report.requests.refused_queue_full, 1);
        assert!(report.latency_s.inter_token_latency.is_some());
    }
}
