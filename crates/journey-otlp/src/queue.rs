//! The way from the threads that end journeys to the exporter.
//!
//! HOT PATH: [`JourneyQueue::accept`] runs on the engine thread and on request tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;
use wayfare_journey::{FinishedJourney, JourneySink, StepSink, StepSpan};

use crate::counters::ExportCounters;

/// A bounded lock-free queue of finished journeys. When it is full, a new journey is dropped and counted.
#[derive(Debug)]
pub(crate) struct JourneyQueue {
    journeys: ArrayQueue<FinishedJourney>,
    closed: AtomicBool,
    counters: Arc<ExportCounters>,
}

impl JourneyQueue {
    pub(crate) fn new(capacity: usize, counters: Arc<ExportCounters>) -> Self {
        // An `ArrayQueue` must have room for one.
        Self { journeys: ArrayQueue::new(capacity.max(1)), closed: AtomicBool::new(false), counters }
    }

    pub(crate) fn pop(&self) -> Option<FinishedJourney> {
        self.journeys.pop()
    }

    /// Takes no journey from now on. A journey holds its tracer, which holds this queue: what stayed in it
    /// would never be freed.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Drops and counts what is left. Only after [`JourneyQueue::close`].
    pub(crate) fn discard(&self) {
        while self.journeys.pop().is_some() {
            self.counters.after_shutdown.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl JourneySink for JourneyQueue {
    fn accept(&self, journey: FinishedJourney) {
        if self.closed.load(Ordering::SeqCst) {
            self.counters.after_shutdown.fetch_add(1, Ordering::Relaxed);
            return;
        }
        match self.journeys.push(journey) {
            Ok(()) => self.counters.accepted.fetch_add(1, Ordering::Relaxed),
            Err(_) => self.counters.queue_full.fetch_add(1, Ordering::Relaxed),
        };
        // Closed between the two looks: the exporter may have emptied the queue before the push.
        if self.closed.load(Ordering::SeqCst) {
            self.discard();
        }
    }
}

/// Most spans of steps that wait for the exporter. An engine closes one every 10 steps at most, so this is enough for
/// the time between two looks of the exporter; each may hold a megabyte.
const MAX_WAITING_STEP_SPANS: usize = 64;

/// A bounded lock-free queue of spans of steps. When it is full, a new span is dropped and counted.
#[derive(Debug)]
pub(crate) struct StepQueue {
    spans: ArrayQueue<StepSpan>,
    counters: Arc<ExportCounters>,
}

impl StepQueue {
    pub(crate) fn new(counters: Arc<ExportCounters>) -> Self {
        Self { spans: ArrayQueue::new(MAX_WAITING_STEP_SPANS), counters }
    }

    pub(crate) fn pop(&self) -> Option<StepSpan> {
        self.spans.pop()
    }
}

impl StepSink for StepQueue {
    fn accept(&self, span: StepSpan) {
        if self.spans.push(span).is_err() {
            self.counters.step_spans_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
