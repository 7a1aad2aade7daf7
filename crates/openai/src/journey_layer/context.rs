//! What the layer reads from a request's head, and what it passes on to handlers.

use std::sync::Arc;

use http::HeaderMap;
use smallvec::SmallVec;
use wayfare_journey::{IncomingHeaders, JourneyHandle, MonoNs};

/// Longest `x-request-id` that is taken over from a client, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 256;

/// Who a request is. In the extensions of every request.
#[derive(Clone, Debug)]
pub(crate) struct RequestContext {
    /// The client's `x-request-id`, or a generated one. Names the request for people; two requests may have
    /// the same.
    pub(crate) request_id: Arc<str>,
    /// When the head had been read.
    pub(crate) arrived: MonoNs,
    /// Where the handler reports what happens.
    pub(crate) journey: JourneyHandle,
}

/// The client's request id if it can be one, else 32 random hexadecimal digits.
pub(super) fn request_id(headers: &HeaderMap) -> Arc<str> {
    let given = headers.get("x-request-id").and_then(|value| value.to_str().ok());
    match given.filter(|id| is_request_id(id)) {
        Some(id) => Arc::from(id),
        None => format!("{:032x}", rand::random::<u128>()).into(),
    }
}

fn is_request_id(text: &str) -> bool {
    (1..=MAX_REQUEST_ID_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Reads the caller's trace context and passes it to `admit`.
pub(super) fn incoming_trace<T>(headers: &HeaderMap, admit: impl FnOnce(IncomingHeaders<'_>) -> T) -> T {
    let mut parents = headers.get_all("traceparent").iter();
    let traceparent = match (parents.next(), parents.next()) {
        (Some(only), None) => only.to_str().ok(),
        // W3C trace context 2, section 3.2: several `traceparent` headers are as good as none.
        _ => None,
    };
    let states = headers.get_all("tracestate").iter().map(|value| value.to_str());
    // A list that cannot be read whole is not passed on in part.
    let tracestate: SmallVec<[&str; 4]> = states.collect::<Result<_, _>>().unwrap_or_default();
    admit(IncomingHeaders { traceparent, tracestate: &tracestate })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn id_for(value: &[u8]) -> Arc<str> {
        let mut headers = HeaderMap::new();
        headers.insert("X-Request-Id", HeaderValue::from_bytes(value).unwrap());
        request_id(&headers)
    }

    #[test]
    fn a_fit_id_is_kept_and_another_replaced() {
        assert_eq!(&*id_for(b"abc-123"), "abc-123");
        for unfit in [&b""[..], b"with space", b"\xff\xfe", &[b'a'; 257]] {
            let id = id_for(unfit);
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        }
    }

    #[test]
    fn two_parents_are_none_and_states_are_all_read() {
        let mut headers = HeaderMap::new();
        headers.append("traceparent", HeaderValue::from_static("a"));
        headers.append("tracestate", HeaderValue::from_static("x=1"));
        headers.append("TraceState", HeaderValue::from_static("y=2"));
        incoming_trace(&headers, |incoming| {
            assert_eq!(incoming.traceparent, Some("a"));
            assert_eq!(incoming.tracestate, ["x=1", "y=2"]);
        });
        headers.append("traceparent", HeaderValue::from_static("b"));
        incoming_trace(&headers, |incoming| assert_eq!(incoming.traceparent, None));
    }
}
