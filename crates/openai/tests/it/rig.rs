//! A server over a scripted engine, and ways to ask it and to look at what it recorded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Map, Value, json};
use tower::ServiceExt as _;
use wayfare_engine::{Engine, EngineLimits, TokenId};
use wayfare_journey::{
    AbortReason, ApiEnding, Clock, FinishedJourney, HeadSampler, MonoNs, Tracer, WallAnchor,
};
use wayfare_openai::{ChatConfig, Server, ServerConfig, ServerLimits, ShutdownHandle, output_channel};
use wayfare_testkit::{JourneyStore, Reply, ScriptedEngine, SubmittedRequest, scripted_limits};
use wayfare_text::{ChatTemplate, SpecialTokens, Tokenizer};

pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const COMPLETIONS: &str = "/v1/completions";
pub(crate) const MODEL: &str = "tiny";
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The token that the tests' tokeniser calls `<eos>`.
pub(crate) const END_OF_TEXT: TokenId = 256;

/// Every reading is a microsecond after the one before, so that two events are never simultaneous.
#[derive(Clone, Debug, Default)]
pub(crate) struct TickingClock(Arc<AtomicU64>);

impl Clock for TickingClock {
    fn now(&self) -> MonoNs {
        MonoNs(self.0.fetch_add(1_000, Ordering::SeqCst) + 1_000)
    }
}

/// How the requests of a rig are traced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Tracing {
    Off,
    Rate(f64),
}

type Script = Box<dyn Fn(&SubmittedRequest) -> Reply + Send + Sync>;

pub(crate) struct Setup {
    pub(crate) tracing: Tracing,
    pub(crate) api_keys: Vec<String>,
    pub(crate) engine_limits: EngineLimits,
    pub(crate) limits: ServerLimits,
    pub(crate) has_template: bool,
    pub(crate) more: Router,
    script: Script,
    clock: Arc<dyn Clock>,
}

#[derive(Clone, Debug)]
struct SharedClock(Arc<dyn Clock>);

impl Clock for SharedClock {
    fn now(&self) -> MonoNs {
        self.0.now()
    }
}

impl Setup {
    pub(crate) fn new(script: impl Fn(&SubmittedRequest) -> Reply + Send + Sync + 'static) -> Self {
        Self {
            tracing: Tracing::Rate(1.0),
            api_keys: Vec::new(),
            engine_limits: EngineLimits { vocab_size: 257, ..scripted_limits() },
            limits: ServerLimits::default(),
            has_template: true,
            more: Router::new(),
            script: Box::new(script),
            clock: Arc::new(TickingClock::default()),
        }
    }

    /// Every answer is `text` and then the end of the text.
    pub(crate) fn answering(text: &str) -> Self {
        let reply = Reply::until_end_of_text(tokens(text), END_OF_TEXT);
        Self::new(move |_| reply.clone())
    }

    /// The test makes every output.
    pub(crate) fn by_hand() -> Self {
        Self::new(|_| Reply::ByHand)
    }

    pub(crate) fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn start(self) -> Rig {
        let (sink, hub) = output_channel();
        let clock = SharedClock(self.clock);
        let script = self.script;
        let engine = ScriptedEngine::scripted(self.engine_limits, clock.clone(), sink, script);
        let engine = Arc::new(engine);
        let journeys = JourneyStore::default();
        let tracer = match self.tracing {
            Tracing::Off => None,
            Tracing::Rate(rate) => {
                let sampler = HeadSampler::new(rate).unwrap();
                Some(Tracer::new(Arc::new(clock.clone()), sampler, Arc::new(journeys.clone())))
            }
        };
        let mut config = config(Arc::clone(&engine) as Arc<dyn Engine>, tracer.clone(), Arc::new(clock));
        config.api_keys = self.api_keys;
        config.limits = self.limits;
        if !self.has_template {
            config.chat.template = None;
        }
        let server = Server::start(config, hub).unwrap();
        let (router, shutdown) = (server.router_with(self.more), server.shutdown_handle());
        Rig { router, engine, journeys, tracer, shutdown }
    }
}

/// The configuration of a server over `engine`.
pub(crate) fn config(engine: Arc<dyn Engine>, tracer: Option<Tracer>, clock: Arc<dyn Clock>) -> ServerConfig {
    let template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}\
                    {% if add_generation_prompt %}[assistant]{% endif %}";
    ServerConfig {
        served_model_names: vec![MODEL.to_owned(), "org/alias".to_owned()],
        api_keys: Vec::new(),
        engine,
        tokenizer: tokenizer(),
        chat: ChatConfig {
            template: Some(ChatTemplate::new(template.to_owned(), SpecialTokens::default()).unwrap()),
            ..ChatConfig::default()
        },
        end_of_text: vec![END_OF_TEXT],
        tracer,
        clock,
        wall: WallAnchor::new(MonoNs(0), 1_700_000_000 * 1_000_000_000),
        version: "1.2.3".to_owned(),
        default_seed: Some(0),
        limits: ServerLimits::default(),
        per_request_metrics: true,
        metric_sources: Vec::new(),
    }
}

pub(crate) struct Rig {
    pub(crate) router: Router,
    pub(crate) engine: Arc<ScriptedEngine>,
    pub(crate) journeys: JourneyStore,
    pub(crate) tracer: Option<Tracer>,
    pub(crate) shutdown: ShutdownHandle,
}

