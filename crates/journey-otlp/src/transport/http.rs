//! OTLP over HTTP, with protobuf or JSON bodies.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, USER_AGENT as USER_AGENT_HEADER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;

use super::rpc_status;
use super::tls::{HttpVersion, connector, plain_connector};
use super::{Accepted, SendError, SendErrorKind, USER_AGENT, timed_out, unreachable};
use crate::config::{Collector, Compression};
use crate::json;

/// An answer holds a number and a sentence; of more we read no further.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// As much of a collector's explanation as belongs in a log line.
const MAX_EXPLANATION_CHARACTERS: usize = 200;

/// The form of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Protobuf,
    Json,
}

#[derive(Debug)]
pub(crate) struct HttpTransport {
    client: HttpClient,
    uri: Uri,
    headers: HeaderMap,
    encoding: Encoding,
    compression: Compression,
    timeout: Duration,
}

#[derive(Debug)]
enum HttpClient {
    PlainText(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl HttpClient {
    fn request(&self, request: Request<Full<Bytes>>) -> ResponseFuture {
        match self {
            HttpClient::PlainText(client) => client.request(request),
            HttpClient::Tls(client) => client.request(request),
        }
    }
}

impl HttpTransport {
    pub(super) fn new(collector: Collector, encoding: Encoding) -> Self {
        let Collector { endpoint, headers, timeout, compression, tls, .. } = collector;
        let mut headers = HeaderMap::from_iter(headers);
        let content_type = match encoding {
            Encoding::Protobuf => "application/x-protobuf",
            Encoding::Json => "application/json",
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(USER_AGENT_HEADER, HeaderValue::from_static(USER_AGENT));
        if compression == Compression::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let builder = Client::builder(TokioExecutor::new());
        let client = match tls {
            Some(tls) => HttpClient::Tls(builder.build(connector(&tls, HttpVersion::One))),
            None => HttpClient::PlainText(builder.build(plain_connector())),
        };
        Self { client, uri: endpoint.uri().clone(), headers, encoding, compression, timeout }
    }

    pub(super) async fn send(&mut self, message: ExportTraceServiceRequest) -> Result<Accepted, SendError> {
        let body = self.body(&message)?;
        drop(message);
        tokio::time::timeout(self.timeout, self.exchange(body))
            .await
            .unwrap_or_else(|_| Err(timed_out(self.timeout)))
    }

    fn body(&self, message: &ExportTraceServiceRequest) -> Result<Bytes, SendError> {
        let body = match self.encoding {
            Encoding::Protobuf => message.encode_to_vec(),
            Encoding::Json => json::body(message).map_err(|error| SendError::failed(error.to_string()))?,
        };
        match self.compression {
            Compression::None => Ok(body.into()),
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                let packed = encoder.write_all(&body).and_then(|()| encoder.finish());
                packed.map(Bytes::from).map_err(|error| SendError::failed(error.to_string()))
            }
        }
    }

    async fn exchange(&self, body: Bytes) -> Result<Accepted, SendError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let response = self.client.request(request).await.map_err(|error| unreachable(&error))?;
        let (head, body) = response.into_parts();
        let answer = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        // What cannot be read only hides a remark: the status has been decided.
        let answer = answer.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
        if head.status.is_success() {
            let answer = match self.encoding {
                Encoding::Protobuf => ExportTraceServiceResponse::decode(answer).ok(),
                Encoding::Json => json::read_answer(&answer),
            };
            return Ok(answer.map_or_else(Accepted::default, Accepted::from_response));
        }
        Err(failure(&Response::from_parts(head, answer)))
    }
}

/// Which failures may be tried again.
/// Source: <https://opentelemetry.io/docs/specs/otlp/#failures-1>, the list of retryable status codes.
fn failure(response: &Response<Bytes>) -> SendError {
    let status = response.status();
    let reason = format!("HTTP {status}{}", explanation(response));
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            SendErrorKind::Retryable { retry_after: retry_after(response.headers()) }
        }
        _ => SendErrorKind::Refused,
    };
    SendError::new(kind, status.as_u16().to_string(), reason)
}

/// What the collector says about a failure: the message of a `google.rpc.Status`, or a text.
fn explanation(response: &Response<Bytes>) -> String {
    let content_type =
        response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let body = response.body();
    let text = if content_type.starts_with("application/x-protobuf") {
        rpc_status::message(body)
    } else if content_type.starts_with("application/json") || content_type.starts_with("text/plain") {
        Some(String::from_utf8_lossy(body).into_owned())
    } else {
        None
    };
    let text = text.unwrap_or_default();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = line.chars().take(MAX_EXPLANATION_CHARACTERS).collect();
    if short.is_empty() { short } else { format!(": {short}") }
}

/// `Retry-After` in seconds. Its other form, a date, needs a wall clock that agrees with the collector's; our
/// own backoff serves as well.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}
