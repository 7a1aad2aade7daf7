//! A journey in the store: one that this process has made, or one that was read back from a file.

use std::sync::Arc;

use serde_json::Value;
use wayfare_journey::{ApiEnding, FinishedJourney, RequestLabel, TraceId, WallAnchor};

use crate::json;
use crate::restored::RestoredJourney;

/// A finished journey that is kept.
#[derive(Clone, Debug)]
pub struct StoredJourney(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Made(FinishedJourney),
    Restored(Arc<RestoredJourney>),
}

impl From<FinishedJourney> for StoredJourney {
    fn from(journey: FinishedJourney) -> Self {
        Self(Kind::Made(journey))
    }
}

impl From<RestoredJourney> for StoredJourney {
    fn from(journey: RestoredJourney) -> Self {
        Self(Kind::Restored(Arc::new(journey)))
    }
}

impl StoredJourney {
    /// The journey, when this process has made it.
    #[must_use]
    pub fn made(&self) -> Option<&FinishedJourney> {
        match &self.0 {
            Kind::Made(journey) => Some(journey),
            Kind::Restored(_) => None,
        }
    }

    /// The response's id, when it had one.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        match &self.0 {
            Kind::Made(journey) => journey.cell().label().map(RequestLabel::as_str),
            Kind::Restored(journey) => journey.request_id.as_deref(),
        }
    }

    pub(crate) fn trace_id(&self) -> TraceId {
        match &self.0 {
            Kind::Made(journey) => journey.cell().context().trace_id,
            Kind::Restored(journey) => journey.trace_id,
        }
    }

    pub(crate) fn duration_ns(&self) -> u64 {
        match &self.0 {
            Kind::Made(journey) => journey.duration_ns(),
            Kind::Restored(journey) => journey.end_unix_ns - journey.start_unix_ns,
        }
    }

    pub(crate) fn end_unix_ns(&self, anchor: WallAnchor) -> u64 {
        match &self.0 {
            Kind::Made(journey) => anchor.unix_ns(journey.api().ended),
            Kind::Restored(journey) => journey.end_unix_ns,
        }
    }

    /// Why it was aborted; `None` when it was not.
    pub(crate) fn abort_reason(&self) -> Option<&str> {
        match &self.0 {
            Kind::Made(journey) => match &journey.api().ending {
                ApiEnding::Departed { .. } => None,
                ApiEnding::Aborted { reason, .. } => Some(reason.as_str()),
            },
            Kind::Restored(journey) => journey.abort_reason.as_deref(),
        }
    }

    pub(crate) fn is_preempted(&self) -> bool {
        match &self.0 {
            Kind::Made(journey) => journey.cores().any(|(_, core)| core.num_preemptions() > 0),
            Kind::Restored(journey) => journey.is_preempted,
        }
    }

    /// About how much memory it takes, in bytes, with everything that only it holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        match &self.0 {
            Kind::Made(journey) => journey.memory_bytes(),
            Kind::Restored(journey) => journey.memory_bytes(),
        }
    }

    /// With everything that was recorded.
    pub(crate) fn json(&self, anchor: WallAnchor) -> Value {
        match &self.0 {
            Kind::Made(journey) => json::journey(journey, anchor),
            Kind::Restored(journey) => journey.json(),
        }
    }
}
