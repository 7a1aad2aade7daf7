//! What `/metrics` shows, under vLLM's names.
//!
//! Fed by the engine's step outputs, terminal outputs and totals alone; a request's journey plays no part, so
//! the numbers are the same with tracing on, off and sampled.

mod engine_totals;
mod exemplars;
mod histogram;
mod recorder;
mod source;

use std::sync::Arc;

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use wayfare_engine::{Engine, EngineLimits};
use wayfare_journey::WallAnchor;

use self::engine_totals::EngineTotals;
pub(crate) use self::recorder::{Recorder, RequestMeter, Siblings};
use self::source::SourceCollector;
pub use self::source::{MetricFamily, MetricKind, MetricSource};

/// The `Content-Type` of OpenMetrics text.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The `engine` label: which of several engines behind one server a series belongs to.
const ENGINE_INDEX: &str = "0";

/// All metrics of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// The metrics of a server for `model_name`, with those of `sources`, and the recorder that feeds them.
    pub(crate) fn new(
        model_name: &str,
        engine: Arc<dyn Engine>,
        wall: WallAnchor,
        sources: Vec<Arc<dyn MetricSource>>,
    ) -> (Self, Recorder) {
        let limits = engine.limits();
        let mut registry = Registry::default();
        registry.register("vllm:cache_config", "Configuration of the KV cache", cache_config(&limits));
        let labelled = registry.sub_registry_with_labels(
            [("model_name", model_name), ("engine", ENGINE_INDEX)]
                .into_iter()
                .map(|(key, value)| (key.into(), value.to_owned().into())),
        );
        let recorder = Recorder::register(labelled, &limits, wall);
        labelled.register_collector(Box::new(EngineTotals::new(engine)));
        for source in sources {
            registry.register_collector(Box::new(SourceCollector(source)));
        }
        (Self { registry }, recorder)
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

fn cache_config(limits: &EngineLimits) -> Info<Vec<(&'static str, String)>> {
    Info::new(vec![
        ("engine", ENGINE_INDEX.to_owned()),
        ("block_size", limits.block_size.to_string()),
        ("num_gpu_blocks", limits.num_kv_blocks.to_string()),
        ("enable_prefix_caching", if limits.prefix_caching { "True" } else { "False" }.to_owned()),
    ])
}
