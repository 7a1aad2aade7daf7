//! A clock that stands still until it is told to move.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wayfare_journey::{Clock, MonoNs};

/// A monotonic clock that is set by hand. Clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct VirtualClock(Arc<AtomicU64>);

impl VirtualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn at(now: MonoNs) -> Self {
        Self(Arc::new(AtomicU64::new(now.0)))
    }

    /// Moves the clock forward and gives the new time.
    pub fn advance(&self, by: Duration) -> MonoNs {
        let by_ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        MonoNs(self.0.fetch_add(by_ns, Ordering::SeqCst).wrapping_add(by_ns))
    }

    /// Sets the clock to `now`, unless it is later already: it never goes back.
    pub fn set(&self, now: MonoNs) {
        self.0.fetch_max(now.0, Ordering::SeqCst);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> MonoNs {
        MonoNs(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_time_and_it_never_goes_back() {
        let clock = VirtualClock::at(MonoNs(100));
        let other = clock.clone();
        assert_eq!(clock.advance(Duration::from_nanos(50)), MonoNs(150));
        other.set(MonoNs(120));
        assert_eq!(other.now(), MonoNs(150));
        other.set(MonoNs(500));
        assert_eq!(clock.now(), MonoNs(500));
    }
}
