//! The accept loop: HTTP/1.1 and HTTP/2 over every kind of connection, within limits.

use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::connection::{Connection, Protocol, Socket};
use super::listener::Listener;

/// How much larger than allowed a head may be and still get an answer that says so. Beyond it, hyper refuses it with
/// a bare 431.
const HEAD_TOLERANCE: usize = 2;
/// Least room for what is read and written of one HTTP/1 connection, in bytes. A client that does not read holds no
/// more than that of what was written for it.
const MIN_BUFFER_BYTES: usize = 64 << 10;
/// The same, for each stream of an HTTP/2 connection.
const HTTP2_SEND_BUFFER_BYTES: usize = 64 << 10;
/// Requests at the same time on one HTTP/2 connection.
const HTTP2_MAX_STREAMS: u32 = 256;
/// After how long without a sign of life an HTTP/2 client is asked for one, and how long it has to give it.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Bounds on what connections may use up.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimits {
    /// Most connections at the same time; more wait in the system's queue. `None` for as many as there are file
    /// descriptors.
    pub(crate) max_connections: Option<NonZeroUsize>,
    /// How long a handshake and a request's head may take, and how long a connection may be without a request.
    pub(crate) head_timeout: Duration,
    /// Most bytes of a head that the router accepts.
    pub(crate) max_header_bytes: usize,
    /// Most headers of a head that the router accepts.
    pub(crate) max_header_count: usize,
}

impl Default for ConnectionLimits {
    /// Any number of connections, and heads as clients and proxies send them.
    fn default() -> Self {
        Self {
            max_connections: None,
            head_timeout: Duration::from_secs(75),
            max_header_bytes: 64 << 10,
            max_header_count: 100,
        }
    }
}

/// Serves a router to all who connect.
pub(crate) struct HttpServer {
    router: Router,
    tls: Option<TlsAcceptor>,
    http1: Builder<TokioExecutor>,
    http2: Builder<TokioExecutor>,
    head_timeout: Duration,
    places: Arc<Semaphore>,
}

impl HttpServer {
    pub(crate) fn new(router: Router, tls: Option<TlsAcceptor>, limits: &ConnectionLimits) -> Self {
        let max_header_bytes = limits.max_header_bytes.saturating_mul(HEAD_TOLERANCE);
        let max_header_count = limits.max_header_count.saturating_mul(HEAD_TOLERANCE);
        let max_places = limits.max_connections.map_or(Semaphore::MAX_PERMITS, NonZeroUsize::get);
        let mut http1 = Builder::new(TokioExecutor::new()).http1_only();
        http1
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_headers(max_header_count)
            .max_buf_size(max_header_bytes.max(MIN_BUFFER_BYTES));
        let mut http2 = Builder::new(TokioExecutor::new()).http2_only();
        http2
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING_INTERVAL)
            .keep_alive_timeout(HTTP2_PING_TIMEOUT)
            .max_concurrent_streams(HTTP2_MAX_STREAMS)
            .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
            .max_header_list_size(u32::try_from(max_header_bytes).unwrap_or(u32::MAX));
        Self {
            router,
            tls,
            http1,
            http2,
            head_timeout: limits.head_timeout,
            places: Arc::new(Semaphore::new(max_places.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Serves until it is told to stop, and then until every connection has ended: one without a request at once,
    /// others with their answers. Connections do not outlive the returned future.
    pub(crate) async fn serve(self, mut listener: Listener, stop: CancellationToken) {
        let server = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                (socket, place) = server.next(&mut listener) => {
                    let (server, stop) = (Arc::clone(&server), stop.clone());
                    connections.spawn(async move {
                        server.connection(socket, stop).await;
                        drop(place);
                    });
                }
                Some(_) = connections.join_next() => {}
                () = stop.cancelled() => break,
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    /// A connection, and its place among those that may be.
    async fn next(&self, listener: &mut Listener) -> (Socket, Option<OwnedSemaphorePermit>) {
        if self.places.available_permits() == 0 {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| warn!("there are as many connections as --max-connections allows: more wait"));
        }
        // The semaphore is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        (listener.accept().await, place)
    }

    async fn connection(&self, socket: Socket, stop: CancellationToken) {
        let opening = tokio::time::timeout(self.head_timeout, Connection::open(socket, self.tls.as_ref()));
        let (connection, protocol) = tokio::select! {
            opened = opening => match opened {
                Ok(Ok(opened)) => opened,
                Ok(Err(error)) => return debug!("a connection was not opened: {error}"),
                Err(_) => return debug!("a connection without a request was closed"),
            },
            () = stop.cancelled() => return,
        };
        let service = self.router.clone().map_request(|request: Request<Incoming>| request.map(Body::new));
        let service = TowerToHyperService::new(service);
        let builder = match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
        };
        let mut serving = pin!(builder.serve_connection(TokioIo::new(connection), service));
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended {
            debug!("a connection has failed: {error}");
        }
    }
}
