//! `wayfare serve`: from options to a running server, and back down.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use axum::Router;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::{info, warn};
use wayfare_engine::{Engine as _, EngineControl};
use wayfare_engine_local::RefusingEngine;
use wayfare_journey::{Clock, SystemClock, Tracer, WallAnchor};
use wayfare_journey_otlp::EngineDescription;
use wayfare_openai::{
    Server, ServerConfig, ServerLimits, ShutdownHandle, engine_admin_routes, output_channel,
};

use crate::backend::Backend;
use crate::cli::{AdminOptions, ServeOptions};
use crate::listener::EventListener;
use crate::signals::EndSignals;
use crate::{model, telemetry};

/// Connections that the system holds while the server is busy accepting.
const LISTEN_BACKLOG: u32 = 1024;
/// How often a draining server looks whether everything has ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// How long answers that were cut short may take to reach their clients.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// Serves until a signal ends it.
///
/// # Errors
/// When the server cannot start.
pub(crate) fn run(options: &ServeOptions) -> Result<()> {
    let settings = telemetry::settle(&options.journey, Some(&options.steps))?;
    let argument = model::parse(options.model.as_deref())?;
    let runtime = Runtime::new().context("cannot start the I/O threads")?;
    // Taken before the model is loaded, so that a port in use is noticed at once; nobody can connect yet.
    let (socket, admin_socket) = {
        let _in_runtime = runtime.enter();
        let socket = bind(SocketAddr::new(options.http.host, options.http.port), "--port")?;
        let AdminOptions { admin_port, admin_host } = options.admin;
        let admin = admin_port.map(|port| bind(SocketAddr::new(admin_host, port), "--admin-port"));
        (socket, admin.transpose()?)
    };

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let wall = WallAnchor::capture();
    let served_model_names = served_names(options);
    let backend = Backend::load(&argument, &options.engine, &options.simulation)?;
    let description = EngineDescription {
        model: served_model_names[0].clone(),
        engine: backend.engine_name.to_owned(),
        max_num_seqs: backend.config.max_num_seqs,
        max_num_batched_tokens: backend.config.max_num_batched_tokens,
        block_size: backend.config.block_size,
        num_kv_blocks: backend.config.num_kv_blocks,
    };
    let telemetry = settings.start(Arc::clone(&clock), wall, description)?;
    let journey_routes = telemetry.routes(Arc::clone(&clock), wall);

    let (sink, hub) = output_channel();
    let failures = backend.failures.clone();
    let (engine, text) = backend.start(Box::new(sink), Arc::clone(&clock), telemetry.steps())?;
    let engine = Arc::new(engine);
    let limits = engine.limits();
    if limits.context_tokens() < limits.max_model_len {
        warn!(
            "the KV cache holds {} tokens, so requests are limited to that and not to {}",
            limits.context_tokens(),
            limits.max_model_len
        );
    }
    let config = ServerConfig {
        served_model_names,
        api_keys: options.http.api_key.clone(),
        engine: match &failures {
            Some(plan) => Arc::new(RefusingEngine::new(Arc::clone(&engine) as _, plan)),
            None => Arc::clone(&engine) as _,
        },
        tokenizer: text.tokenizer,
        chat: options.chat.config(text.chat_template),
        end_of_text: text.end_of_text,
        tracer: telemetry.tracer.clone(),
        clock,
        wall,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        default_seed: options.engine.seed,
        limits: ServerLimits { request_timeout: options.http.request_timeout, ..ServerLimits::default() },
        per_request_metrics: options.http.enable_per_request_metrics,
        metric_sources: vec![Arc::new(telemetry.metrics())],
    };
    runtime.block_on(async {
        let server = Server::start(config, hub)?;
        // Until here a signal ends the process by itself: there is nothing to drain.
        let mut signals = EndSignals::listen()?;
        let tracer = telemetry.tracer.clone();
        let admin =
            admin_socket.map(|socket| serve_admin(socket, tracer, Arc::clone(&engine) as _)).transpose()?;
        let listener = socket.listen(LISTEN_BACKLOG).with_context(|| in_use(options.http.port, "--port"))?;
        announce(&listener)?;
        let router = server.router_with(journey_routes);
        let served = serve(listener, router, &server, &mut signals, options.http.shutdown_timeout).await;
        if let Some(admin) = admin {
            admin.abort();
        }
        served
    })?;
    // The engine first: by then the exporter has every journey.
    engine.stop();
    telemetry.stop(options.http.shutdown_timeout);
    runtime.shutdown_timeout(CLOSE_TIME);
    Ok(())
}

