//! What has changed since the last look.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};
use wayfare_journey::{ApiEnding, ApiRecord, FinishedJourney, JourneyCell, MonoNs, RequestKey, RequestLabel};

use super::request::{InFlight, LiveRequest};

/// How often at most a request is told of whose progress alone has changed.
const PROGRESS_INTERVAL_NS: u64 = 1_000_000_000;

/// What readers are told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LiveEvent {
    pub(crate) name: &'static str,
    pub(crate) data: Value,
}

/// What is known of a request in flight.
#[derive(Debug)]
struct Known {
    cell: Arc<JourneyCell>,
    signature: u64,
    progress: u64,
    told: MonoNs,
    /// It was not in flight at the last look, and nobody has said that it has ended.
    is_missing: bool,
}

/// Compares each look with the one before.
#[derive(Debug, Default)]
pub(crate) struct ChangeFinder {
    known: HashMap<RequestKey, Known>,
}

impl ChangeFinder {
    /// What has changed. `ended` are those that have ended since the look before; they were taken after this look,
    /// so a request may be in both.
    pub(crate) fn find(&mut self, in_flight: &InFlight, ended: Vec<FinishedJourney>) -> Vec<LiveEvent> {
        let mut events = Vec::new();
        let mut present: Vec<LiveRequest<'_>> = in_flight.iter().collect();
        // In the order in which it happened, as far as that is known.
        present.sort_by_key(|request| (request.changed(), request.cell.key()));
        let mut seen = std::collections::HashSet::with_capacity(present.len());
        for request in present {
            seen.insert(request.cell.key());
            if self.has_changed(&request, in_flight.now) {
                events.push(LiveEvent { name: "change", data: request.json() });
            }
        }
        for journey in ended {
            self.known.remove(&journey.cell().key());
            events.push(end(journey.cell(), Some(journey.api())));
        }
        // Who has left the registry will be among those that have ended at once, unless these were too many.
        self.known.retain(|key, known| {
            if seen.contains(key) {
                known.is_missing = false;
                return true;
            }
            if !std::mem::replace(&mut known.is_missing, true) {
                return true;
            }
            events.push(end(&known.cell, known.cell.response()));
            false
        });
        events
    }

    fn has_changed(&mut self, request: &LiveRequest<'_>, now: MonoNs) -> bool {
        let (signature, progress) = (request.signature(), request.progress());
        let Some(known) = self.known.get_mut(&request.cell.key()) else {
            let cell = Arc::clone(request.cell);
            let known = Known { cell, signature, progress, told: now, is_missing: false };
            self.known.insert(request.cell.key(), known);
            return true;
        };
        let is_time = || now.since(known.told) >= PROGRESS_INTERVAL_NS;
        let has_changed = known.signature != signature || (known.progress != progress && is_time());
        if has_changed {
            (known.signature, known.progress, known.told) = (signature, progress, now);
        }
        has_changed
    }
}

fn end(cell: &JourneyCell, api: Option<&ApiRecord>) -> LiveEvent {
    let status = api.map(|api| match api.ending {
        ApiEnding::Departed { .. } => "departed",
        ApiEnding::Aborted { .. } => "aborted",
    });
    let data = json!({
        "key": cell.key().0.to_string(),
        "request_id": cell.label().map(RequestLabel::as_str),
        "trace_id": cell.context().trace_id.to_string(),
        "status": status,
        "http_status": api.and_then(|api| api.status),
        "duration_ns": api.map(|api| api.ended.since(cell.arrived())),
    });
    LiveEvent { name: "end", data }
}
