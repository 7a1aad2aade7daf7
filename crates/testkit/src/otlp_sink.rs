//! An OTLP receiver on the loopback interface: real sockets, real protobuf, behaviour set by the test.

mod grpc;
mod http;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use wayfare_journey::{Clock, MonoNs, SystemClock};

use crate::wait::poll_until;
use crate::{SpanView, flatten_spans};

/// By which protocol an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with protobuf or JSON bodies.
    Http,
}

/// One export request that reached the sink, whether or not it was accepted.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When its answer was decided, by the system's clock.
    pub at: MonoNs,
    /// By which protocol it came.
    pub transport: Transport,
    /// The path of an HTTP request; empty for gRPC.
    pub path: String,
    /// Its headers or metadata: lower-case names and their values as text.
    pub headers: Vec<(String, String)>,
    /// Number of spans in it.
    pub spans: usize,
    /// Whether it was accepted, wholly or in part.
    pub accepted: bool,
}

/// How a request is refused, on either protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// gRPC status code.
    pub grpc_code: i32,
    /// HTTP status code.
    pub http_status: u16,
    /// When the client may try again: `RetryInfo` on gRPC, `Retry-After` on HTTP (in whole seconds).
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// Not now: UNAVAILABLE, 503.
    #[must_use]
    pub fn unavailable() -> Self {
        Self { grpc_code: 14, http_status: 503, retry_after: None }
    }

    /// Too much: RESOURCE_EXHAUSTED, 429.
    #[must_use]
    pub fn exhausted(retry_after: Option<Duration>) -> Self {
        Self { grpc_code: 8, http_status: 429, retry_after }
    }

    /// Never: INVALID_ARGUMENT, 400.
    #[must_use]
    pub fn invalid() -> Self {
        Self { grpc_code: 3, http_status: 400, retry_after: None }
    }
}

#[derive(Debug, Default)]
struct State {
    delay: Duration,
    refusal: Option<Refusal>,
    /// Refusals of the next so many requests.
    first: Option<(u32, Refusal)>,
    partial_success: Option<(i64, String)>,
    attempts: Vec<Attempt>,
    requests: Vec<ExportTraceServiceRequest>,
}

/// What both receivers share.
#[derive(Clone, Debug, Default)]
struct Receiver(Arc<Mutex<State>>);

impl Receiver {
    fn delay(&self) -> Duration {
        self.0.lock().delay
    }

    /// Takes a request, or refuses it, as the test has said.
    fn receive(
        &self,
        transport: Transport,
        path: &str,
        headers: Vec<(String, String)>,
        request: ExportTraceServiceRequest,
    ) -> Result<ExportTraceServiceResponse, Refusal> {
        let mut state = self.0.lock();
        let refusal = match &mut state.first {
            Some((left, refusal)) if *left > 0 => {
                *left -= 1;
                Some(*refusal)
            }
            _ => state.refusal,
        };
        state.attempts.push(Attempt {
            at: SystemClock.now(),
            transport,
            path: path.into(),
            headers,
            spans: flatten_spans(&request).len(),
            accepted: refusal.is_none(),
        });
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        state.requests.push(request);
        let partial_success = state.partial_success.as_ref().map(|(rejected_spans, message)| {
            ExportTracePartialSuccess { rejected_spans: *rejected_spans, error_message: message.clone() }
        });
        Ok(ExportTraceServiceResponse { partial_success })
    }
}

