//! Journeys of a replay, which makes more of them a second than any server does: the replay waits for the exporter,
//! so that none is lost for want of room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use tracing::{info, warn};
use wayfare_journey::{Clock, FinishedJourney, JourneySink, SamplingPolicy, SystemClock, Tracer, WallAnchor};
use wayfare_journey_otlp::{EngineDescription, ExportCounters, Exporter, ExporterConfig};

use wayfare_engine_local::VirtualClock;

/// How often the exporter looks for journeys.
const SCHEDULE_DELAY: Duration = Duration::from_millis(5);
/// How often the replay looks for room.
const POLL: Duration = Duration::from_millis(1);
/// How long nothing may move before the replay waits no more.
const PATIENCE_NS: u64 = 5_000_000_000;
/// How long the last journeys may take.
const FLUSH_TIME: Duration = Duration::from_secs(30);
/// The same when nothing moved before.
const FLUSH_TIME_WITHOUT_HOPE: Duration = Duration::from_secs(1);

/// The exporter, and what has been given to it.
#[derive(Debug)]
pub(super) struct PacedExport {
    tracer: Tracer,
    exporter: Exporter,
    counters: Arc<ExportCounters>,
    given_spans: Arc<AtomicU64>,
    most_spans_on_the_way: u64,
    /// A destination takes nothing; what it has no room for is lost and counted.
    has_given_up: AtomicBool,
}

/// Counts what is given to the exporter.
#[derive(Debug)]
struct Counting {
    given_spans: Arc<AtomicU64>,
    inner: Arc<dyn JourneySink>,
}

impl JourneySink for Counting {
    fn accept(&self, journey: FinishedJourney) {
        self.given_spans.fetch_add(1 + journey.cores().count() as u64, Ordering::Relaxed);
        self.inner.accept(journey);
    }
}

impl PacedExport {
    /// Opens the destinations. The beginning of the replay is now.
    ///
    /// # Errors
    /// When a destination cannot be opened.
    pub(super) fn start(
        policy: SamplingPolicy,
        mut config: ExporterConfig,
        clock: &VirtualClock,
        engine: EngineDescription,
    ) -> Result<Self> {
        config.resource.engine = engine;
        config.schedule_delay = SCHEDULE_DELAY;
        // Half of what the exporter has room for, whatever a journey's share of spans is.
        let most_spans_on_the_way = config.max_pending_spans.min(config.queue_capacity) as u64 / 2;
        for destination in &config.destinations {
            info!("journeys go to {destination}");
        }
        let anchor = WallAnchor::new(clock.now(), WallAnchor::capture().unix_ns(SystemClock.now()));
        let exporter = Exporter::start(config, anchor)?;
        let given_spans = Arc::new(AtomicU64::new(0));
        let sink = Counting { given_spans: Arc::clone(&given_spans), inner: exporter.sink() };
        let tracer = Tracer::new(Arc::new(clock.clone()), policy, Arc::new(sink));
        let counters = exporter.counters();
        let has_given_up = AtomicBool::new(false);
        Ok(Self { tracer, exporter, counters, given_spans, most_spans_on_the_way, has_given_up })
    }

    pub(super) fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Waits while the exporter has too much to do.
    pub(super) fn wait_for_room(&self) {
        if self.on_the_way() <= self.most_spans_on_the_way || self.has_given_up.load(Ordering::Relaxed) {
            return;
        }
        let (mut settled, mut since) = (self.settled(), SystemClock.now());
        while self.on_the_way() > self.most_spans_on_the_way {
            thread::sleep(POLL);
            let (now_settled, now) = (self.settled(), SystemClock.now());
            if now_settled > settled {
                (settled, since) = (now_settled, now);
            } else if now.since(since) > PATIENCE_NS {
                warn!("journeys do not get through; the replay does not wait for them any more");
                self.has_given_up.store(true, Ordering::Relaxed);
                return;
            }
        }
    }

    fn on_the_way(&self) -> u64 {
        self.given_spans.load(Ordering::Relaxed).saturating_sub(self.settled())
    }

    /// Spans that are done with, whatever became of them, at the slowest destination.
    fn settled(&self) -> u64 {
        let destinations = self.counters.destinations().iter();
        destinations.map(|one| one.exported() + one.dropped_total()).min().unwrap_or(u64::MAX)
    }

    /// Sends what is left.
    ///
    /// # Errors
    /// When journeys were lost.
    pub(super) fn finish(self) -> Result<()> {
        let is_hopeless = self.has_given_up.load(Ordering::Relaxed);
        let report = self.exporter.shutdown(if is_hopeless { FLUSH_TIME_WITHOUT_HOPE } else { FLUSH_TIME });
        if report.is_complete() {
            info!("journeys: {report}");
            return Ok(());
        }
        warn!("journeys: {report}");
        bail!("not all journeys have arrived")
    }
}
