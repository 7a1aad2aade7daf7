//! Asking the server.

use std::time::Duration;

use serde::Deserialize;

use crate::TopOptions;
use crate::model::Live;

const TIMEOUT: Duration = Duration::from_secs(10);
/// More than the most requests that are asked for take.
const MAX_BYTES: u64 = 64 << 20;

/// Why the server did not say what is in flight.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody answered.
    #[error("{url} does not answer: {reason}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the transport says.
        reason: String,
    },
    /// The answer was an error.
    #[error("{url} answers {status}: {message}")]
    Refused {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server says.
        message: String,
    },
    /// The answer was something else.
    #[error("{url} is not the live view of a wayfare server: {reason}")]
    NotLive {
        /// What was asked for.
        url: String,
        /// What does not fit.
        reason: String,
    },
}

#[derive(Debug)]
pub(crate) struct Client {
    agent: ureq::Agent,
    url: String,
    authorization: Option<String>,
}

impl Client {
    pub(crate) fn new(options: &TopOptions) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT));
        let address = options.url.trim_end_matches('/');
        let scheme = if address.contains("://") { "" } else { "http://" };
        Self {
            agent: config.build().into(),
            url: format!("{scheme}{address}/journeys/live"),
            authorization: options.api_key.as_ref().map(|key| format!("Bearer {key}")),
        }
    }

    pub(crate) fn fetch(&self) -> Result<Live, FetchError> {
        let url = self.url.clone();
        let unreachable =
            |error: ureq::Error| FetchError::Unreachable { url: url.clone(), reason: error.to_string() };
        let mut request = self.agent.get(&self.url);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let mut response = request.call().map_err(unreachable)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(MAX_BYTES).read_to_vec().map_err(unreachable)?;
        if status != 200 {
            let message = message_of(&body);
            return Err(FetchError::Refused { url, status, message });
        }
        serde_json::from_slice(&body).map_err(|error| FetchError::NotLive { url, reason: error.to_string() })
    }
}

fn message_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: Problem,
    }
    #[derive(Deserialize)]
    struct Problem {
        message: String,
    }
    let refusal: Option<Refusal> = serde_json::from_slice(body).ok();
    refusal.map_or_else(|| "no reason is given".to_owned(), |refusal| refusal.error.message)
}
