//! OTLP/HTTP with protobuf bodies.

use std::net::TcpListener;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use super::{Receiver, Refusal, Transport};

const MAX_BODY_BYTES: usize = 64 << 20;
const PROTOBUF: (HeaderName, HeaderValue) =
    (CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));

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
    if headers.get(CONTENT_TYPE) != Some(&PROTOBUF.1) {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let header_texts = headers
        .iter()
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_string())))
        .collect();
    match receiver.receive(Transport::Http, uri.path(), header_texts, request) {
        Ok(response) => ([PROTOBUF], response.encode_to_vec()).into_response(),
        Err(refusal) => refused(&refusal),
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
