//! An OTLP/gRPC receiver that counts what comes and keeps none of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// What has arrived since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct SinkTotals {
    /// Messages.
    pub messages: u64,
    /// Spans in them.
    pub spans: u64,
    /// Events on these.
    pub events: u64,
}

/// Takes part in the current runtime until that ends.
#[derive(Clone, Debug)]
pub struct CountingSink {
    address: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    messages: AtomicU64,
    spans: AtomicU64,
    events: AtomicU64,
}

impl CountingSink {
    /// Listens on a free port of this machine.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let (address, counts) = (listener.local_addr()?, Arc::new(Counts::default()));
        let service = TraceServiceServer::new(Service(Arc::clone(&counts)))
            .accept_compressed(CompressionEncoding::Gzip);
        let serving = Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(serving);
        Ok(Self { address, counts })
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What has arrived so far.
    #[must_use]
    pub fn totals(&self) -> SinkTotals {
        let Counts { messages, spans, events } = &*self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SinkTotals { messages: read(messages), spans: read(spans), events: read(events) }
    }
}

struct Service(Arc<Counts>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        let scopes = resources.iter().flat_map(|resource| &resource.scope_spans);
        let (mut spans, mut events) = (0, 0);
        for span in scopes.flat_map(|scope| &scope.spans) {
            spans += 1;
            events += span.events.len() as u64;
        }
        self.0.messages.fetch_add(1, Ordering::Relaxed);
        self.0.spans.fetch_add(spans, Ordering::Relaxed);
        self.0.events.fetch_add(events, Ordering::Relaxed);
        Ok(Response::new(ExportTraceServiceResponse { partial_success: None }))
    }
}
