//! From an engine core's monotonic clock to ours.
//!
//! On one host both are the same clock (`CLOCK_MONOTONIC`, which Python's `time.monotonic()` reads). From another
//! host, the least difference between the time a message carries and the time it came is taken for the difference
//! between the clocks: it is that and the fastest delivery together. Clocks drift, so only the last minutes count.

use wayfare_journey::{ClockSource, MonoNs};

/// For how long a least difference counts, at least; twice as long at most.
const WINDOW_NS: u64 = 30_000_000_000;

/// How an engine core's times become ours.
#[derive(Clone, Debug)]
pub(crate) enum ClockMap {
    /// It reads the same clock.
    SameHost,
    /// The difference is estimated.
    Estimated(Offset),
}

/// What must be added to the engine core's nanoseconds, as the least of two windows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offset {
    window_began: MonoNs,
    current: Option<i128>,
    previous: Option<i128>,
}

impl Offset {
    fn observe(&mut self, sent_ns: i128, received: MonoNs) {
        if self.current.is_none() || received.since(self.window_began) > WINDOW_NS {
            self.previous = self.current.take();
            self.window_began = received;
        }
        let difference = i128::from(received.0) - sent_ns;
        self.current = Some(self.current.map_or(difference, |least| least.min(difference)));
    }

    fn get(&self) -> i128 {
        match (self.previous, self.current) {
            (Some(previous), Some(current)) => previous.min(current),
            (one, other) => one.or(other).unwrap_or(0),
        }
    }
}

impl ClockMap {
    pub(crate) fn new(same_host: bool) -> Self {
        if same_host { ClockMap::SameHost } else { ClockMap::Estimated(Offset::default()) }
    }

    pub(crate) fn source(&self) -> ClockSource {
        match self {
            ClockMap::SameHost => ClockSource::EngineSameHost,
            ClockMap::Estimated(_) => ClockSource::Estimated,
        }
    }

    /// A message that was sent at `sent_seconds` of the engine core's clock has come.
    pub(crate) fn observe(&mut self, sent_seconds: f64, received: MonoNs) {
        if let ClockMap::Estimated(offset) = self {
            offset.observe(nanoseconds(sent_seconds), received);
        }
    }

    /// Our time of a time of the engine core, which was not later than `received`.
    pub(crate) fn ours(&self, seconds: f64, received: MonoNs) -> MonoNs {
        let offset = match self {
            ClockMap::SameHost => 0,
            ClockMap::Estimated(offset) => offset.get(),
        };
        let ours = nanoseconds(seconds).saturating_add(offset).clamp(0, i128::from(received.0));
        // Between 0 and a number of 64 bits.
        MonoNs(ours as u64)
    }
}

/// Whole nanoseconds; the cast of a number that is too large gives the largest.
fn nanoseconds(seconds: f64) -> i128 {
    (seconds * 1e9).round() as i128
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn on_the_same_host_times_are_taken_as_they_are() {
        let mut map = ClockMap::new(true);
        map.observe(5.0, MonoNs(9 * SECOND));
        assert_eq!(map.ours(4.25, MonoNs(9 * SECOND)), MonoNs(4_250_000_000));
        // A message cannot have been sent after it came.
        assert_eq!(map.ours(9.5, MonoNs(9 * SECOND)), MonoNs(9 * SECOND));
        assert_eq!(map.ours(-1.0, MonoNs(9 * SECOND)), MonoNs(0));
    }

    #[test]
    fn elsewhere_the_fastest_message_of_the_last_minutes_tells_the_difference() {
        let mut map = ClockMap::new(false);
        // The other clock is 1000 s ahead; delivery takes 3, 1 and 2 ms.
        for (sent, received) in [(1001.0, 1_003_000_000), (1002.0, 2_001_000_000), (1003.0, 3_002_000_000)] {
            map.observe(sent, MonoNs(received));
        }
        assert_eq!(map.ours(1002.5, MonoNs(4 * SECOND)), MonoNs(2_501_000_000));
        // It drifts by 10 ms; the old differences are forgotten after two windows.
        for minute in 1..4 {
            let sent = 1000.0 + 60.0 * f64::from(minute);
            map.observe(sent, MonoNs(u64::try_from(minute).unwrap() * 60 * SECOND + 11_000_000));
        }
        assert_eq!(map.ours(1180.0, MonoNs(200 * SECOND)), MonoNs(180 * SECOND + 11_000_000));
    }

    #[test]
    fn wall_clock_times_are_only_another_difference() {
        let mut map = ClockMap::new(false);
        map.observe(1_780_000_000.0, MonoNs(50 * SECOND));
        assert_eq!(map.ours(1_779_999_999.5, MonoNs(50 * SECOND)), MonoNs(49_500_000_000));
        assert_eq!(map.ours(f64::MAX, MonoNs(50 * SECOND)), MonoNs(50 * SECOND));
    }
}
