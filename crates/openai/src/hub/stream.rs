//! One request's outputs, and the duty to tell the engine when nobody wants them any more.

use std::sync::Arc;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::sync::mpsc;
use wayfare_engine::{AbortCause, Engine, EngineRequest, RequestId, SequenceOutput, SubmitError};

use crate::metrics::RequestMeter;

use super::HubHandle;

/// Something that happened to one of a request's sequences, or to all of them.
#[derive(Clone, Debug)]
pub(crate) enum StreamEvent {
    /// The engine has produced something.
    Output {
        /// Which choice of the request it is for.
        choice: usize,
        /// What.
        output: SequenceOutput,
    },
    /// The engine is gone; nothing follows.
    EngineDied,
    /// The server ends what still runs; nothing follows.
    ShutDown,
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
}

impl OutputStream {
    pub(crate) fn new(engine: Arc<dyn Engine>, hub: HubHandle) -> Self {
        let (tx, rx) = mpsc::unbounded_channel();
        Self { engine, hub, tx: Some(tx), rx, open: SmallVec::new(), cause: AbortCause::ClientGone }
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

    /// All choices are submitted.
    pub(crate) fn seal(&mut self) {
        self.tx = None;
    }

    /// The next event. Only after [`OutputStream::seal`], and not to be polled again after the last sequence has ended.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<StreamEvent> {
        let event = std::task::ready!(self.rx.poll_recv(cx)).unwrap_or(StreamEvent::EngineDied);
        match &event {
            StreamEvent::Output { choice, output } if output.finish.is_some() => {
                if let Some(open) = self.open.get_mut(*choice) {
                    *open = None;
                }
            }
            StreamEvent::Output { .. } => {}
            // The engine needs not be told of its own death.
            StreamEvent::EngineDied => self.open.clear(),
            StreamEvent::ShutDown => self.cause = AbortCause::Shutdown,
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

    /// What remains is aborted because of a failure on our side.
    pub(crate) fn fail(&mut self) {
        self.cause = AbortCause::ServerError;
    }
}

impl Drop for OutputStream {
    fn drop(&mut self) {
        let cause = if std::thread::panicking() { AbortCause::ServerError } else { self.cause };
        for id in self.open.iter().flatten() {
            self.hub.detach(*id);
            self.engine.abort(*id, cause);
        }
    }
}
