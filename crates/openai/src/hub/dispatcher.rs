//! The task that takes steps apart.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use wayfare_engine::{RequestId, StepOutputs};

use crate::metrics::{Recorder, RequestMeter};

use super::stream::StreamEvent;
use super::{HubMessage, HubState, Registration};

/// A sequence that the engine has not ended.
#[derive(Debug)]
struct Entry {
    choice: usize,
    meter: RequestMeter,
    /// `None` when nobody waits any more.
    events: Option<mpsc::UnboundedSender<StreamEvent>>,
}

/// Spreads request ids. They are numbers of our own, one after the other, so no client can make them collide.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        // An odd multiplier (2^64 / golden ratio) keeps neighbours apart in the upper bits, too.
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Owns the table of sequences in flight.
#[derive(Debug)]
pub(super) struct Dispatcher {
    /// One for each engine.
    recorders: Vec<Recorder>,
    entries: HashMap<RequestId, Entry, BuildHasherDefault<IdHasher>>,
    state: Arc<HubState>,
    /// What every stream gets from now on, also a new one.
    end: Option<StreamEvent>,
}

impl Dispatcher {
    pub(super) fn new(recorders: Vec<Recorder>, state: Arc<HubState>) -> Self {
        Self { recorders, entries: HashMap::default(), state, end: None }
    }

    /// Runs until nobody can send any more.
    pub(super) async fn run(mut self, mut rx: mpsc::UnboundedReceiver<HubMessage>) {
        while let Some(message) = rx.recv().await {
            match message {
                HubMessage::Step(outputs) => self.step(outputs),
                HubMessage::Register(registration) => self.register(*registration),
                HubMessage::Detach(id) => self.detach(id),
                HubMessage::Forget(id) => {
                    self.detach(id);
                    self.entries.remove(&id);
                }
                HubMessage::EngineDied(fault) => {
                    let requests = self.entries.len();
                    if requests == 0 && matches!(self.end, Some(StreamEvent::ShutDown)) {
                        tracing::debug!("the engine has ended, as it was told to");
                    } else {
                        tracing::error!(%fault, requests, "the engine is gone, its requests fail");
                    }
                    self.state.engine_is_gone.store(true, Ordering::Release);
                    self.end_all(&StreamEvent::EngineDied);
                    self.entries.clear();
                    self.end = Some(StreamEvent::EngineDied);
                }
                HubMessage::Close => {
                    self.end_all(&StreamEvent::ShutDown);
                    self.end.get_or_insert(StreamEvent::ShutDown);
                }
            }
        }
    }

    fn step(&mut self, step: StepOutputs) {
        let engine = usize::from(step.engine);
        debug_assert!(engine < self.recorders.len(), "there is one for each engine");
        if let Some(recorder) = self.recorders.get(engine) {
            recorder.step(&step);
        }
        for output in step.outputs {
            let id = output.id;
            // Unknown are those of an engine that outlived its server's request table; nobody waits for them.
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if let Some(recorder) = self.recorders.get(engine) {
                recorder.output(&mut entry.meter, &output, step.at);
            }
            let is_last = output.finish.is_some();
            if let Some(events) = &entry.events {
                // Unbounded, because the engine must never wait for a client: each output but the last has
                // at least one token, so there are at most `max_tokens + 1` of them.
                let _ = events.send(StreamEvent::Output { choice: entry.choice, at: step.at, output });
            }
            if is_last {
                self.detach(id);
                self.entries.remove(&id);
            }
        }
    }

    fn register(&mut self, registration: Registration) {
        let Registration { id, choice, meter, events } = registration;
        let events = match &self.end {
            None => Some(events),
            Some(end) => {
                let _ = events.send(end.clone());
                self.state.listening.fetch_sub(1, Ordering::AcqRel);
                None
            }
        };
        // A dead engine ends nothing, so nothing may wait for it.
        if !matches!(self.end, Some(StreamEvent::EngineDied)) {
            self.entries.insert(id, Entry { choice, meter, events });
        }
    }

    fn detach(&mut self, id: RequestId) {
        let events = self.entries.get_mut(&id).and_then(|entry| entry.events.take());
        if events.is_some() {
            self.state.listening.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn end_all(&mut self, end: &StreamEvent) {
        for entry in self.entries.values_mut() {
            if let Some(events) = entry.events.take() {
                let _ = events.send(end.clone());
                self.state.listening.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
}
