//! `wayfare serve`: from options to a running server, and back down.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wayfare_console::AboutServer;
use wayfare_engine::EngineControl;
use wayfare_journey::{Clock, SystemClock, Tracer, WallAnchor};
use wayfare_journey_otlp::EngineDescription;
use wayfare_openai::{
    Server, ServerConfig, ServerLimits, ShutdownHandle, engine_admin_routes, output_channel,
};

use crate::backend::{Backend, LocalBackend};
use crate::cli::{AdminOptions, EngineKind, HttpLimitOptions, ServeOptions};
use crate::http::{Address, ConnectionLimits, HttpServer, Listener, cors_layer, tls_acceptor};
use crate::model;
use crate::seat::Seat;
use crate::signals::EndSignals;
use crate::telemetry::{self, ServerOptions, Telemetry};
use crate::vllm::{VllmBackend, refuse_vllm_options};

/// How often a draining server looks whether everything has ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// How long answers that were cut short may take to reach their clients.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// Serves until a signal ends it, where the options say or in the seat of vLLM's own front.
///
/// # Errors
/// When the server cannot start.
pub(crate) fn run(options: &ServeOptions, seat: Option<Seat>) -> Result<()> {
    let settings = telemetry::settle(
        &options.journey,
        Some(ServerOptions { steps: &options.steps, live: &options.live }),
    )?;
    let argument = model::parse(options.model.as_deref())?;
    let runtime = Runtime::new().context("cannot start the I/O threads")?;
    let tls = tls_acceptor(&options.tls)?;
    let cors = cors_layer(&options.cors)?;
    // Taken before the model is loaded, so that a port in use is noticed at once; nobody can connect yet.
    let (address, admin_address, given_engines) = {
        let _in_runtime = runtime.enter();
        let (clients, engines) = seat.map(|seat| (seat.clients, seat.engines)).unzip();
        let address = match (clients, &options.http.uds) {
            (Some(clients), _) => clients,
            (None, None) => Address::tcp(SocketAddr::new(options.http.host, options.http.port), "--port")?,
            (None, Some(path)) => Address::unix(path.clone())?,
        };
        let AdminOptions { admin_port, admin_host } = options.admin;
        let admin = admin_port.map(|port| Address::tcp(SocketAddr::new(admin_host, port), "--admin-port"));
        (address, admin.transpose()?, engines)
    };

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let wall = WallAnchor::capture();
    let served_model_names = served_names(options);
    let backend = match options.vllm.engine {
        EngineKind::Local => {
            refuse_vllm_options(&options.vllm)?;
            Backend::Local(LocalBackend::load(&argument, &options.engine, &options.simulation)?)
        }
        EngineKind::Vllm => Backend::Vllm(VllmBackend::attach(
            &argument,
            options,
            given_engines,
            &runtime,
            Arc::clone(&clock),
            wall,
        )?),
    };
    let description = backend.description(served_model_names[0].clone());
    let about = about(&description, options);
    let telemetry = settings.start(Arc::clone(&clock), wall, description)?;
    let journey_routes = telemetry.routes(Arc::clone(&clock), wall, about);
    let page_routes = telemetry.page_routes();

    let (sink, hub) = output_channel();
    let board = telemetry.tracer.as_ref().map(|tracer| tracer.board().clone());
    let (running, text) = backend.start(Box::new(sink), Arc::clone(&clock), telemetry.steps(), board)?;
    let engine = running.engine();
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
        api_keys: options.http.api_keys(variable),
        engine,
        tokenizer: text.tokenizer,
        chat: options.chat.config(text.chat_template)?,
        end_of_text: text.end_of_text,
        tracer: telemetry.tracer.clone(),
        clock: Arc::clone(&clock),
        wall,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        default_seed: options.engine.seed,
        limits: server_limits(options),
        per_request_metrics: options.http.enable_per_request_metrics,
        metric_sources: vec![Arc::new(telemetry.metrics())],
    };
    runtime.block_on(async {
        let server = Server::start(config, hub)?;
        // Until here a signal ends the process by itself: there is nothing to drain.
        let mut signals = EndSignals::listen()?;
        let tracer = telemetry.tracer.clone();
        let admin =
            admin_address.map(|address| serve_admin(address, tracer, running.control())).transpose()?;
        let listener = address.listen()?;
        announce(&listener.url(tls.is_some())?);
        let mut router = server.router_with_open(journey_routes, page_routes);
        if let Some(cors) = cors {
            // Around everything: what a browser asks beforehand is no request and needs no key.
            router = router.layer(cors);
        }
        let http = HttpServer::new(router, tls, &connection_limits(&options.http_limits));
        let served =
            serve(listener, http, &server, &telemetry, &mut signals, options.http.shutdown_timeout).await;
        if let Some(admin) = admin {
            admin.abort();
        }
        served
    })?;
    // The engine first: by then the exporter has every journey.
    running.stop();
    telemetry.stop(&*clock, options.http.shutdown_timeout);
    runtime.shutdown_timeout(CLOSE_TIME);
    Ok(())
}

