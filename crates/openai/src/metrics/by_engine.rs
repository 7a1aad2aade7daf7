//! One metric of each of several engines, told apart by the label `engine`.

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// A metric of one engine.
pub(super) trait EngineMetric: TypedMetric {
    /// Writes it with the number of its engine.
    fn encode_for(&self, engine: &str, encoder: &mut MetricEncoder<'_>) -> Result<(), std::fmt::Error>;
}

/// The same metric of all engines, in their order.
#[derive(Clone, Debug)]
pub(super) struct ByEngine<M>(pub(super) Vec<M>);

impl<M: EngineMetric> EncodeMetric for ByEngine<M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        (0..).zip(&self.0).try_for_each(|(engine, metric): (usize, &M)| {
            metric.encode_for(&engine.to_string(), &mut encoder)
        })
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}
