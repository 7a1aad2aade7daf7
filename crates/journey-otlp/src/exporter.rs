//! The exporter's thread, and its handle.

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc as std_mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use wayfare_journey::{JourneySink, StepSink, WallAnchor};

use crate::batch::{Batch, Batcher};
use crate::caught::caught;
use crate::config::{Destination, ExporterConfig};
use crate::convert::Converter;
use crate::counters::{DestinationCounters, DropCause, ExportCounters};
use crate::failure_log::{FailureLog, RateLimit};
use crate::queue::{JourneyQueue, StepQueue};
use crate::report::ShutdownReport;
use crate::transport::Transport;
use crate::worker::Worker;

/// How long an exporter that is only dropped goes on trying.
const TIME_AFTER_DROP: Duration = Duration::from_secs(1);
/// How much later than its time limit a shutdown may end, for the thread to settle its accounts.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(250);
/// The longest time limit of a shutdown; longer ones are cut, so that no addition can overflow.
const MAX_SHUTDOWN_TIME: Duration = Duration::from_secs(86_400);

/// Why the exporter could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file cannot be written.
    #[error("{option}: cannot write {path:?}")]
    OpenFile {
        /// The option that named the file.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The operating system gives no thread, or nothing that a runtime needs.
    #[error("cannot start the journey exporter's thread")]
    Thread(#[source] io::Error),
}

/// The running exporter. Dropping it lets its thread end by itself soon; [`Exporter::shutdown`] waits for
/// what is on its way.
#[derive(Debug)]
pub struct Exporter {
    queue: Arc<JourneyQueue>,
    steps: Arc<StepQueue>,
    counters: Arc<ExportCounters>,
    /// Carries the time at which all must be over.
    stop: oneshot::Sender<Instant>,
    done: std_mpsc::Receiver<InTime>,
    thread: JoinHandle<()>,
}

/// Whether everything was settled before the time was up.
type InTime = bool;

impl Exporter {
    /// Opens the destinations and starts the thread. Collectors are not connected to yet, and one that is
    /// absent is no error. `anchor` is the process's, so that all its times agree.
    ///
    /// # Errors
    /// When a file cannot be written or no thread be started.
    pub fn start(config: ExporterConfig, anchor: WallAnchor) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("journey-io")
            .build()
            .map_err(StartError::Thread)?;
        let opened = {
            let _in_runtime = runtime.enter();
            config.destinations.iter().map(open).collect::<Result<Vec<_>, _>>()
        };
        match opened {
            Ok(transports) => Self::start_with(transports, runtime, config, anchor),
            Err(error) => {
                end(runtime);
                Err(error)
            }
        }
    }

    /// Starts the thread with a transport for each destination of the configuration.
    fn start_with(
        transports: Vec<Transport>,
        runtime: Runtime,
        config: ExporterConfig,
        anchor: WallAnchor,
    ) -> Result<Self, StartError> {
        let accounts =
            config.destinations.iter().map(|one| Arc::new(DestinationCounters::new(one.to_string())));
        let counters = Arc::new(ExportCounters::new(accounts.collect()));
        let queue = Arc::new(JourneyQueue::new(config.queue_capacity, Arc::clone(&counters)));
        let steps = Arc::new(StepQueue::new(Arc::clone(&counters)));
        let (stop, stopped) = oneshot::channel();
        let (report_done, done) = std_mpsc::sync_channel(1);
        let collector = Collector {
            queue: Arc::clone(&queue),
            steps: Arc::clone(&steps),
            counters: Arc::clone(&counters),
            batcher: Batcher::new(config.max_batch_spans),
            outlets: Vec::new(),
            max_pending_spans: config.max_pending_spans as u64,
            reported_queue_full: 0,
            queue_full_limit: RateLimit::default(),
        };
        let thread = thread::Builder::new()
            .name("journey-export".into())
            .spawn(move || {
                let in_time = runtime.block_on(run(collector, config, anchor, transports, stopped));
                let _ = report_done.send(in_time);
                end(runtime);
            })
            .map_err(StartError::Thread)?;
        Ok(Self { queue, steps, counters, stop, done, thread })
    }

    /// Where finished journeys go. It never waits, allocates or wakes a thread; what it has no room for it
    /// drops and counts.
    #[must_use]
    pub fn sink(&self) -> Arc<dyn JourneySink> {
        Arc::clone(&self.queue) as Arc<dyn JourneySink>
    }

    /// Where finished spans of steps go. It never waits or wakes a thread; what it has no room for it drops and
    /// counts.
    #[must_use]
    pub fn step_sink(&self) -> Arc<dyn StepSink> {
        Arc::clone(&self.steps) as Arc<dyn StepSink>
    }

    /// What was sent and what was lost, at any time, also after the shutdown.
    #[must_use]
    pub fn counters(&self) -> Arc<ExportCounters> {
        Arc::clone(&self.counters)
    }

    /// Takes no further journeys, sends what is queued, and ends within about `timeout`. Blocks the calling
    /// thread; call it when all requests have ended.
    #[must_use]
    pub fn shutdown(self, timeout: Duration) -> ShutdownReport {
        let timeout = timeout.min(MAX_SHUTDOWN_TIME);
        let _ = self.stop.send(Instant::now() + timeout);
        let in_time = match self.done.recv_timeout(timeout + SHUTDOWN_GRACE) {
            Ok(in_time) => {
                let _ = self.thread.join();
                in_time
            }
            // The thread hangs in a system call; it ends with the process.
            Err(_) => false,
        };
        ShutdownReport::new(in_time, &self.counters)
    }
}

