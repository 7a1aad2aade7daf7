//! A place where finished journeys are kept for the test to look at.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use wayfare_journey::{Clock, FinishedJourney, HeadSampler, JourneySink, Tracer};

use crate::wait::poll_until;

/// Keeps every finished journey. Clones share what is kept.
#[derive(Clone, Debug, Default)]
pub struct JourneyStore(Arc<Mutex<Vec<FinishedJourney>>>);

impl JourneyStore {
    /// A tracer that records every request and keeps its journey here.
    #[must_use]
    pub fn tracer(&self, clock: impl Clock + 'static) -> Tracer {
        let everything = HeadSampler::new(1.0).expect("1 is a rate");
        Tracer::new(Arc::new(clock), everything, Arc::new(self.clone()))
    }

    /// Takes all that is kept, in the order of arrival.
    #[must_use]
    pub fn take(&self) -> Vec<FinishedJourney> {
        std::mem::take(&mut *self.0.lock())
    }

    /// How many journeys are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits for `count` journeys and takes all that are kept.
    ///
    /// # Panics
    /// When fewer arrive within `timeout`.
    #[track_caller]
    #[must_use]
    pub fn wait_for(&self, count: usize, timeout: Duration) -> Vec<FinishedJourney> {
        match poll_until(timeout, || (self.len() >= count).then(|| self.take())) {
            Some(journeys) => journeys,
            None => panic!("{} of {count} journeys within {timeout:?}", self.len()),
        }
    }
}

impl JourneySink for JourneyStore {
    fn accept(&self, journey: FinishedJourney) {
        self.0.lock().push(journey);
    }
}
