//! One request's outputs, and the duty to tell the engine when nobody wants them any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use wayfare_engine::{AbortCause, Engine, EngineRequest, RequestId, SequenceOutput, SubmitError};
use wayfare_journey::MonoNs;

use crate::metrics::RequestMeter;

use super::HubHandle;

/// Something that happened to one of a request's sequences, or to all of them.
#[derive(Clone, Debug)]
pub(crate) enum StreamEvent {
    /// The engine has produced something.
    Output {
        /// Which choice of the request it is for.
        choice: usize,
        /// When the engine had it.
        at: MonoNs,
        /// What.
        output: SequenceOutput,
    },
    /// The engine is gone; nothing follows.
    EngineDied,
    /// The server ends what still runs; nothing follows.
    ShutDown,
    /// The request's time is up; nothing follows.
    TimedOut,
}

/// The outputs of all sequences of one request. A sequence that has not ended when this is dropped is
/// aborted in the engine.
#[derive(Debug)]
pub(crate) struct OutputStream {
    engine: Arc<dyn Engine>,
    hub: HubHandle,
    /// For further choices; `None` once all are submitted, so that the channel closes with the dispatcher.
    tx: Option<mpsc::UnboundedSender<StreamEvent>>,
    rx: mpsc::UnboundedReceiver<StreamEvent>,
    /// The sequences that have not ended, by choice.
    open: SmallVec<[Option<RequestId>; 1]>,
    /// What the engine is told when this is dropped early.
    cause: AbortCause,
    watch: Option<TimeWatch>,
}

/// Ends a request in the engine when its time is up, also while nobody polls its stream because the client
/// does not read. Stops watching when it is dropped.
#[derive(Debug)]
struct TimeWatch {
    is_over: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl TimeWatch {
    fn start(
        deadline: Instant,
        engine: Arc<dyn Engine>,
        ids: SmallVec<[RequestId; 1]>,
        tx: mpsc::UnboundedSender<StreamEvent>,
    ) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let raised = Arc::clone(&is_over);
        let task = tokio::spawn(async move {
            tokio::time::sleep_until(deadline).await;
            raised.store(true, Ordering::Release);
            let _ = tx.send(StreamEvent::TimedOut);
            for id in ids {
                engine.abort(id, AbortCause::Timeout);
            }
        });
        Self { is_over, task }
    }
}

impl Drop for TimeWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl OutputStream {
    pub(crate) fn new(engine: Arc<dyn Engine>, hub: HubHandle) -> Self {
        let (tx, rx) = mpsc::unbounded_channel();
        Self {
            engine,
            hub,
            tx: Some(tx),
            rx,
            open: SmallVec::new(),
            cause: AbortCause::ClientGone,
            watch: None,
        }
    }

    /// Hands the request's next choice to the engine. Waits for nothing.
    ///
    /// # Errors
    /// When the engine does not take it; choices submitted before stay open.
    pub(crate) fn submit(&mut self, request: EngineRequest, meter: RequestMeter) -> Result<(), SubmitError> {
        let (id, choice) = (request.id, self.open.len());
        // Before the submission, so that no output can come earlier than its registration.
        if let Some(tx) = &self.tx {
            self.hub.register(id, choice, meter, tx.clone());
        }
        match self.engine.submit(request) {
            Ok(()) => {
                self.open.push(Some(id));
                Ok(())
            }
            Err(error) => {
                self.hub.forget(id);
                Err(error)
            }
        }
    }

    /// All choices are submitted. They end at `deadline`, if there is one.
    pub(crate) fn seal(&mut self, deadline: Option<Instant>) {
        let Some(tx) = self.tx.take() else { return };
        let ids = self.open.iter().flatten().copied().collect();
        self.watch = deadline.map(|deadline| TimeWatch::start(deadline, Arc::clone(&self.engine), ids, tx));
    }

    /// Whether the engine had to be told that the time is up.
    pub(crate) fn has_timed_out(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.is_over.load(Ordering::Acquire))
    }

    /// Whether the engine has failed as a whole.
    pub(crate) fn engine_has_failed(&self) -> bool {
        self.engine.fault().is_some() || self.hub.engine_is_gone()
    }

    /// The next event. Only after [`OutputStream::seal`], and not to be polled again after the last sequence has ended.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<StreamEvent> {
        let event = std::task::ready!(self.rx.poll_recv(cx)).unwrap_or(StreamEvent::EngineDied);
        match &event {
            StreamEvent::Output { choice, output, .. } if output.finish.is_some() => {
                if let Some(open) = self.open.get_mut(*choice) {
                    *open = None;
                }
            }
            StreamEvent::Output { .. } => {}
            // The engine needs not be told of its own death.
            StreamEvent::EngineDied => self.open.clear(),
            StreamEvent::ShutDown => self.cause = AbortCause::Shutdown,
            // The engine has been told already.
            StreamEvent::TimedOut => {}
        }
        Poll::Ready(event)
    }

    /// A stop string was found in a choice: the engine ends the sequence as stopped.
    pub(crate) fn finish(&mut self, choice: usize) {
        if let Some(id) = self.open.get_mut(choice).and_then(Option::take) {
            self.hub.detach(id);
            self.engine.finish(id);
        }
    }

    /// A stop string was found in a choice: the engine ends the sequence as stopped, and its last output is still
    /// taken.
    pub(crate) fn finish_and_listen(&mut self, choice: usize) {
        if let Some(id) = self.open.get(choice).copied().flatten() {
            self.engine.finish(id);
        }
    }

    /// What remains is aborted because of a failure on our side.
    pub(crate) fn fail(&mut self) {
        self.cause = AbortCause::ServerError;
    }
}

impl Drop for OutputStream {
    fn drop(&mut self) {
        let cause = if std::thread::panicking() { AbortCause::ServerError } else { self.cause };
        let is_told = self.has_timed_out();
        for id in self.open.iter().flatten() {
            self.hub.detach(*id);
            if !is_told {
                self.engine.abort(*id, cause);
            }
        }
    }
}
