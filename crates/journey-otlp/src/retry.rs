//! When to try again.

use std::time::Duration;

/// Bounded exponential backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// About how long to wait before the second attempt.
    pub first_backoff: Duration,
    /// The longest wait, unless the destination asks for a longer one.
    pub max_backoff: Duration,
    /// How long one batch is tried, from its first attempt to the start of its last one. A batch is given up
    /// at once when the destination asks for a longer wait than is left.
    pub give_up_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first_backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(10),
            give_up_after: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// How long to wait after so many failed attempts (at least 1): a doubling time of which a random part is
    /// taken off, so that many servers do not come back at once, or longer when the destination asks for it.
    pub(crate) fn backoff(&self, failed_attempts: u32, asked_for: Option<Duration>) -> Duration {
        let doublings = failed_attempts.saturating_sub(1).min(16);
        let longest = self.first_backoff.saturating_mul(1 << doublings).min(self.max_backoff);
        let usual = longest.mul_f64(rand::random_range(0.5..=1.0));
        asked_for.map_or(usual, |asked_for| asked_for.max(usual))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_bounds() {
        let policy = RetryPolicy::default();
        for attempt in 1..200 {
            let backoff = policy.backoff(attempt, None);
            let longest =
                policy.first_backoff.saturating_mul(1 << (attempt - 1).min(16)).min(policy.max_backoff);
            assert!(backoff >= longest / 2 && backoff <= longest, "{attempt}: {backoff:?}");
        }
    }

    #[test]
    fn the_destination_may_ask_for_a_longer_wait_but_not_for_none() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.backoff(1, Some(Duration::from_secs(30))), Duration::from_secs(30));
        assert!(policy.backoff(1, Some(Duration::ZERO)) >= policy.first_backoff / 2);
    }
}
