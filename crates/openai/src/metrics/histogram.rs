//! A histogram that is written without a lock.
//!
//! HOT PATH: [`AtomicHistogram::observe`] runs once per generated token.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::by_engine::EngineMetric;

/// Counts observations by bucket. Any number of readers and writers; clones share the counts.
///
/// `prometheus_client`'s own histogram takes a mutex for each observation.
#[derive(Clone, Debug)]
pub(crate) struct AtomicHistogram(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// Upper edges, ascending; the bucket above the last one is implied.
    edges: Box<[f64]>,
    /// One per edge, and one more for what is above all of them.
    buckets: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
}

impl AtomicHistogram {
    pub(crate) fn new(edges: &[f64]) -> Self {
        let buckets = (0..=edges.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Counts { edges: edges.into(), buckets, sum: AtomicU64::new(0.0_f64.to_bits()) }))
    }

    /// Counts one observation. Allocates nothing and takes no lock.
    pub(crate) fn observe(&self, value: f64) {
        let index = self.0.edges.partition_point(|edge| *edge < value);
        if let Some(bucket) = self.0.buckets.get(index) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        let _ = self.0.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

impl TypedMetric for AtomicHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EngineMetric for AtomicHistogram {
    fn encode_for(&self, engine: &str, encoder: &mut MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.encode(encoder.encode_family(&[("engine", engine)])?)
    }
}

impl EncodeMetric for AtomicHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let edges = self.0.edges.iter().copied().chain([f64::INFINITY]);
        let counts = self.0.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = edges.zip(counts).collect();
        // The count is that of the buckets just read, so that the two agree while others write.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = f64::from_bits(self.0.sum.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::prometheus_text;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn an_edge_belongs_to_its_bucket() {
        let histogram = AtomicHistogram::new(&[0.5, 1.0]);
        for value in [0.5, 0.6, 1.0, 1.5] {
            histogram.observe(value);
        }
        let mut registry = Registry::default();
        registry.register("h", "help", histogram);
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).unwrap();
        expect_test::expect![[r#"
            # HELP h help.
            # TYPE h histogram
            h_bucket{le="0.5"} 1
            h_bucket{le="1"} 3
            h_bucket{le="+Inf"} 4
            h_sum 3.6
            h_count 4
        "#]]
        .assert_eq(&text);
    }
}
