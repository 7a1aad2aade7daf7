//! Monotonic time, and the one anchor that turns it into wall-clock time.

use std::fmt::Debug;

use rustix::time::{ClockId, clock_gettime};

/// A reading of the monotonic clock, in nanoseconds since an arbitrary start (boot, on Linux).
///
/// Readings of [`SystemClock`] are those of `CLOCK_MONOTONIC`, so they compare with the readings of other
/// processes on the same host (Python's `time.monotonic_ns()` among them).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonoNs(pub u64);

impl MonoNs {
    /// Nanoseconds from `earlier` to `self`; 0 if `earlier` is in fact later.
    #[must_use]
    pub fn since(self, earlier: MonoNs) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Seconds from `earlier` to `self`; 0 if `earlier` is in fact later.
    #[must_use]
    pub fn seconds_since(self, earlier: MonoNs) -> f64 {
        self.since(earlier) as f64 / 1e9
    }

    /// The reading as seconds, as the reference's `ts.monotonic` attributes carry it.
    #[must_use]
    pub fn as_seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

/// Where the program reads the time. Pure code takes a [`MonoNs`] argument instead.
pub trait Clock: Send + Sync + Debug {
    /// The current monotonic time. Never decreases.
    fn now(&self) -> MonoNs;
}

/// The operating system's monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> MonoNs {
        MonoNs(read_ns(ClockId::Monotonic))
    }
}

/// One pair of simultaneous readings, taken once per process, that maps monotonic to wall-clock time.
///
/// Because every wall-clock time is derived through the same pair, a clock that is stepped while the
/// process runs cannot produce a negative interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallAnchor {
    mono: MonoNs,
    unix_ns: u64,
}

impl WallAnchor {
    /// Reads both clocks now.
    #[must_use]
    pub fn capture() -> Self {
        Self::new(SystemClock.now(), read_ns(ClockId::Realtime))
    }

    /// An anchor from two given readings: a monotonic one and nanoseconds since the Unix epoch.
    #[must_use]
    pub fn new(mono: MonoNs, unix_ns: u64) -> Self {
        Self { mono, unix_ns }
    }

    /// The wall-clock time of a monotonic reading, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn unix_ns(&self, at: MonoNs) -> u64 {
        if at >= self.mono {
            self.unix_ns.saturating_add(at.since(self.mono))
        } else {
            self.unix_ns.saturating_sub(self.mono.since(at))
        }
    }
}

fn read_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + nanoseconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchor_maps_both_directions() {
        let anchor = WallAnchor::new(MonoNs(1_000), 50_000);
        assert_eq!(anchor.unix_ns(MonoNs(1_500)), 50_500);
        assert_eq!(anchor.unix_ns(MonoNs(400)), 49_400);
    }

    #[test]
    fn system_clock_does_not_go_back() {
        let first = SystemClock.now();
        let second = SystemClock.now();
        assert!(second >= first);
        assert!(first.0 > 0);
    }
}
