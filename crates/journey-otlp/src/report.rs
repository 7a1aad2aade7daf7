//! What is said about the end of the exporter.

use std::fmt;

use crate::counters::{DropCause, ExportCounters};

/// What one destination got, and what it did not get because the exporter ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationReport {
    /// The destination's address, without anything secret in it.
    pub name: String,
    /// Spans that it has taken, since the start.
    pub exported_spans: u64,
    /// Spans that were lost before the shutdown, whatever the cause.
    pub lost_spans: u64,
    /// Spans that could not be sent before the exporter ended.
    pub unsent_spans: u64,
}

/// How the exporter ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Whether everything was settled within the time.
    pub in_time: bool,
    /// Journeys that were lost because the queue was full or closed, or by a bug, since the start.
    pub lost_journeys: u64,
    /// Spans of steps that were lost because more were closed at once than the exporter takes out.
    pub lost_step_spans: u64,
    /// Each destination, in the order of the configuration.
    pub destinations: Vec<DestinationReport>,
}

impl ShutdownReport {
    pub(crate) fn new(in_time: bool, counters: &ExportCounters) -> Self {
        let destinations = counters.destinations().iter().map(|destination| {
            let dropped_at_the_end = destination.dropped(DropCause::Shutdown);
            DestinationReport {
                name: destination.name().into(),
                exported_spans: destination.exported(),
                lost_spans: destination.dropped_total().saturating_sub(dropped_at_the_end),
                unsent_spans: dropped_at_the_end + destination.pending(),
            }
        });
        Self {
            in_time,
            lost_journeys: counters.journeys_dropped_queue_full()
                + counters.journeys_dropped_shutdown()
                + counters.journeys_dropped_panic(),
            lost_step_spans: counters.step_spans_dropped(),
            destinations: destinations.collect(),
        }
    }

    /// Whether nothing at all was lost since the start.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.lost_journeys == 0
            && self.lost_step_spans == 0
            && self.destinations.iter().all(|one| one.lost_spans == 0 && one.unsent_spans == 0)
    }
}

/// One line: what each destination got and lost.
impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, one) in self.destinations.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {} spans sent", one.name, one.exported_spans)?;
            if one.lost_spans > 0 {
                write!(f, ", {} lost earlier", one.lost_spans)?;
            }
            if one.unsent_spans > 0 {
                write!(f, ", {} not sent before the end", one.unsent_spans)?;
            }
        }
        if self.lost_journeys > 0 {
            write!(f, "; {} journeys never reached the exporter", self.lost_journeys)?;
        }
        if self.lost_step_spans > 0 {
            write!(f, "; {} spans of steps never reached the exporter", self.lost_step_spans)?;
        }
        Ok(())
    }
}
