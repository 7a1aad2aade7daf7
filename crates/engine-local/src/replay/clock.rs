//! The time of a replay.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wayfare_journey::{Clock, MonoNs};

/// A clock that stands still until the replay moves it. Clones show the same time.
#[derive(Clone, Debug)]
pub struct VirtualClock(Arc<AtomicU64>);

impl VirtualClock {
    /// When a replay begins; not zero, so that no time of it looks like none.
    pub const START: MonoNs = MonoNs(1_000_000_000);

    /// A clock at the beginning.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(Self::START.0)))
    }

    pub(super) fn set(&self, now: MonoNs) {
        self.0.store(now.0, Ordering::Relaxed);
    }
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> MonoNs {
        MonoNs(self.0.load(Ordering::Relaxed))
    }
}
