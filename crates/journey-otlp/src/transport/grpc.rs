//! OTLP/gRPC.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::rpc_status::retry_delay;
use super::{Accepted, SendError, USER_AGENT, timed_out, with_causes};
use crate::config::Endpoint;

#[derive(Debug)]
pub(crate) struct GrpcTransport {
    client: TraceServiceClient<Channel>,
    metadata: MetadataMap,
    timeout: Duration,
}

impl GrpcTransport {
    pub(super) fn new(
        endpoint: &Endpoint,
        headers: Vec<(HeaderName, HeaderValue)>,
        timeout: Duration,
    ) -> Self {
        let builder = Channel::builder(endpoint.uri().clone()).connect_timeout(timeout);
        let builder = match builder.clone().user_agent(USER_AGENT) {
            Ok(named) => named,
            Err(_) => builder,
        };
        let metadata = MetadataMap::from_headers(HeaderMap::from_iter(headers));
        Self { client: TraceServiceClient::new(builder.connect_lazy()), metadata, timeout }
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
    let cause = std::error::Error::source(status).map(with_causes);
    let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
    let reason = format!("{:?}: {}{cause}", status.code(), status.message());
    if is_retryable { SendError::Retryable { reason, retry_after } } else { SendError::Refused { reason } }
}
