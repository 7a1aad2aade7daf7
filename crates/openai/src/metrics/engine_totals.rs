//! Gauges and counters that each engine keeps itself; they are read when somebody asks.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use wayfare_engine::{Engine, EngineStats};

/// Shows the engines' latest state at each scrape.
#[derive(Debug)]
pub(super) struct EngineTotals {
    engine: Arc<dyn Engine>,
}

impl EngineTotals {
    pub(super) fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine }
    }
}

impl Collector for EngineTotals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let engines = self.engine.stats_by_engine();
        let gauges: [Family<f64>; 3] = [
            ("vllm:num_requests_running", "Requests that take part in engine steps.", |stats| {
                stats.running as f64
            }),
            ("vllm:num_requests_waiting", "Requests that wait to be scheduled.", |stats| {
                stats.waiting as f64
            }),
            ("vllm:kv_cache_usage_perc", "Share of the KV cache in use, 1 is all of it.", kv_usage),
        ];
        let counters: [Family<u64>; 5] = [
            ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", |stats| {
                stats.prefix_cache_queries
            }),
            ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", |stats| {
                stats.prefix_cache_hits
            }),
            ("vllm:num_preemptions", "Preemptions.", |stats| stats.preemptions),
            ("vllm:prompt_tokens", "Prompt tokens processed.", |stats| stats.prompt_tokens),
            ("vllm:generation_tokens", "Tokens generated.", |stats| stats.generation_tokens),
        ];
        for (name, help, value) in gauges {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            encode(family, &engines, |stats| ConstGauge::new(value(stats)))?;
        }
        for (name, help, value) in counters {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            encode(family, &engines, |stats| ConstCounter::new(value(stats)))?;
        }
        Ok(())
    }
}

/// A metric's name, what it says, and how it is read.
type Family<T> = (&'static str, &'static str, fn(&EngineStats) -> T);

fn kv_usage(stats: &EngineStats) -> f64 {
    match stats.kv_blocks_total {
        0 => 0.0,
        total => stats.kv_blocks_used as f64 / total as f64,
    }
}

fn encode<M: EncodeMetric>(
    mut family: MetricEncoder<'_>,
    engines: &[(u32, EngineStats)],
    metric: impl Fn(&EngineStats) -> M,
) -> Result<(), std::fmt::Error> {
    engines.iter().try_for_each(|(engine, stats)| {
        metric(stats).encode(family.encode_family(&[("engine", engine.to_string())])?)
    })
}
