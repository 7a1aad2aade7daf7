//! What `/metrics` shows, under vLLM's names.
//!
//! Fed by the engine's step outputs, terminal outputs and totals alone; a request's journey plays no part, so
//! the numbers are the same with tracing on, off and sampled.

mod by_engine;
mod engine_totals;
mod exemplars;
mod histogram;
mod recorder;
mod source;

use std::sync::Arc;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use wayfare_engine::{Engine, EngineLimits};
use wayfare_journey::WallAnchor;

use self::engine_totals::EngineTotals;
pub(crate) use self::recorder::{Recorder, RequestMeter, Siblings};
use self::source::SourceCollector;
pub use self::source::{MetricFamily, MetricKind, MetricSource};

/// The `Content-Type` of OpenMetrics text.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// The metrics of a server for `model_name`, with those of `sources`, and what feeds them: a recorder for each engine
    /// behind `engine`.
    pub(crate) fn new(
        model_name: &str,
        engine: Arc<dyn Engine>,
        wall: WallAnchor,
        sources: Vec<Arc<dyn MetricSource>>,
    ) -> (Self, Vec<Recorder>) {
        let limits = engine.limits();
        let engines: Vec<u32> = engine.stats_by_engine().into_iter().map(|(engine, _)| engine).collect();
        let mut registry = Registry::default();
        registry.register(
            "vllm:cache_config",
            "Configuration of the KV cache",
            CacheConfig { limits: limits.clone(), engines: engines.clone() },
        );
        let labelled = registry
            .sub_registry_with_labels(std::iter::once(("model_name".into(), model_name.to_owned().into())));
        let recorders = Recorder::register(labelled, &limits, wall, &engines);
        labelled.register_collector(Box::new(EngineTotals::new(engine)));
        for source in sources {
            registry.register_collector(Box::new(SourceCollector(source)));
        }
        (Self { registry }, recorders)
    }

    /// The text and its content type: OpenMetrics where the scraper accepts it, else Prometheus text 0.0.4.
    pub(crate) fn encode(&self, accept: &str) -> Result<(String, &'static str), std::fmt::Error> {
        let mut body = String::new();
        if accept.contains("application/openmetrics-text") {
            text::encode(&mut body, &self.registry)?;
            Ok((body, OPENMETRICS))
        } else {
            prometheus_text::encode(&mut body, &self.registry)?;
            Ok((body, prometheus_text::CONTENT_TYPE))
        }
    }
}

/// How the KV cache of each engine is set up; the same for all.
#[derive(Debug)]
struct CacheConfig {
    limits: EngineLimits,
    engines: Vec<u32>,
}

impl EncodeMetric for CacheConfig {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Self { limits, engines } = self;
        let block_size = limits.block_size.to_string();
        let num_gpu_blocks = limits.num_kv_blocks.to_string();
        engines.iter().try_for_each(|engine| {
            encoder.encode_info(&[
                ("engine", &*engine.to_string()),
                ("block_size", &block_size),
                ("num_gpu_blocks", &num_gpu_blocks),
                ("enable_prefix_caching", if limits.prefix_caching { "True" } else { "False" }),
            ])
        })
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Info
    }
}
