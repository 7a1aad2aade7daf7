//! One destination's worker: takes batches from its backlog and sends them, one after the other.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::RetryPolicy;
use crate::batch::Batch;
use crate::caught::caught_future;
use crate::convert::Converter;
use crate::counters::{DestinationCounters, DropCause};
use crate::failure_log::FailureLog;
use crate::transport::{SendError, SendErrorKind, Transport};

/// How often one batch is tried when the server is ending.
const ATTEMPTS_AT_THE_END: u32 = 3;
/// The longest wait between them.
const MAX_BACKOFF_AT_THE_END: Duration = Duration::from_secs(1);

pub(crate) struct Worker {
    pub(crate) transport: Transport,
    pub(crate) backlog: mpsc::UnboundedReceiver<Arc<Batch>>,
    pub(crate) converter: Arc<Converter>,
    pub(crate) account: Arc<DestinationCounters>,
    pub(crate) retry: RetryPolicy,
    /// Up to how many spans, batches that wait are sent together.
    pub(crate) max_batch_spans: usize,
    /// Whether the server is ending.
    pub(crate) draining: watch::Receiver<bool>,
    pub(crate) log: FailureLog,
}

impl Worker {
    /// Works until the backlog is closed and empty.
    pub(crate) async fn run(mut self) {
        let mut is_given_up = false;
        let mut next = None;
        loop {
            let Some(batch) = (match next.take() {
                Some(batch) => Some(batch),
                None => self.backlog.recv().await,
            }) else {
                break;
            };
            let batch = self.with_followers(batch, &mut next);
            if is_given_up {
                // The destination did not answer at the end of the server: what is left has no better chance.
                self.account.settle(0, Some((DropCause::Shutdown, batch.spans())));
                continue;
            }
            is_given_up = self.deliver(&batch).await == Delivery::GivenUpAtTheEnd;
        }
    }

    /// The batch, together with as many of the next ones as fit: where few journeys end, batches are small, and
    /// a destination that comes back shall not be asked a thousand times. What did not fit is the `next` one.
    fn with_followers(&mut self, mut batch: Arc<Batch>, next: &mut Option<Arc<Batch>>) -> Arc<Batch> {
        while let Ok(follower) = self.backlog.try_recv() {
            if !batch.fits_with(&follower, self.max_batch_spans) {
                *next = Some(follower);
                break;
            }
            Arc::make_mut(&mut batch).append(&follower);
        }
        batch
    }

    async fn deliver(&mut self, batch: &Batch) -> Delivery {
        let spans = batch.spans();
        let started = Instant::now();
        let (mut failed_attempts, mut attempts_at_the_end) = (0, 0);
        loop {
            let is_draining = *self.draining.borrow_and_update();
            attempts_at_the_end += u32::from(is_draining);
            let attempt = async { self.transport.send(self.converter.message(batch)).await };
            let result = caught_future(attempt).await;
            let result = result.unwrap_or_else(|panicked| Err(SendError::failed(panicked.to_string())));
            let error = match result {
                Ok(accepted) => {
                    let rejected = accepted.rejected_spans.min(spans);
                    self.account.settle(spans - rejected, Some((DropCause::PartialSuccess, rejected)));
                    if rejected > 0 || !accepted.message.is_empty() {
                        self.log.failed(&format!("{rejected} spans rejected: {}", accepted.message));
                    } else {
                        self.log.succeeded();
                    }
                    return Delivery::Settled;
                }
                Err(error) => error,
            };
            let SendError { kind, status, reason } = error;
            self.account.add_failure(&status);
            let retry_after = match kind {
                SendErrorKind::Retryable { retry_after } => retry_after,
                SendErrorKind::Tls => None,
                SendErrorKind::Refused => return self.lose(DropCause::Refused, spans, &reason),
                SendErrorKind::Failed => return self.lose(DropCause::GaveUp, spans, &reason),
            };
            failed_attempts += 1;
            let backoff = self.retry.backoff(failed_attempts, retry_after);
            if attempts_at_the_end >= ATTEMPTS_AT_THE_END {
                self.lose(DropCause::Shutdown, spans, &reason);
                return Delivery::GivenUpAtTheEnd;
            }
            if !is_draining && started.elapsed().saturating_add(backoff) > self.retry.give_up_after {
                return self.lose(DropCause::GaveUp, spans, &reason);
            }
            self.log.failed(&reason);
            self.account.add_retry();
            self.wait(backoff).await;
        }
    }

    /// Waits before the next attempt; the end of the server cuts the wait short.
    async fn wait(&mut self, backoff: Duration) {
        if *self.draining.borrow() {
            tokio::time::sleep(backoff.min(MAX_BACKOFF_AT_THE_END)).await;
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            _ = self.draining.changed() => {}
        }
    }

    fn lose(&mut self, cause: DropCause, spans: u64, reason: &str) -> Delivery {
        self.account.settle(0, Some((cause, spans)));
        self.log.failed(reason);
        Delivery::Settled
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Delivery {
    /// Taken or lost; the next batch may fare better.
    Settled,
    /// Lost, and there is no time for the others.
    GivenUpAtTheEnd,
}
