use super::enough;
use crate::bench::driver::{Quantiles, Report};

/// A run as the driver tells it, of answers with 18 events.
pub(super) fn report(requests: u64, seconds: f64, server_cpu_seconds: f64) -> Report {
    let none = Quantiles { p50: 0.0, p99: 0.0, max: 0.0 };
    Report {
        requests,
        seconds,
        events: requests * 18,
        frames: requests,
        first_ms: none,
        whole_ms: none,
        server_cpu_seconds,
        driver_cpu_seconds: 0.0,
    }
}

#[test]
fn a_run_is_as_long_as_asked_in_whole_waves() {
    assert_eq!(enough(&report(500, 1.0, 0.0), 3, 64), 24 * 64);
    assert_eq!(enough(&report(1, 10.0, 0.0), 3, 64), 4 * 64);
}
