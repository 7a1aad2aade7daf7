//! OTLP/gRPC.

use std::net::TcpListener;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use tonic::codec::CompressionEncoding;
use tonic::metadata::KeyAndValueRef;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

use super::{Receiver, Refusal, Transport};

pub(super) async fn serve(listener: TcpListener, receiver: Receiver) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("runs in a runtime");
    Server::builder()
        .add_service(
            TraceServiceServer::new(GrpcReceiver(receiver)).accept_compressed(CompressionEncoding::Gzip),
        )
        .serve_with_incoming(TcpIncoming::from(listener))
        .await
        .expect("a bound listener serves");
}

struct GrpcReceiver(Receiver);

#[tonic::async_trait]
impl TraceService for GrpcReceiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        tokio::time::sleep(self.0.delay()).await;
        let headers = request
            .metadata()
            .iter()
            .filter_map(|entry| match entry {
                KeyAndValueRef::Ascii(key, value) => Some((key.to_string(), value.to_str().ok()?.into())),
                KeyAndValueRef::Binary(..) => None,
            })
            .collect();
        match self.0.receive(Transport::Grpc, "", headers, request.into_inner()) {
            Ok(response) => Ok(Response::new(response)),
            Err(refusal) => Err(status(&refusal)),
        }
    }
}

fn status(refusal: &Refusal) -> Status {
    let (code, message) = (Code::from(refusal.grpc_code), "refused by the test");
    match refusal.retry_after {
        None => Status::new(code, message),
        Some(delay) => {
            let details = details_with_retry_info(refusal.grpc_code, delay);
            Status::with_details(code, message, details.encode_to_vec().into())
        }
    }
}

fn details_with_retry_info(code: i32, delay: Duration) -> RpcStatus {
    let delay = DurationMessage {
        seconds: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(delay.subsec_nanos()).unwrap_or(0),
    };
    let info = RetryInfo { retry_delay: Some(delay) };
    let detail =
        Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: info.encode_to_vec() };
    RpcStatus { code, message: "refused by the test".into(), details: vec![detail] }
}

/// `google.rpc.Status`, <https://github.com/googleapis/googleapis/blob/master/google/rpc/status.proto>.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<DurationMessage>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct DurationMessage {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}
