//! OTLP over HTTP with protobuf bodies.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT as USER_AGENT_HEADER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;

use super::{Accepted, SendError, USER_AGENT, timed_out, with_causes};
use crate::config::Endpoint;

/// An answer holds a number and a sentence; of more we read no further.
const MAX_ANSWER_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct HttpTransport {
    client: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
    timeout: Duration,
}

impl HttpTransport {
    pub(super) fn new(
        endpoint: &Endpoint,
        extra_headers: Vec<(HeaderName, HeaderValue)>,
        timeout: Duration,
    ) -> Self {
        let mut headers = HeaderMap::from_iter(extra_headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(USER_AGENT_HEADER, HeaderValue::from_static(USER_AGENT));
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Self { client, uri: endpoint.uri().clone(), headers, timeout }
    }

    pub(super) async fn send(&mut self, message: ExportTraceServiceRequest) -> Result<Accepted, SendError> {
        let body = Bytes::from(message.encode_to_vec());
        drop(message);
        tokio::time::timeout(self.timeout, self.exchange(body))
            .await
            .unwrap_or_else(|_| Err(timed_out(self.timeout)))
    }

    async fn exchange(&self, body: Bytes) -> Result<Accepted, SendError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let unreachable = |error: &dyn std::error::Error| SendError::Retryable {
            reason: with_causes(error),
            retry_after: None,
        };
        let response = self.client.request(request).await.map_err(|error| unreachable(&error))?;

        let status = response.status();
        if status.is_success() {
            // Accepted is accepted, whatever follows: an answer that cannot be read only hides a remark.
            let answer = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            let answer = answer.map(|body| ExportTraceServiceResponse::decode(body.to_bytes()));
            return Ok(match answer {
                Ok(Ok(answer)) => Accepted::from_response(answer),
                Ok(Err(_)) | Err(_) => Accepted::default(),
            });
        }
        Err(failure(status, response.headers()))
    }
}

/// Which failures may be tried again.
/// Source: <https://opentelemetry.io/docs/specs/otlp/#failures-1>, the list of retryable status codes.
fn failure(status: StatusCode, headers: &HeaderMap) -> SendError {
    let reason = format!("HTTP {status}");
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => SendError::Retryable { reason, retry_after: retry_after(headers) },
        _ => SendError::Refused { reason },
    }
}

/// `Retry-After` in seconds. Its other form, a date, needs a wall clock that agrees with the collector's; our
/// own backoff serves as well.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}
