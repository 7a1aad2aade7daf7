//! A panic as an error, so that it costs what it happened over and not the exporter's thread.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// Something panicked. The panic's hook has reported it with its place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bug of the exporter: {message}")]
pub(crate) struct Panicked {
    message: String,
}

impl Panicked {
    fn new(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let message = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self { message: message.unwrap_or("a panic without a message").to_owned() }
    }
}

/// Runs `work`, whose state the caller mends or gives up after a panic.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| Panicked::new(&*payload))
}

/// Runs `future` to its end; after a panic it is not polled again.
pub(crate) async fn caught_future<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    poll_fn(|context| match caught(|| future.as_mut().poll(context)) {
        Ok(polled) => polled.map(Ok),
        Err(panicked) => Poll::Ready(Err(panicked)),
    })
    .await
}