impl Rig {
    pub(crate) async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn ask(&self, request: Request<Body>) -> Answer {
        Answer::of(self.send(request).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(post(path, body)).await
    }

    /// The one journey that there is to be.
    pub(crate) fn journey(&self) -> FinishedJourney {
        let mut journeys = self.journeys.wait_for(1, PATIENCE);
        assert_eq!(journeys.len(), 1);
        journeys.remove(0)
    }

    /// Asks in the background, for tests that act meanwhile.
    pub(crate) fn spawn(&self, request: Request<Body>) -> tokio::task::JoinHandle<Answer> {
        let router = self.router.clone();
        tokio::spawn(async move { Answer::of(router.oneshot(request).await.unwrap()).await })
    }

    /// Waits for the engine to have got `count` requests in all, and gives the last.
    pub(crate) fn submitted(&self, count: usize) -> SubmittedRequest {
        wayfare_testkit::wait_until(PATIENCE, || self.engine.submitted().len() >= count);
        self.engine.submitted().pop().unwrap()
    }

    /// Nothing is left of any request.
    pub(crate) fn assert_nothing_left(&self) {
        wayfare_testkit::wait_until(PATIENCE, || self.engine.live().is_empty());
        wayfare_testkit::wait_until(PATIENCE, || self.shutdown.sequences_in_flight() == 0);
        if let Some(tracer) = &self.tracer {
            wayfare_testkit::wait_until(PATIENCE, || tracer.counters().in_flight() == 0);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of(response: Response) -> Self {
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Self { status: head.status, headers: head.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The error's parameter and code; the body must have OpenAI's form.
    pub(crate) fn error(&self) -> (Option<String>, String) {
        let body = self.json();
        let error = body["error"].as_object().unwrap_or_else(|| panic!("no error: {body}"));
        let keys: Vec<_> = error.keys().map(String::as_str).collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
        assert!(error["type"].is_string());
        assert_eq!(self.header("content-type"), Some("application/json"));
        (error["param"].as_str().map(str::to_owned), error["code"].as_str().unwrap().to_owned())
    }

    /// The data of all events of a stream.
    pub(crate) fn events(&self) -> Vec<String> {
        assert!(self.text.ends_with("\n\n"), "{:?}", self.text);
        let events = self.text.trim_end().split("\n\n");
        events.map(|event| event.strip_prefix("data: ").unwrap().to_owned()).collect()
    }

    /// All but the last event of a stream, which must be `[DONE]`.
    pub(crate) fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

pub(crate) fn post(path: &str, body: &Value) -> Request<Body> {
    let request =
        Request::post(path).header("content-type", "application/json").header("x-request-id", "req");
    request.body(Body::from(body.to_string())).unwrap()
}

/// A chat request with further fields.
pub(crate) fn chat(more: Value) -> Value {
    merged(json!({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}), more)
}

/// A completion request with further fields.
pub(crate) fn completion(more: Value) -> Value {
    merged(json!({"model": MODEL, "prompt": "Hi"}), more)
}

/// The request for a generating route.
pub(crate) fn request_for(path: &str, more: Value) -> Value {
    if path == CHAT { chat(more) } else { completion(more) }
}

#[expect(clippy::needless_pass_by_value, reason = "callers write literals")]
fn merged(mut base: Value, more: Value) -> Value {
    let empty = Map::new();
    let fields = base.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap_or(&empty).clone());
    base
}

pub(crate) fn tokens(text: &str) -> Vec<TokenId> {
    text.bytes().map(TokenId::from).collect()
}

/// How a journey's API part ended, as `departed` or `reason: error type`.
pub(crate) fn ending(journey: &FinishedJourney) -> String {
    match &journey.api().ending {
        ApiEnding::Departed { .. } => "departed".to_owned(),
        ApiEnding::Aborted { reason, error_type, .. } => format!("{}: {error_type}", reason.as_str()),
    }
}

pub(crate) fn abort_reason(journey: &FinishedJourney) -> Option<AbortReason> {
    match &journey.api().ending {
        ApiEnding::Departed { .. } => None,
        ApiEnding::Aborted { reason, .. } => Some(*reason),
    }
}

/// Names of the events of a journey's core spans.
pub(crate) fn core_events(journey: &FinishedJourney) -> Vec<String> {
    let events = journey.cores().flat_map(|(_, core)| core.events.iter());
    events.map(|event| format!("{:?}", event.kind).split([' ', '{']).next().unwrap().to_owned()).collect()
}

/// A byte-level tokeniser without merges: a token's id is its byte, and 256 is `<eos>`.
pub(crate) fn tokenizer() -> Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(load_tokenizer).clone()
}

fn load_tokenizer() -> Tokenizer {
    let mut spelled = Map::new();
    let mut unprintable = 256;
    for byte in 0..=255_u32 {
        // GPT-2's alphabet of bytes: printable ones stand for themselves, the others for characters from 256.
        let is_printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let spelling = if is_printable {
            byte
        } else {
            unprintable += 1;
            unprintable - 1
        };
        spelled.insert(char::from_u32(spelling).unwrap().to_string(), json!(byte));
    }
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let end_of_text = json!({
        "id": END_OF_TEXT, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true
    });
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [end_of_text], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": spelled, "merges": []
        }
    });
    let path = std::env::temp_dir().join(format!("wayfare-openai-tests-{}.json", std::process::id()));
    std::fs::write(&path, file.to_string()).unwrap();
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    tokenizer
}
