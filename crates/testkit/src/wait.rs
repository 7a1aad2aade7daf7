//! Waiting for something that another thread does.

use std::thread;
use std::time::Duration;

use wayfare_journey::{Clock, SystemClock};

const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not hold within `timeout`.
#[track_caller]
pub fn wait_until(timeout: Duration, mut condition: impl FnMut() -> bool) {
    assert!(poll_until(timeout, || condition().then_some(())).is_some(), "not so within {timeout:?}");
}

/// Asks until there is an answer, or `None` when there is none within `timeout`.
pub(crate) fn poll_until<T>(timeout: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = SystemClock.now();
    loop {
        // Read before asking: the last question is put after the time is up, however slow the machine.
        let is_last = u128::from(SystemClock.now().since(start)) >= timeout.as_nanos();
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if is_last {
            return None;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_what_comes_and_gives_up_on_what_does_not() {
        let mut asked = 0;
        wait_until(Duration::from_secs(5), || {
            asked += 1;
            asked == 3
        });
        assert_eq!(poll_until(Duration::from_millis(5), || None::<()>), None);
    }
}
