//! A histogram whose buckets name the trace of a request that fell into them, for scrapers of OpenMetrics.
//!
//! Written once per request, not per token: `prometheus_client`'s own takes a lock, which nobody contends for.

use std::time::{Duration, SystemTime};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::{MetricType, TypedMetric};
use wayfare_journey::TraceId;

use super::by_engine::EngineMetric;

type Labels = Vec<(&'static str, String)>;

/// What an observation may be seen by: the trace of a request that the head has sampled, and when it was, in
/// nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exemplar {
    pub(crate) trace_id: TraceId,
    pub(crate) unix_ns: u64,
}

/// Counts observations by bucket and keeps the last exemplar of each. Clones share the counts.
#[derive(Clone, Debug)]
pub(crate) struct ExemplarHistogram(HistogramWithExemplars<Labels>);

impl ExemplarHistogram {
    pub(crate) fn new(edges: &[f64]) -> Self {
        Self(HistogramWithExemplars::new(edges.iter().copied()))
    }

    /// Counts one observation.
    pub(crate) fn observe(&self, value: f64, exemplar: Option<Exemplar>) {
        let labels = exemplar.map(|exemplar| vec![("trace_id", exemplar.trace_id.to_string())]);
        let at = exemplar.map(|exemplar| SystemTime::UNIX_EPOCH + Duration::from_nanos(exemplar.unix_ns));
        self.0.observe(value, labels, at);
    }
}

impl TypedMetric for ExemplarHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EngineMetric for ExemplarHistogram {
    fn encode_for(&self, engine: &str, encoder: &mut MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.encode(encoder.encode_family(&[("engine", engine)])?)
    }
}

impl EncodeMetric for ExemplarHistogram {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}