/// An OTLP receiver that stores what it accepts. Stops when it is dropped.
#[derive(Debug)]
pub struct OtlpSink {
    receiver: Receiver,
    grpc_address: SocketAddr,
    http_address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl OtlpSink {
    /// Starts both receivers on free ports of 127.0.0.1. They can be reached when this returns.
    ///
    /// # Panics
    /// When no port can be had or no thread be started.
    #[must_use]
    pub fn start() -> Self {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::try_start(any_port, any_port).expect("the loopback interface has free ports")
    }

    /// Stops, is absent while `meanwhile` runs, and starts again at the same addresses with nothing stored.
    ///
    /// # Panics
    /// When somebody else has taken the ports, or no thread can be started.
    #[must_use]
    pub fn restart(self, meanwhile: impl FnOnce()) -> Self {
        let (grpc_address, http_address) = (self.grpc_address, self.http_address);
        drop(self);
        meanwhile();
        Self::try_start(grpc_address, http_address).expect("the ports are still free")
    }

    fn try_start(grpc_address: SocketAddr, http_address: SocketAddr) -> io::Result<Self> {
        let listen = |address| -> io::Result<(TcpListener, SocketAddr)> {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (grpc_listener, grpc_address) = listen(grpc_address)?;
        let (http_listener, http_address) = listen(http_address)?;
        let receiver = Receiver::default();
        let (stop, stopped) = oneshot::channel::<()>();

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (grpc_receiver, http_receiver) = (receiver.clone(), receiver.clone());
        let thread = thread::Builder::new().name("otlp-sink".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = grpc::serve(grpc_listener, grpc_receiver) => {}
                    () = http::serve(http_listener, http_receiver) => {}
                    _ = stopped => {}
                }
            });
            // Open connections are not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { receiver, grpc_address, http_address, stop: Some(stop), thread: Some(thread) })
    }

    /// The gRPC endpoint, as a URL.
    #[must_use]
    pub fn grpc_endpoint(&self) -> String {
        format!("http://{}", self.grpc_address)
    }

    /// The base URL of the HTTP endpoint; traces are taken at `/v1/traces` below it.
    #[must_use]
    pub fn http_endpoint(&self) -> String {
        format!("http://{}", self.http_address)
    }

    /// Where gRPC is taken.
    #[must_use]
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where HTTP is taken.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Every answer from now on comes so much later.
    pub fn set_delay(&self, delay: Duration) {
        self.receiver.0.lock().delay = delay;
    }

    /// Refuses every request from now on; `None` accepts again.
    pub fn set_refusal(&self, refusal: Option<Refusal>) {
        self.receiver.0.lock().refusal = refusal;
    }

    /// Refuses the next `count` requests.
    pub fn refuse_next(&self, count: u32, refusal: Refusal) {
        self.receiver.0.lock().first = Some((count, refusal));
    }

    /// Accepts, but says with every answer that so many spans were rejected, and why; `None` ends that.
    pub fn set_partial_success(&self, rejected: Option<(i64, &str)>) {
        self.receiver.0.lock().partial_success = rejected.map(|(spans, why)| (spans, why.into()));
    }

    /// Everything that was sent here, accepted or not, in the order of arrival.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        self.receiver.0.lock().attempts.clone()
    }

    /// The accepted requests, in the order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        self.receiver.0.lock().requests.clone()
    }

    /// The spans of all accepted requests, in the order of arrival.
    #[must_use]
    pub fn spans(&self) -> Vec<SpanView> {
        self.receiver.0.lock().requests.iter().flat_map(flatten_spans).collect()
    }

    /// Forgets everything that has arrived.
    pub fn clear(&self) {
        let mut state = self.receiver.0.lock();
        state.attempts.clear();
        state.requests.clear();
    }

    /// Waits until `condition` holds for the spans that have arrived, and gives them. Blocks the thread: in
    /// async tests use [`tokio::task::spawn_blocking`] or a runtime with more than one thread.
    ///
    /// # Panics
    /// When it does not hold within `timeout`; says what has arrived.
    #[track_caller]
    pub fn wait_for(&self, condition: impl Fn(&[SpanView]) -> bool, timeout: Duration) -> Vec<SpanView> {
        let arrived = poll_until(timeout, || Some(self.spans()).filter(|spans| condition(spans)));
        arrived.unwrap_or_else(|| {
            let names: Vec<_> =
                self.spans().iter().map(|span| format!("{} {:?}", span.name, span.event_names())).collect();
            panic!("not so within {timeout:?}; {} spans have arrived: {names:#?}", names.len())
        })
    }

    /// Waits for `count` spans of that name, and gives all spans that have arrived.
    ///
    /// # Panics
    /// When fewer arrive within `timeout`; says what has arrived.
    #[track_caller]
    pub fn wait_for_spans(&self, name: &str, count: usize, timeout: Duration) -> Vec<SpanView> {
        self.wait_for(|spans| spans.iter().filter(|span| span.name == name).count() >= count, timeout)
    }
}

impl Drop for OtlpSink {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
