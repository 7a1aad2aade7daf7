//! Counters of other parts of the program, shown beside the server's own.

use std::fmt::Debug;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use std::sync::Arc;

/// What a metric's value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows. Shown with `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One metric, with a value per set of labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricFamily {
    /// Its name, without `_total`.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// What its value means.
    pub kind: MetricKind,
    /// Its values, each with its labels.
    pub samples: Vec<(Vec<(&'static str, String)>, u64)>,
}

/// A part of the program whose metrics [`crate::Server`] shows at `/metrics`. Read at each scrape.
pub trait MetricSource: Send + Sync + Debug {
    /// The metrics as they are now. Always the same names, in the same order.
    fn families(&self) -> Vec<MetricFamily>;
}

/// Shows a source at each scrape.
#[derive(Debug)]
pub(super) struct SourceCollector(pub(super) Arc<dyn MetricSource>);

impl Collector for SourceCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for MetricFamily { name, help, kind, samples } in self.0.families() {
            let kind_on_the_wire = match kind {
                MetricKind::Counter => MetricType::Counter,
                MetricKind::Gauge => MetricType::Gauge,
            };
            // As elsewhere, the text ends with a full stop.
            let help = format!("{help}.");
            let mut family = encoder.encode_descriptor(name, &help, None, kind_on_the_wire)?;
            for (labels, value) in samples {
                let of_labels = family.encode_family(&labels)?;
                match kind {
                    MetricKind::Counter => ConstCounter::new(value).encode(of_labels)?,
                    MetricKind::Gauge => {
                        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(of_labels)?
                    }
                }
            }
        }
        Ok(())
    }
}
