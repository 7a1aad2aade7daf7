//! One metric of each of several engines, told apart by the label `engine`.

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// A metric of one engine.
pub(super) trait EngineMetric: TypedMetric {
    /// Writes it with the number of its engine.
    fn encode_for(&self, engine: &str, encoder: &mut MetricEncoder<'_>) -> Result<(), std::fmt::Error>;
}

/// The same metric of all engines, in their order, each with the engine's number.
#[derive(Clone, Debug)]
pub(super) struct ByEngine<M>(Vec<(u32, M)>);

impl<M: Clone> ByEngine<M> {
    /// A metric for each of these engines.
    pub(super) fn new(engines: &[u32], metric: impl Fn() -> M) -> Self {
        Self(engines.iter().map(|engine| (*engine, metric())).collect())
    }

    /// Them, in the order of the engines.
    pub(super) fn each(&self) -> Vec<M> {
        self.0.iter().map(|(_, metric)| metric.clone()).collect()
    }
}

impl<M: EngineMetric> EncodeMetric for ByEngine<M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.iter().try_for_each(|(engine, metric)| metric.encode_for(&engine.to_string(), &mut encoder))
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}
