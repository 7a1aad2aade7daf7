//! A destination that does what a test wants.

use std::fmt;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

use super::{Accepted, SendError};

type Behaviour = Arc<dyn Fn(&ExportTraceServiceRequest) -> Result<Accepted, SendError> + Send + Sync>;

/// Hands every message to a function, on a thread of the runtime's pool as a file does. When the function panics, so
/// does the attempt.
pub(crate) struct FaultyTransport(Behaviour);

impl FaultyTransport {
    pub(crate) fn new(
        behaviour: impl Fn(&ExportTraceServiceRequest) -> Result<Accepted, SendError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(behaviour))
    }

    pub(super) async fn send(&mut self, message: ExportTraceServiceRequest) -> Result<Accepted, SendError> {
        let behaviour = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || behaviour(&message)).await.unwrap()
    }
}

impl fmt::Debug for FaultyTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FaultyTransport").finish_non_exhaustive()
    }
}
