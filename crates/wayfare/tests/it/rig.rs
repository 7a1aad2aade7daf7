//! A server on a port of its own: real HTTP, the scheduler, an executor that the test commands, and a collector.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use wayfare_console::{LiveServer, LiveView};
use wayfare_engine::{Engine as _, TokenId};
use wayfare_engine_local::{EngineOptions, LocalEngine, QueueLimits, StepInput};
use wayfare_journey::{Clock, HeadSampler, LiveTracing, SystemClock, Tracer, WallAnchor};
use wayfare_journey_otlp::{
    EngineDescription, ExportCounters, Exporter, ExporterConfig, ExporterOptions, Resource,
};
use wayfare_openai::{ChatConfig, Server, ServerConfig, ServerLimits, ShutdownHandle, output_channel};
use wayfare_scheduler::SchedulerConfig;
use wayfare_testkit::{ExecutorControl, FaultyExecutor, OtlpSink, StepBehaviour, wait_until};
use wayfare_text::TextFiles;

use crate::arrived::{Journey, journeys};
use crate::raw_client::{Answer, Client};

pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const COMPLETIONS: &str = "/v1/completions";
/// Nothing takes longer; a wait beyond it is a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// What every sequence says, over and over.
pub(crate) const PASSAGE: &str = "All work and no play. ";
/// A sequence with a seed below this ends its text after so many tokens; others never do.
pub(crate) const ENDLESS: u64 = 1_000;

type Faults = Box<dyn FnMut(&StepInput) -> StepBehaviour + Send>;

pub(crate) struct Setup {
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) max_queued: Option<NonZeroU32>,
    pub(crate) limits: ServerLimits,
    pub(crate) sample_rate: f64,
    pub(crate) more: Router,
    pub(crate) faults: Faults,
    pub(crate) clock: Arc<dyn Clock>,
    /// Whether the requests in flight are at /journeys/live.
    pub(crate) is_live: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let scheduler = SchedulerConfig::with_sizes(8, 256, 4096, 16, 1024);
        Self {
            scheduler,
            max_queued: None,
            limits: ServerLimits::default(),
            sample_rate: 1.0,
            more: Router::new(),
            faults: Box::new(|_| StepBehaviour::Compute),
            clock: Arc::new(SystemClock),
            is_live: false,
        }
    }
}

pub(crate) struct Rig {
    pub(crate) sink: OtlpSink,
    pub(crate) engine: Arc<LocalEngine>,
    pub(crate) control: ExecutorControl,
    pub(crate) tracer: Tracer,
    pub(crate) shutdown: ShutdownHandle,
    pub(crate) router: Router,
    pub(crate) address: SocketAddr,
    exporter: Mutex<Option<Exporter>>,
    _live: Option<LiveServer>,
    counters: Arc<ExportCounters>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Setup {
    pub(crate) fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut setup = Self::default();
        change(&mut setup);
        setup
    }

    pub(crate) fn start(self) -> Rig {
        let text = text_files();
        let passage = text.tokenizer.encode(PASSAGE, false).unwrap();
        let end_of_text: TokenId = text.end_of_text[0];
        let (executor, control) = FaultyExecutor::new(move |sample| {
            let index = sample.output_index as usize;
            if sample.seed < ENDLESS && index as u64 == sample.seed {
                end_of_text
            } else {
                passage[index % passage.len()]
            }
        });
        let executor = executor.with_faults(self.faults);

        let clock = self.clock;
        let wall = WallAnchor::capture();
        let (output_sink, hub) = output_channel();
        let vocab_size = text.tokenizer.vocab_size() as u32;
        let boxed = (Box::new(executor), Box::new(output_sink));
        let queue_limits = QueueLimits { requests: self.max_queued, tokens: None };
        let sink = OtlpSink::start();
        let options =
            ExporterOptions { traces_endpoint: Some(&sink.grpc_endpoint()), ..ExporterOptions::default() };
        let resource = Resource::of_this_process("0.0", EngineDescription::default());
        let mut exporting = ExporterConfig::resolve(&options, resource, |_| None).unwrap();
        exporting.schedule_delay = Duration::from_millis(5);
        let exporter = Exporter::start(exporting, wall).unwrap();
        let sampler = HeadSampler::new(self.sample_rate).unwrap();
        let view = self.is_live.then(LiveView::default);
        let live = LiveTracing { ends: view.as_ref().map(LiveView::sink), recorder: None };
        let tracer = Tracer::with_live_view(Arc::clone(&clock), sampler, exporter.sink(), live);
        let live = view.map(|view| view.start(tracer.clone(), Arc::clone(&clock), wall).unwrap());

        let board = Some(tracer.board().clone());
        let options = EngineOptions { queue_limits, board, ..EngineOptions::default() };
        let engine =
            LocalEngine::start(self.scheduler, vocab_size, boxed.0, boxed.1, Arc::clone(&clock), options)
                .unwrap();
        let engine = Arc::new(engine);

        let config = ServerConfig {
            served_model_names: vec!["test".to_owned()],
            api_keys: Vec::new(),
            engine: Arc::clone(&engine) as _,
            tokenizer: text.tokenizer,
            chat: ChatConfig { template: text.chat_template, ..ChatConfig::default() },
            end_of_text: text.end_of_text,
            tracer: Some(tracer.clone()),
            clock,
            wall,
            version: "0.0".to_owned(),
            default_seed: Some(ENDLESS),
            limits: self.limits,
            per_request_metrics: true,
            metric_sources: Vec::new(),
        };
        let server = Server::start(config, hub).unwrap();
        let live_routes = live.as_ref().map(LiveServer::routes).unwrap_or_default();
        let router = server.router_with(self.more.merge(live_routes));
        let socket = TcpSocket::new_v4().unwrap();
        // Little room, so that a write soon blocks when the client does not read.
        socket.set_send_buffer_size(8 << 10).unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = socket.listen(1024).unwrap();
        let address = listener.local_addr().unwrap();
        let counters = exporter.counters();
        Rig {
            sink,
            engine,
            control,
            tracer,
            shutdown: server.shutdown_handle(),
            serving: tokio::spawn(axum::serve(listener, router.clone()).into_future()),
            router,
            address,
            exporter: Mutex::new(Some(exporter)),
            _live: live,
            counters,
        }
    }
}

