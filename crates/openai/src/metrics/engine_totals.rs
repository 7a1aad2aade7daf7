//! Gauges and counters that the engine keeps itself; they are read when somebody asks.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use wayfare_engine::Engine;

/// Shows the engine's latest state at each scrape.
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
        let stats = self.engine.stats();
        let kv_usage = match stats.kv_blocks_total {
            0 => 0.0,
            total => stats.kv_blocks_used as f64 / total as f64,
        };
        let gauges = [
            ("vllm:num_requests_running", "Requests that take part in engine steps.", stats.running as f64),
            ("vllm:num_requests_waiting", "Requests that wait to be scheduled.", stats.waiting as f64),
            ("vllm:kv_cache_usage_perc", "Share of the KV cache in use, 1 is all of it.", kv_usage),
        ];
        let counters = [
            (
                "vllm:prefix_cache_queries",
                "Prompt tokens looked up in the prefix cache.",
                stats.prefix_cache_queries,
            ),
            ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", stats.prefix_cache_hits),
            ("vllm:num_preemptions", "Preemptions.", stats.preemptions),
            ("vllm:prompt_tokens", "Prompt tokens processed.", stats.prompt_tokens),
            ("vllm:generation_tokens", "Tokens generated.", stats.generation_tokens),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
