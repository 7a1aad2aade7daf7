//! Where requests are prepared.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::endpoint::Endpoint;
use crate::error::ApiError;

use super::{Prepared, Preparer};

/// Largest body that is prepared on the async runtime, in bytes. Tokenising takes 0.2 µs per byte, and 1 µs while
/// the tokeniser's cache of words is cold (measured with a vocabulary of 49 152), so this is about a millisecond;
/// handing the work to another thread costs a few hundredths of that.
const MAX_INLINE_BYTES: usize = 2 << 10;

/// What the fields that lead to a grammar have in their names. Compiling one takes too long for the async runtime.
const GRAMMAR_FIELDS: [&[u8]; 4] = [b"response_format", b"structured_outputs", b"guided_", b"tool_choice"];

fn may_have_grammar(body: &[u8]) -> bool {
    GRAMMAR_FIELDS.iter().any(|name| memchr::memmem::find(body, name).is_some())
}

/// Prepares small requests at once, large ones on a thread of their own, a few at a time.
#[derive(Debug)]
pub(crate) struct Workshop {
    preparer: Arc<Preparer>,
    places: Arc<Semaphore>,
}

impl Workshop {
    /// A workshop with places for `places` large requests; the others wait.
    pub(crate) fn new(preparer: Preparer, places: usize) -> Self {
        let places = places.clamp(1, Semaphore::MAX_PERMITS);
        Self { preparer: Arc::new(preparer), places: Arc::new(Semaphore::new(places)) }
    }

    /// Who prepares.
    pub(crate) fn preparer(&self) -> &Preparer {
        &self.preparer
    }

    /// Prepares a request without holding up the async runtime.
    pub(crate) async fn prepare(
        &self,
        endpoint: Endpoint,
        body: bytes::Bytes,
        own_seed: u64,
    ) -> Result<Prepared, ApiError> {
        if body.len() <= MAX_INLINE_BYTES && !may_have_grammar(&body) {
            return self.preparer.prepare(endpoint, &body, own_seed);
        }
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
            return Err(ApiError::Internal { detail: "the preparation is closed" });
        };
        let preparer = Arc::clone(&self.preparer);
        let prepared = tokio::task::spawn_blocking(move || {
            // Held by the work, not by the waiting request, which may be gone before the work is done.
            let _place = place;
            preparer.prepare(endpoint, &body, own_seed)
        });
        prepared.await.unwrap_or(Err(ApiError::Internal { detail: "preparing the request panicked" }))
    }
}