/// One for the process, as in a server: the tokeniser's caches outlive it.
fn text_files() -> TextFiles {
    static TEXT: OnceLock<TextFiles> = OnceLock::new();
    TEXT.get_or_init(|| TextFiles::of_bytes().unwrap()).clone()
}

impl Rig {
    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.address).await.unwrap()
    }

    /// Asks on a connection of its own.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let mut client = self.connect().await;
        client.send(path, &body.to_string()).await.unwrap();
        client.answer().await.expect("a whole answer")
    }

    /// The same in the background.
    pub(crate) fn spawn(&self, path: &'static str, body: Value) -> JoinHandle<Answer> {
        let address = self.address;
        tokio::spawn(async move {
            let mut client = Client::connect(address).await.unwrap();
            client.send(path, &body.to_string()).await.unwrap();
            client.answer().await.expect("a whole answer")
        })
    }

    /// Waits until the engine has so many running and waiting sequences.
    pub(crate) fn wait_for_engine(&self, running: u64, waiting: u64) {
        wait_until(PATIENCE, || {
            let stats = self.engine.stats();
            (stats.running, stats.waiting) == (running, waiting)
        });
    }

    /// Waits until `count` requests have arrived.
    pub(crate) fn wait_for_arrivals(&self, count: u64) {
        wait_until(PATIENCE, || self.tracer.counters().recorded() >= count);
    }

    /// Waits until all is over: every journey of the `expected` requests has arrived and keeps the rules,
    /// nothing of a request is left anywhere, and all KV blocks are back.
    #[track_caller]
    pub(crate) fn journeys(&self, expected: usize) -> Vec<Journey> {
        self.wait_until_nothing_is_left();
        assert_eq!(self.tracer.counters().recorded(), expected as u64, "requests that were recorded");
        let spans = self.sink.wait_for_spans("llm_request", expected, PATIENCE);
        let journeys = journeys(spans).unwrap_or_else(|problem| panic!("{problem}"));
        assert_eq!(journeys.len(), expected);
        assert_eq!(self.counters.journeys_dropped_queue_full(), 0);
        journeys
    }

    /// The one journey there is.
    #[track_caller]
    pub(crate) fn journey(&self) -> Journey {
        self.journeys(1).remove(0)
    }

    #[track_caller]
    pub(crate) fn wait_until_nothing_is_left(&self) {
        wait_until(PATIENCE, || self.shutdown.sequences_in_flight() == 0);
        wait_until(PATIENCE, || self.tracer.counters().in_flight() == 0);
        wait_until(PATIENCE, || {
            let stats = self.engine.stats();
            (stats.running, stats.waiting, stats.kv_blocks_used) == (0, 0, 0)
        });
    }

    /// Sends what is left to the collector and ends the exporter.
    pub(crate) fn flush(&self) {
        if let Some(exporter) = self.exporter.lock().take() {
            let report = exporter.shutdown(PATIENCE);
            assert!(report.is_complete(), "{report}");
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A step that stands still would hold up the engine's end.
        self.control.release();
        self.serving.abort();
    }
}

/// A request with further fields for a generating route.
#[expect(clippy::needless_pass_by_value, reason = "callers write literals")]
pub(crate) fn request(path: &str, more: Value) -> Value {
    let mut body = if path == CHAT {
        json!({"messages": [{"role": "user", "content": "Hi"}]})
    } else {
        json!({"prompt": "Hi"})
    };
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// A runtime task that blocks its thread needs another to make progress.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}
