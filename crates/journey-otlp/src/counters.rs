//! What was sent and what was lost, and why. Written by the exporter, readable from any thread at any time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Why spans did not reach a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropCause {
    /// The destination's backlog was full.
    QueueFull,
    /// The destination said that it will never take them.
    Refused,
    /// The destination took the request, but not these spans of it.
    PartialSuccess,
    /// Every attempt failed, up to the limit of time.
    GaveUp,
    /// The server ended first.
    Shutdown,
}

impl DropCause {
    /// Every cause.
    pub const ALL: [DropCause; 5] = [
        DropCause::QueueFull,
        DropCause::Refused,
        DropCause::PartialSuccess,
        DropCause::GaveUp,
        DropCause::Shutdown,
    ];

    /// The cause as a label in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            DropCause::QueueFull => "queue_full",
            DropCause::Refused => "refused",
            DropCause::PartialSuccess => "partial_success",
            DropCause::GaveUp => "gave_up",
            DropCause::Shutdown => "shutdown",
        }
    }
}

/// The account of one destination, in spans.
#[derive(Debug)]
pub struct DestinationCounters {
    name: String,
    exported: AtomicU64,
    pending: AtomicU64,
    retries: AtomicU64,
    /// Attempts that failed, by status. Written by the destination's worker, never on a request's path.
    failures: Mutex<BTreeMap<String, u64>>,
    dropped: [AtomicU64; DropCause::ALL.len()],
}

impl DestinationCounters {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            exported: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            failures: Mutex::default(),
            dropped: Default::default(),
        }
    }

    /// The destination's address, without anything secret in it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Spans that the destination has taken.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Spans that are in the backlog or on their way.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Attempts that were made again.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Attempts that failed, by status: the gRPC code (`Unavailable`), the HTTP status (`503`), or what kept the
    /// destination from answering: `unreachable`, `timeout`, `tls` (no trust could be established: a certificate
    /// that is not trusted, has expired or is for another name, or a client certificate that the destination does
    /// not take; over gRPC the latter can look like a connection that was just closed), `local` for what went
    /// wrong on this side.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<String, u64> {
        self.failures.lock().clone()
    }

    /// Spans that were lost for this cause.
    #[must_use]
    pub fn dropped(&self, cause: DropCause) -> u64 {
        self.dropped[cause as usize].load(Ordering::Relaxed)
    }

    /// Spans that were lost, whatever the cause.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        DropCause::ALL.iter().map(|cause| self.dropped(*cause)).sum()
    }

    /// Spans that were accepted into the backlog.
    pub(crate) fn add_pending(&self, spans: u64) {
        self.pending.fetch_add(spans, Ordering::Relaxed);
    }

    pub(crate) fn add_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_failure(&self, status: &str) {
        let mut failures = self.failures.lock();
        match failures.get_mut(status) {
            Some(count) => *count += 1,
            None => {
                failures.insert(status.to_owned(), 1);
            }
        }
    }

    /// Spans that never entered the backlog.
    pub(crate) fn drop_new(&self, cause: DropCause, spans: u64) {
        self.dropped[cause as usize].fetch_add(spans, Ordering::Relaxed);
    }

    /// A batch of the backlog is settled: these spans were taken, those were lost.
    pub(crate) fn settle(&self, exported: u64, lost: Option<(DropCause, u64)>) {
        self.exported.fetch_add(exported, Ordering::Relaxed);
        let lost_spans = lost.map_or(0, |(_, spans)| spans);
        if let Some((cause, spans)) = lost {
            self.drop_new(cause, spans);
        }
        self.pending.fetch_sub(exported + lost_spans, Ordering::Relaxed);
    }

    /// Nobody works on the backlog any more: all of it is lost.
    pub(crate) fn abandon_pending(&self) {
        let spans = self.pending.swap(0, Ordering::Relaxed);
        self.drop_new(DropCause::Shutdown, spans);
    }
}

/// The account of the exporter.
#[derive(Debug)]
pub struct ExportCounters {
    pub(crate) accepted: AtomicU64,
    pub(crate) queue_full: AtomicU64,
    pub(crate) after_shutdown: AtomicU64,
    pub(crate) panicked: AtomicU64,
    pub(crate) step_spans_dropped: AtomicU64,
    destinations: Vec<Arc<DestinationCounters>>,
}

impl ExportCounters {
    pub(crate) fn new(destinations: Vec<Arc<DestinationCounters>>) -> Self {
        Self {
            accepted: AtomicU64::new(0),
            queue_full: AtomicU64::new(0),
            after_shutdown: AtomicU64::new(0),
            panicked: AtomicU64::new(0),
            step_spans_dropped: AtomicU64::new(0),
            destinations,
        }
    }

    /// Journeys that were put into the queue.
    #[must_use]
    pub fn journeys_accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Journeys that were lost because the queue was full: more ended at once than the exporter takes out.
    #[must_use]
    pub fn journeys_dropped_queue_full(&self) -> u64 {
        self.queue_full.load(Ordering::Relaxed)
    }

    /// Journeys that were lost because the exporter had been shut down.
    #[must_use]
    pub fn journeys_dropped_shutdown(&self) -> u64 {
        self.after_shutdown.load(Ordering::Relaxed)
    }

    /// Journeys that were lost because the exporter panicked over them, by a bug.
    #[must_use]
    pub fn journeys_dropped_panic(&self) -> u64 {
        self.panicked.load(Ordering::Relaxed)
    }

    /// Spans of steps that were lost because more were closed at once than the exporter takes out.
    #[must_use]
    pub fn step_spans_dropped(&self) -> u64 {
        self.step_spans_dropped.load(Ordering::Relaxed)
    }

    /// The destinations, in the order of the configuration.
    #[must_use]
    pub fn destinations(&self) -> &[Arc<DestinationCounters>] {
        &self.destinations
    }
}
