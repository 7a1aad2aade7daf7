//! OTLP/gRPC.

use std::time::Duration;

use http::HeaderMap;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::rpc_status::retry_delay;
use super::tls::{HttpVersion, connector};
use super::{Accepted, SendError, SendErrorKind, USER_AGENT, timed_out, unreachable};
use crate::config::{Collector, Compression};

#[derive(Debug)]
pub(crate) struct GrpcTransport {
    client: TraceServiceClient<Channel>,
    metadata: MetadataMap,
    timeout: Duration,
}

impl GrpcTransport {
    pub(super) fn new(collector: Collector) -> Self {
        let Collector { endpoint, headers, timeout, compression, tls, .. } = collector;
        let builder = Channel::builder(endpoint.uri().clone()).connect_timeout(timeout);
        let builder = match builder.clone().user_agent(USER_AGENT) {
            Ok(named) => named,
            Err(_) => builder,
        };
        let channel = match tls {
            Some(tls) => builder.connect_with_connector_lazy(connector(&tls, HttpVersion::Two)),
            None => builder.connect_lazy(),
        };
        let client = TraceServiceClient::new(channel);
        let client = match compression {
            Compression::None => client,
            Compression::Gzip => client.send_compressed(CompressionEncoding::Gzip),
        };
        let metadata = MetadataMap::from_headers(HeaderMap::from_iter(headers));
        Self { client, metadata, timeout }
    }

    pub(super) async fn send(&mut self, message: ExportTraceServiceRequest) -> Result<Accepted, SendError> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request.set_timeout(self.timeout);
        match tokio::time::timeout(self.timeout, self.client.export(request)).await {
            Err(_) => Err(timed_out(self.timeout)),
            Ok(Ok(response)) => Ok(Accepted::from_response(response.into_inner())),
            Ok(Err(status)) => Err(failure(&status)),
        }
    }
}

/// Which failures may be tried again.
/// Source: <https://opentelemetry.io/docs/specs/otlp/#failures>, the table of retryable codes.
fn failure(status: &Status) -> SendError {
    // Only a status that was made on this side has a cause: the connection failed.
    if let Some(cause) = std::error::Error::source(status) {
        return unreachable(cause);
    }
    let retry_after = retry_delay(status.details());
    let is_retryable = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        // Only when the server says that it can recover.
        Code::ResourceExhausted => retry_after.is_some(),
        _ => false,
    };
    let code = format!("{:?}", status.code());
    let reason = format!("{code}: {}", status.message());
    let kind = if is_retryable { SendErrorKind::Retryable { retry_after } } else { SendErrorKind::Refused };
    SendError::new(kind, code, reason)
}
