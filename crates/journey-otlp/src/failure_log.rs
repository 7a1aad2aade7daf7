//! Saying what goes wrong, but not over and over.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::counters::DestinationCounters;

/// Lets something be said at once, and then at most once per interval.
#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    last: Option<Instant>,
}

impl RateLimit {
    const INTERVAL: Duration = Duration::from_secs(30);

    pub(crate) fn allows(&mut self) -> bool {
        let now = Instant::now();
        let is_allowed = self.last.is_none_or(|last| now.duration_since(last) >= Self::INTERVAL);
        if is_allowed {
            self.last = Some(now);
        }
        is_allowed
    }
}

/// Says what goes wrong with one destination, with the counts.
#[derive(Debug)]
pub(crate) struct FailureLog {
    account: Arc<DestinationCounters>,
    limit: RateLimit,
    failures: u64,
    has_complained: bool,
}

impl FailureLog {
    pub(crate) fn new(account: Arc<DestinationCounters>) -> Self {
        Self { account, limit: RateLimit::default(), failures: 0, has_complained: false }
    }

    pub(crate) fn failed(&mut self, reason: &str) {
        self.failures += 1;
        if !self.limit.allows() {
            return;
        }
        tracing::warn!(
            destination = self.account.name(),
            failures = self.failures,
            spans_sent = self.account.exported(),
            spans_lost = self.account.dropped_total(),
            spans_waiting = self.account.pending(),
            "journeys cannot be exported: {reason}"
        );
        self.failures = 0;
        self.has_complained = true;
    }

    /// Says that it is over, when it was said that it had begun.
    pub(crate) fn succeeded(&mut self) {
        if std::mem::take(&mut self.has_complained) {
            tracing::info!(destination = self.account.name(), "journeys are exported again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_said_at_once_and_then_once_per_interval() {
        let mut limit = RateLimit::default();
        let mut said = Vec::new();
        for second in 0..70 {
            if limit.allows() {
                said.push(second);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(said, [0, 30, 60]);
    }
}
