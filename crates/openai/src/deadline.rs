//! The moment at which a request's time is up.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::ApiError;
use crate::journey_layer::RequestContext;
use crate::server::AppState;

/// When a request that arrived at a known time has taken as long as it may.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    /// The deadline of a request; `None` when the server sets no limit.
    pub(crate) fn of(state: &AppState, context: &RequestContext) -> Option<Self> {
        let limit = state.limits.request_timeout?;
        let elapsed = Duration::from_nanos(state.clock.now().since(context.arrived));
        // A limit beyond what an instant can hold is none.
        let at = Instant::now().checked_add(limit.saturating_sub(elapsed))?;
        Some(Self { at, limit })
    }

    /// When it is.
    pub(crate) fn at(self) -> Instant {
        self.at
    }

    /// How long requests may take.
    pub(crate) fn limit(self) -> Duration {
        self.limit
    }

    pub(crate) fn time_left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// What the client is told when it has passed.
    pub(crate) fn error(self) -> ApiError {
        ApiError::TimedOut { limit: self.limit }
    }
}

/// Waits for `work`, but not beyond the deadline.
pub(crate) async fn within<T>(
    deadline: Option<Deadline>,
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    match deadline {
        None => work.await,
        Some(deadline) => tokio::time::timeout_at(deadline.at, work).await.unwrap_or(Err(deadline.error())),
    }
}
