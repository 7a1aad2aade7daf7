//! The server's way from serving to gone.

use std::sync::Arc;

use tokio::sync::watch;

use crate::hub::HubHandle;

/// How far the shutdown has come; it only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// New requests are refused, running ones go on.
    Draining,
    /// Running requests are ended too.
    Closing,
}

/// By which the binary takes a server out of service. Clones act on the same server.
#[derive(Clone, Debug)]
pub struct ShutdownHandle {
    phase: Arc<watch::Sender<Phase>>,
    hub: HubHandle,
}

impl ShutdownHandle {
    pub(crate) fn new(hub: HubHandle) -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Serving)), hub }
    }

    /// From now on `/health` answers 503 and new requests are refused with 503; those in flight go on.
    pub fn drain(&self) {
        self.advance(Phase::Draining);
    }

    /// The deadline has come: every request in flight gets an error, its journey ends ABORTED `shutdown`,
    /// and the engine is told to abort it. Includes [`ShutdownHandle::drain`].
    pub fn close(&self) {
        self.advance(Phase::Closing);
        self.hub.close();
    }

    /// Sequences that the engine works on and whose client still waits.
    #[must_use]
    pub fn sequences_in_flight(&self) -> usize {
        self.hub.listening()
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    pub(crate) fn is_closing(&self) -> bool {
        *self.phase.borrow() >= Phase::Closing
    }

    /// Returns when [`ShutdownHandle::close`] has been called.
    pub(crate) async fn closed(&self) {
        // The sender lives in `self`, so the wait ends by the phase only.
        let _ = self.phase.subscribe().wait_for(|phase| *phase >= Phase::Closing).await;
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let is_later = to > *phase;
            if is_later {
                *phase = to;
            }
            is_later
        });
    }
}
