//! Reading a request's body within limits.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::deadline::Deadline;
use crate::error::ApiError;
use crate::server::AppState;

/// The whole body of a request that must carry JSON.
pub(crate) async fn read_json(
    state: &AppState,
    headers: &HeaderMap,
    body: Body,
    deadline: Option<Deadline>,
) -> Result<Bytes, ApiError> {
    check_media_type(headers)?;
    let limits = &state.limits;
    let too_large = || ApiError::BodyTooLarge { limit: limits.max_body_bytes };
    // A body that says how large it is need not be read to be refused.
    if body.size_hint().lower() > u64::try_from(limits.max_body_bytes).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    let time_left = deadline.map_or(Duration::MAX, |deadline| deadline.time_left());
    let (limit, wait) = match deadline {
        Some(deadline) if time_left < limits.body_timeout => (deadline.limit(), time_left),
        _ => (limits.body_timeout, limits.body_timeout),
    };
    let whole = Limited::new(body, limits.max_body_bytes).collect();
    tokio::select! {
        read = tokio::time::timeout(wait, whole) => match read {
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(_)) => Err(ApiError::BodyIncomplete),
            Err(_) => Err(ApiError::BodyTimeout { limit }),
        },
        () = state.shutdown.closed() => Err(ApiError::ShuttingDown),
    }
}

/// JSON, or nothing said about it.
fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    if let Some(content_type) = text(header::CONTENT_TYPE) {
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_json = media_type == "application/json"
            || (media_type.starts_with("application/") && media_type.ends_with("+json"));
        if !is_json {
            return Err(ApiError::UnsupportedMediaType {
                content_type: media_type.chars().take(64).collect(),
            });
        }
    }
    match text(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.eq_ignore_ascii_case("identity") => {
            Err(ApiError::UnsupportedEncoding { encoding: encoding.chars().take(64).collect() })
        }
        _ => Ok(()),
    }
}
