//! OTLP/HTTP with protobuf or JSON bodies, packed or not.

use std::io::Read as _;
use std::net::TcpListener;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;

use super::{Receiver, Refusal, Transport};

const MAX_BODY_BYTES: usize = 64 << 20;
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(super) async fn serve(listener: TcpListener, receiver: Receiver) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("runs in a runtime");
    let router = Router::new()
        .route("/v1/traces", post(export))
        .route("/custom/traces", post(export))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(receiver);
    axum::serve(listener, router).await.expect("a bound listener serves");
}

async fn export(State(receiver): State<Receiver>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    tokio::time::sleep(receiver.delay()).await;
    let is_json = headers.get(CONTENT_TYPE) == Some(&JSON);
    if !is_json && headers.get(CONTENT_TYPE) != Some(&PROTOBUF) {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let Some(request) = unpack(&headers, &body).and_then(|body| decode(&body, is_json)) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let header_texts = headers
        .iter()
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_string())))
        .collect();
    match receiver.receive(Transport::Http, uri.path(), header_texts, request) {
        Ok(response) if is_json => ([(CONTENT_TYPE, JSON)], json_answer(response)).into_response(),
        Ok(response) => ([(CONTENT_TYPE, PROTOBUF)], response.encode_to_vec()).into_response(),
        Err(refusal) => refused(&refusal),
    }
}

fn unpack(headers: &HeaderMap, body: &[u8]) -> Option<Vec<u8>> {
    match headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None => Some(body.to_vec()),
        Some(b"gzip") => {
            let mut unpacked = Vec::new();
            GzDecoder::new(body).take(MAX_BODY_BYTES as u64).read_to_end(&mut unpacked).ok()?;
            Some(unpacked)
        }
        Some(_) => None,
    }
}

fn decode(body: &[u8], is_json: bool) -> Option<ExportTraceServiceRequest> {
    if is_json { serde_json::from_slice(body).ok() } else { ExportTraceServiceRequest::decode(body).ok() }
}

/// With the number as a text, as the protobuf JSON mapping has it.
fn json_answer(response: ExportTraceServiceResponse) -> String {
    let partial_success = response.partial_success.map(|partial| {
        serde_json::json!({
            "rejectedSpans": partial.rejected_spans.to_string(),
            "errorMessage": partial.error_message,
        })
    });
    match partial_success {
        Some(partial_success) => serde_json::json!({ "partialSuccess": partial_success }).to_string(),
        None => "{}".to_owned(),
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.http_status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = status.into_response();
    if let Some(delay) = refusal.retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(delay.as_secs()));
    }
    response
}