fn open(destination: &Destination) -> Result<Transport, StartError> {
    Transport::open(destination.clone()).map_err(|source| match destination {
        Destination::File { path, option, .. } => StartError::OpenFile { option, path: path.clone(), source },
        Destination::Collector(_) => StartError::Thread(source),
    })
}

/// Lets go of the runtime without waiting for a file system that hangs. Just dropping it would panic where
/// the caller is in a runtime itself.
fn end(runtime: Runtime) {
    runtime.shutdown_background();
}

/// The way to one destination.
struct Outlet {
    /// Bounded by spans: every batch in it holds at least one, and [`Collector::hand_out`] puts none in beyond
    /// `max_pending_spans`.
    backlog: mpsc::UnboundedSender<Arc<Batch>>,
    log: FailureLog,
}

/// Takes journeys out of the queue and hands batches to the destinations.
struct Collector {
    queue: Arc<JourneyQueue>,
    steps: Arc<StepQueue>,
    counters: Arc<ExportCounters>,
    batcher: Batcher,
    outlets: Vec<Outlet>,
    max_pending_spans: u64,
    reported_queue_full: u64,
    queue_full_limit: RateLimit,
}

/// The life of the exporter's thread.
async fn run(
    mut collector: Collector,
    config: ExporterConfig,
    anchor: WallAnchor,
    transports: Vec<Transport>,
    mut stopped: oneshot::Receiver<Instant>,
) -> InTime {
    let converter = Arc::new(Converter::new(&config.resource, anchor, config.limits));
    let (start_draining, draining) = watch::channel(false);
    let mut workers = JoinSet::new();
    for (transport, account) in transports.into_iter().zip(collector.counters.destinations()) {
        let (sender, backlog) = mpsc::unbounded_channel();
        collector.outlets.push(Outlet { backlog: sender, log: FailureLog::new(Arc::clone(account)) });
        let worker = Worker {
            transport,
            backlog,
            converter: Arc::clone(&converter),
            account: Arc::clone(account),
            retry: config.retry,
            max_batch_spans: config.max_batch_spans,
            draining: draining.clone(),
            log: FailureLog::new(Arc::clone(account)),
        };
        workers.spawn(worker.run());
    }

    let deadline = loop {
        tokio::select! {
            biased;
            deadline = &mut stopped => break deadline.unwrap_or_else(|_| Instant::now() + TIME_AFTER_DROP),
            () = tokio::time::sleep(config.schedule_delay) => {}
        }
        // No more than one queue at a time, so that the stop is seen however many journeys come.
        collector.collect(config.queue_capacity).await;
    };

    collector.queue.close();
    collector.collect(usize::MAX).await;
    let (queue, counters) = (Arc::clone(&collector.queue), Arc::clone(&collector.counters));
    // Closes the backlogs: a worker ends when its backlog is empty.
    drop(collector);
    start_draining.send_replace(true);
    let all_done = async { while workers.join_next().await.is_some() {} };
    let in_time = tokio::time::timeout_at(deadline, all_done).await.is_ok();
    workers.shutdown().await;
    counters.destinations().iter().for_each(|account| account.abandon_pending());
    queue.discard();
    in_time
}

impl Collector {
    async fn collect(&mut self, at_most: usize) {
        let mut batches = Vec::new();
        for _ in 0..at_most {
            let Some(journey) = self.queue.pop() else { break };
            if let Err(panicked) = caught(|| self.batcher.add(&journey, |batch| batches.push(batch))) {
                self.counters.panicked.fetch_add(1, Ordering::Relaxed);
                self.batcher.mend();
                tracing::error!("a journey is lost: {panicked}");
            }
            for batch in batches.drain(..) {
                self.hand_out(batch);
                // Lets the workers start on it.
                tokio::task::yield_now().await;
            }
        }
        while let Some(span) = self.steps.pop() {
            self.batcher.add_steps(span, |batch| batches.push(batch));
            for batch in batches.drain(..) {
                self.hand_out(batch);
                tokio::task::yield_now().await;
            }
        }
        if let Some(batch) = self.batcher.finish() {
            self.hand_out(batch);
        }
        self.report_full_queue();
    }

    fn hand_out(&mut self, batch: Batch) {
        let (spans, batch) = (batch.spans(), Arc::new(batch));
        for (outlet, account) in self.outlets.iter_mut().zip(self.counters.destinations()) {
            // A batch larger than the limit must pass when nothing waits.
            let waiting = account.pending();
            if waiting > 0 && waiting + spans > self.max_pending_spans {
                account.drop_new(DropCause::QueueFull, spans);
                outlet.log.failed("too many spans wait already");
                continue;
            }
            // Counted before the worker can settle it.
            account.add_pending(spans);
            if outlet.backlog.send(Arc::clone(&batch)).is_err() {
                account.settle(0, Some((DropCause::GaveUp, spans)));
                outlet.log.failed("its worker has ended by a bug");
            }
        }
    }

    fn report_full_queue(&mut self) {
        let lost = self.counters.journeys_dropped_queue_full();
        if lost > self.reported_queue_full && self.queue_full_limit.allows() {
            tracing::warn!(
                journeys_lost = lost,
                "more journeys ended at once than the exporter's queue holds"
            );
            self.reported_queue_full = lost;
        }
    }
}