/// What the page at `/journeys` says of the server.
fn about(engine: &EngineDescription, options: &ServeOptions) -> AboutServer {
    AboutServer {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: engine.model.clone(),
        engine: engine.engine.clone(),
        max_num_seqs: engine.max_num_seqs,
        max_num_batched_tokens: engine.max_num_batched_tokens,
        block_size: engine.block_size,
        num_kv_blocks: engine.num_kv_blocks,
        live_view: !options.live.disable_live_view,
        trace_url_template: options.journey.trace_url_template.clone(),
    }
}

fn served_names(options: &ServeOptions) -> Vec<String> {
    match &*options.http.served_model_name {
        [] => vec![model::default_served_name(options.model.as_deref())],
        names => names.to_vec(),
    }
}

/// A variable of the environment. One that is not UTF-8 is set all the same: a key nobody can present.
fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn server_limits(options: &ServeOptions) -> ServerLimits {
    let limits = &options.http_limits;
    ServerLimits {
        request_timeout: options.http.request_timeout,
        max_header_bytes: limits.max_header_bytes as usize,
        max_header_count: usize::from(limits.max_header_count),
        max_body_bytes: limits.max_body_bytes,
        max_messages: limits.max_messages,
        ..ServerLimits::default()
    }
}

fn connection_limits(options: &HttpLimitOptions) -> ConnectionLimits {
    ConnectionLimits {
        max_connections: options.max_connections,
        head_timeout: options.header_timeout,
        max_header_bytes: options.max_header_bytes as usize,
        max_header_count: usize::from(options.max_header_count),
    }
}

/// Serves the administration until it is aborted.
fn serve_admin(
    address: Address,
    tracer: Option<Tracer>,
    engine: Arc<dyn EngineControl>,
) -> Result<JoinHandle<()>> {
    let listener = address.listen()?;
    info!(
        "administration is at {}/admin/journey and beside it, at /pause, /resume, /is_paused and \
         /reset_prefix_cache",
        listener.url(false)?
    );
    if !listener.is_local() {
        warn!("whoever reaches the administration may pause the server: keep it behind a firewall");
    }
    let router = wayfare_console::admin_routes(tracer).merge(engine_admin_routes(engine));
    let http = HttpServer::new(router, None, &ConnectionLimits::default());
    // Lasts until it is aborted: nobody says stop.
    Ok(tokio::spawn(http.serve(listener, CancellationToken::new())))
}

/// The one line on standard output: scripts wait for it and read the address from it.
fn announce(url: &str) {
    let mut out = io::stdout().lock();
    // Standard output may be closed; the server serves all the same.
    let _ = writeln!(out, "wayfare is ready: {url}").and_then(|()| out.flush());
}

/// Serves until a signal, then lets the requests in flight end.
async fn serve(
    listener: Listener,
    http: HttpServer,
    server: &Server,
    telemetry: &Telemetry,
    signals: &mut EndSignals,
    drain_time: Duration,
) -> Result<()> {
    let close = CancellationToken::new();
    let mut serving = tokio::spawn(http.serve(listener, close.clone()));
    let signal = tokio::select! {
        signal = signals.next() => signal,
        ended = &mut serving => return Ok(ended?),
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
    telemetry.end_events();
    close.cancel();
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
