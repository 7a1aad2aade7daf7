//! What tracing says about itself at `/metrics`.

use std::sync::Arc;

use wayfare_journey::{KeepRuleKind, Tracer};
use wayfare_journey_otlp::{DropCause, ExportCounters};
use wayfare_openai::{MetricFamily, MetricKind, MetricSource};

/// The tracer's and the exporter's counters.
#[derive(Debug)]
pub(crate) struct TelemetryMetrics {
    tracer: Option<Tracer>,
    exporter: Option<Arc<ExportCounters>>,
}

type Labels = Vec<(&'static str, String)>;

impl TelemetryMetrics {
    pub(crate) fn new(tracer: Option<Tracer>, exporter: Option<Arc<ExportCounters>>) -> Self {
        Self { tracer, exporter }
    }

    fn of_tracer(tracer: &Tracer) -> [MetricFamily; 6] {
        let counters = tracer.counters();
        let one = |value| vec![(Labels::new(), value)];
        let by_rule = KeepRuleKind::ALL.into_iter().map(|kind| (kind.as_str(), counters.kept_by_rule(kind)));
        let kept = [("head", counters.kept_by_head())].into_iter().chain(by_rule);
        [
            counter(
                "wayfare:journeys_recorded",
                "Requests that are or were recorded",
                one(counters.recorded()),
            ),
            counter(
                "wayfare:journeys_sampled_out",
                "Requests that were not recorded, by the sample rate or by the caller's flag",
                one(counters.sampled_out()),
            ),
            counter(
                "wayfare:journeys_kept",
                "Finished journeys that were kept, by the head or by the first tail rule that matched",
                kept.map(|(by, count)| (vec![("by", by.to_owned())], count)).collect(),
            ),
            counter(
                "wayfare:journeys_discarded",
                "Journeys that were recorded for the tail rules and matched none",
                one(counters.discarded()),
            ),
            counter(
                "wayfare:journey_sink_panics",
                "Kept journeys over which the exporter's or the store's end of the way panicked",
                one(counters.sink_panics()),
            ),
            MetricFamily {
                name: "wayfare:journeys_in_flight",
                help: "Recorded requests whose journey is not complete",
                kind: MetricKind::Gauge,
                samples: one(counters.in_flight()),
            },
        ]
    }

    fn of_exporter(exporter: &ExportCounters) -> [MetricFamily; 7] {
        let to = |name: &str| ("destination", name.to_owned());
        let per_destination = |value: fn(&wayfare_journey_otlp::DestinationCounters) -> u64| {
            exporter.destinations().iter().map(|one| (vec![to(one.name())], value(one))).collect()
        };
        let dropped_spans = exporter.destinations().iter().flat_map(|one| {
            DropCause::ALL
                .into_iter()
                .map(|cause| (vec![to(one.name()), ("cause", cause.as_str().to_owned())], one.dropped(cause)))
        });
        let failures = exporter.destinations().iter().flat_map(|one| {
            one.failures()
                .into_iter()
                .map(|(status, count)| (vec![to(one.name()), ("status", status)], count))
        });
        let dropped_journeys = [
            ("queue_full", exporter.journeys_dropped_queue_full()),
            ("shutdown", exporter.journeys_dropped_shutdown()),
            ("panic", exporter.journeys_dropped_panic()),
        ];
        [
            counter(
                "wayfare:journeys_dropped",
                "Journeys that were lost before they were made spans",
                dropped_journeys.map(|(cause, count)| (vec![("cause", cause.to_owned())], count)).into(),
            ),
            counter(
                "wayfare:step_spans_dropped",
                "Spans of steps that were lost before they were sent",
                vec![(Labels::new(), exporter.step_spans_dropped())],
            ),
            counter(
                "wayfare:journey_spans_exported",
                "Spans that a destination has taken",
                per_destination(|one| one.exported()),
            ),
            counter(
                "wayfare:journey_spans_dropped",
                "Spans that did not reach a destination, by cause",
                dropped_spans.collect(),
            ),
            counter(
                "wayfare:journey_export_failures",
                "Attempts to send that failed, by what the destination said",
                failures.collect(),
            ),
            counter(
                "wayfare:journey_export_retries",
                "Attempts to send that were made again",
                per_destination(|one| one.retries()),
            ),
            MetricFamily {
                name: "wayfare:journey_spans_pending",
                help: "Spans that wait to be sent",
                kind: MetricKind::Gauge,
                samples: per_destination(|one| one.pending()),
            },
        ]
    }
}

impl MetricSource for TelemetryMetrics {
    fn families(&self) -> Vec<MetricFamily> {
        let of_tracer = self.tracer.iter().flat_map(Self::of_tracer);
        of_tracer.chain(self.exporter.iter().flat_map(|exporter| Self::of_exporter(exporter))).collect()
    }
}

fn counter(name: &'static str, help: &'static str, samples: Vec<(Labels, u64)>) -> MetricFamily {
    MetricFamily { name, help, kind: MetricKind::Counter, samples }
}
