//! From the engine's thread to the requests: one message per step in, one stream per request out.
//!
//! HOT PATH: the engine's thread does one channel send per step. One dispatcher task takes the step apart
//! and owns the table of requests, so nothing is locked. Registrations travel in the same channel as the
//! outputs; since a request is registered before it is submitted, its outputs always find it.

mod dispatcher;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::mpsc;
use wayfare_engine::{EngineFault, OutputSink, RequestId, StepOutputs};

use crate::metrics::{Recorder, RequestMeter};

use self::dispatcher::Dispatcher;
pub(crate) use self::stream::{OutputStream, StreamEvent};

/// Makes both ends of the way from an engine to a server: the sink to build the engine with, and the hub
/// for the [`ServerConfig`](crate::ServerConfig)'s server.
#[must_use]
pub fn output_channel() -> (HubSink, OutputHub) {
    // Unbounded, because the engine must never wait. What it can hold is bounded by the requests in flight:
    // each adds at most three messages of its own, and the engine sends one per step, of which there are at
    // most as many as tokens to compute (a step without any is not taken). The dispatcher never waits for a
    // client, so in practice the channel holds what the engine produced since the task was last polled.
    let (tx, rx) = mpsc::unbounded_channel();
    let sink = HubSink { tx: tx.clone(), engine_is_gone: false };
    (sink, OutputHub { tx, rx })
}

/// The engine's end. Dropping it tells the server that the engine is gone.
#[derive(Debug)]
pub struct HubSink {
    tx: mpsc::UnboundedSender<HubMessage>,
    engine_is_gone: bool,
}

impl OutputSink for HubSink {
    fn deliver(&mut self, outputs: StepOutputs) {
        // Nobody listens once the server is gone; then nobody waits for outputs either.
        let _ = self.tx.send(HubMessage::Step(outputs));
    }

    fn engine_died(&mut self, fault: Arc<EngineFault>) {
        self.engine_is_gone = true;
        let _ = self.tx.send(HubMessage::EngineDied(fault));
    }
}

impl Drop for HubSink {
    /// An engine that ends without a word, as by a panic, must not leave requests waiting.
    fn drop(&mut self) {
        if !self.engine_is_gone {
            let fault = EngineFault { message: "it ended without giving a reason".to_owned() };
            self.engine_died(Arc::new(fault));
        }
    }
}

/// The server's end, not yet running.
#[derive(Debug)]
pub struct OutputHub {
    tx: mpsc::UnboundedSender<HubMessage>,
    rx: mpsc::UnboundedReceiver<HubMessage>,
}

impl OutputHub {
    /// Starts the dispatcher on the current runtime.
    pub(crate) fn start(self, recorders: Vec<Recorder>) -> HubHandle {
        let state = Arc::new(HubState::default());
        tokio::spawn(Dispatcher::new(recorders, Arc::clone(&state)).run(self.rx));
        HubHandle { tx: self.tx, state }
    }
}

/// By which requests come and go.
#[derive(Clone, Debug)]
pub(crate) struct HubHandle {
    tx: mpsc::UnboundedSender<HubMessage>,
    state: Arc<HubState>,
}

/// What the dispatcher lets others see.
#[derive(Debug, Default)]
struct HubState {
    /// Sequences somebody waits for.
    listening: AtomicUsize,
    engine_is_gone: AtomicBool,
}

impl HubHandle {
    /// Whether it will be read. If not, the dispatcher is gone with its runtime, and streams see their channel closed.
    fn send(&self, message: HubMessage) -> bool {
        self.tx.send(message).is_ok()
    }

    /// Outputs of `id` will go to `events`, marked as those of choice `choice`.
    fn register(
        &self,
        id: RequestId,
        choice: usize,
        meter: RequestMeter,
        events: mpsc::UnboundedSender<StreamEvent>,
    ) {
        // Counted here, so that a server that drains does not overlook a request on its way to the dispatcher.
        self.state.listening.fetch_add(1, Ordering::AcqRel);
        if !self.send(HubMessage::Register(Box::new(Registration { id, choice, meter, events }))) {
            self.state.listening.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Nobody waits for outputs of `id` any more; it is still measured until the engine has ended it.
    fn detach(&self, id: RequestId) {
        self.send(HubMessage::Detach(id));
    }

    /// The engine has not taken `id`; there will be no output.
    fn forget(&self, id: RequestId) {
        self.send(HubMessage::Forget(id));
    }

    /// Ends all streams, also those that register from now on.
    pub(crate) fn close(&self) {
        self.send(HubMessage::Close);
    }

    /// Sequences whose outputs somebody waits for.
    pub(crate) fn listening(&self) -> usize {
        self.state.listening.load(Ordering::Acquire)
    }

    /// Whether the engine has said, or shown by leaving, that it is gone.
    pub(crate) fn engine_is_gone(&self) -> bool {
        self.state.engine_is_gone.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
struct Registration {
    id: RequestId,
    choice: usize,
    meter: RequestMeter,
    events: mpsc::UnboundedSender<StreamEvent>,
}

#[derive(Debug)]
enum HubMessage {
    Step(StepOutputs),
    EngineDied(Arc<EngineFault>),
    Register(Box<Registration>),
    Detach(RequestId),
    Forget(RequestId),
    Close,
}
