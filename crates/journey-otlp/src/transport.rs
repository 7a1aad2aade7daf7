//! The ways in which a message reaches a destination.

#[cfg(test)]
pub(crate) mod faulty;
mod file;
mod grpc;
mod http;
mod rpc_status;
mod tls;

use std::borrow::Cow;
use std::error::Error;
use std::io;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};

use crate::config::{Collector, Destination, Protocol};
use file::FileTransport;
use grpc::GrpcTransport;
use http::{Encoding, HttpTransport};

const USER_AGENT: &str = concat!("wayfare-journey-otlp/", env!("CARGO_PKG_VERSION"));

/// A destination that took a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Spans that it did not take after all.
    pub(crate) rejected_spans: u64,
    /// What it says about them, or a warning; empty when there is nothing to say.
    pub(crate) message: String,
}

impl Accepted {
    fn from_response(response: ExportTraceServiceResponse) -> Self {
        response.partial_success.map_or_else(Self::default, |partial| Self {
            rejected_spans: u64::try_from(partial.rejected_spans).unwrap_or(0),
            message: partial.error_message,
        })
    }
}

/// A destination that did not take a message.
#[derive(Debug)]
pub(crate) struct SendError {
    /// What to do about it.
    pub(crate) kind: SendErrorKind,
    /// What it said, as a label of few values: the gRPC code, the HTTP status, or what kept it from answering.
    pub(crate) status: Cow<'static, str>,
    /// All of it, in words.
    pub(crate) reason: String,
}

/// What to do about a failure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SendErrorKind {
    /// It may take the message later.
    Retryable {
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// No trust could be established. A certificate that is renewed mends that, so it may be tried again.
    Tls,
    /// It will never take the message.
    Refused,
    /// The message was lost on this side, and trying again could double a part of it.
    Failed,
}

impl SendError {
    fn new(kind: SendErrorKind, status: impl Into<Cow<'static, str>>, reason: String) -> Self {
        Self { kind, status: status.into(), reason }
    }

    /// A failure on this side.
    pub(crate) fn failed(reason: String) -> Self {
        Self::new(SendErrorKind::Failed, "local", reason)
    }
}

/// An open destination.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one per destination, for the life of the process")]
pub(crate) enum Transport {
    Grpc(GrpcTransport),
    Http(HttpTransport),
    File(FileTransport),
    #[cfg(test)]
    Faulty(faulty::FaultyTransport),
}

impl Transport {
    /// Opens a destination. Files are opened at once, connections are made when there is something to send.
    ///
    /// Must be called in a runtime.
    pub(crate) fn open(destination: Destination) -> io::Result<Self> {
        match destination {
            Destination::File { path, rotation, .. } => FileTransport::open(&path, rotation).map(Self::File),
            Destination::Collector(collector) => Ok(Self::of_collector(collector)),
        }
    }

    fn of_collector(collector: Collector) -> Self {
        match collector.protocol {
            Protocol::Grpc => Self::Grpc(GrpcTransport::new(collector)),
            Protocol::HttpProtobuf => Self::Http(HttpTransport::new(collector, Encoding::Protobuf)),
            Protocol::HttpJson => Self::Http(HttpTransport::new(collector, Encoding::Json)),
        }
    }

    /// Makes one attempt. Ends within the destination's time limit; a file has none.
    pub(crate) async fn send(&mut self, message: ExportTraceServiceRequest) -> Result<Accepted, SendError> {
        match self {
            Transport::Grpc(grpc) => grpc.send(message).await,
            Transport::Http(http) => http.send(message).await,
            Transport::File(file) => file.send(&message).await,
            #[cfg(test)]
            Transport::Faulty(faulty) => faulty.send(message).await,
        }
    }
}

/// A failure to reach the destination, or to hear its answer.
fn unreachable(error: &(dyn Error + 'static)) -> SendError {
    let reason = with_causes(error);
    if tls::has_failed(error) {
        SendError::new(SendErrorKind::Tls, "tls", reason)
    } else {
        SendError::new(SendErrorKind::Retryable { retry_after: None }, "unreachable", reason)
    }
}

/// An error with its causes, in one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Wrappers often repeat their cause.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

fn timed_out(limit: Duration) -> SendError {
    let kind = SendErrorKind::Retryable { retry_after: None };
    SendError::new(kind, "timeout", format!("no answer within {limit:?}"))
}