fn served_names(options: &ServeOptions) -> Vec<String> {
    match &*options.http.served_model_name {
        [] => vec![model::default_served_name(options.model.as_deref())],
        names => names.to_vec(),
    }
}

fn bind(address: SocketAddr, option: &str) -> Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.context("cannot make a socket")?;
    // A port whose last connections still linger is free to us; one that somebody listens on is not.
    socket.set_reuseaddr(true)?;
    socket.bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!(in_use(address.port(), option)),
        _ => anyhow!(error).context(format!("cannot listen on {address}")),
    })?;
    Ok(socket)
}

fn in_use(port: u16, option: &str) -> String {
    format!("port {port} is in use; stop what listens there, or choose another with {option}")
}

/// Serves the administration until it is aborted.
fn serve_admin(
    socket: TcpSocket,
    tracer: Option<Tracer>,
    engine: Arc<dyn EngineControl>,
) -> Result<JoinHandle<()>> {
    let address = socket.local_addr()?;
    let listener = socket.listen(LISTEN_BACKLOG).with_context(|| in_use(address.port(), "--admin-port"))?;
    info!(
        "administration is at http://{address}/admin/journey and beside it, at /pause, /resume, /is_paused and \
         /reset_prefix_cache"
    );
    if !address.ip().is_loopback() {
        warn!("whoever reaches {address} may pause the server: keep it behind a firewall");
    }
    let router = wayfare_console::admin_routes(tracer).merge(engine_admin_routes(engine));
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            warn!("administration has ended: {error}");
        }
    }))
}

/// The one line on standard output: scripts wait for it and read the address from it.
fn announce(listener: &TcpListener) -> Result<()> {
    let mut address = listener.local_addr()?;
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() { [127, 0, 0, 1].into() } else { "::1".parse()? };
        address.set_ip(loopback);
    }
    let mut out = io::stdout().lock();
    // Standard output may be closed; the server serves all the same.
    let _ = writeln!(out, "wayfare is ready: http://{address}").and_then(|()| out.flush());
    Ok(())
}

/// Serves until a signal, then lets the requests in flight end.
async fn serve(
    listener: TcpListener,
    router: Router,
    server: &Server,
    signals: &mut EndSignals,
    drain_time: Duration,
) -> Result<()> {
    let (close, closed) = oneshot::channel::<()>();
    let serving = axum::serve(EventListener(listener), router).with_graceful_shutdown(async {
        let _ = closed.await;
    });
    let mut serving = tokio::spawn(async move { serving.await });
    let signal = tokio::select! {
        signal = signals.next() => signal,
        ended = &mut serving => return Ok(ended??),
    };
    info!("{signal}: no more requests are taken; those in flight have {drain_time:?} to end");
    let shutdown = server.shutdown_handle();
    shutdown.drain();
    tokio::select! {
        () = drained(&shutdown) => {}
        () = tokio::time::sleep(drain_time) => {}
        signal = signals.next() => info!("{signal} again: the requests in flight are ended now"),
    }
    let cut_short = shutdown.sequences_in_flight();
    if cut_short > 0 {
        warn!("{cut_short} requests in flight are ended before their time");
    }
    shutdown.close();
    let _ = close.send(());
    // A connection that stays open, or a client that reads nothing, does not hold the server up.
    if tokio::time::timeout(CLOSE_TIME, &mut serving).await.is_err() {
        serving.abort();
        let _ = serving.await;
    }
    Ok(())
}

async fn drained(shutdown: &ShutdownHandle) {
    while shutdown.sequences_in_flight() > 0 {
        tokio::time::sleep(DRAIN_POLL).await;
    }
}
