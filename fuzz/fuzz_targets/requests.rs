//! Bodies of requests. The first byte chooses the route, the others are the body. Everything runs as in a server, up to the
//! engine, which takes nothing: parsing, checking, templates, tokens, grammars.
#![no_main]

use std::sync::{Arc, LazyLock, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use http_body_util::BodyExt as _;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;
use wayfare_engine::{
    AbortCause, Engine, EngineFault, EngineLimits, EngineRequest, EngineStats, RequestId, SchedulingPolicy, SubmitError,
};
use wayfare_journey::{SystemClock, WallAnchor};
use wayfare_openai::{ChatConfig, HubSink, Server, ServerConfig, ServerLimits, output_channel};
use wayfare_text::{ReasoningFormat, TextFiles, ToolFormat};

const ROUTES: [&str; 5] =
    ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize"];
/// Of the built-in vocabulary: bytes, and two marks.
const VOCAB_SIZE: u32 = 258;

/// Its queue is always full. It keeps the sink: without one, an engine counts as dead.
struct FullEngine {
    _sink: Mutex<HubSink>,
}

impl std::fmt::Debug for FullEngine {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("FullEngine")
    }
}

impl Engine for FullEngine {
    fn submit(&self, _: EngineRequest) -> Result<(), SubmitError> {
        Err(SubmitError::Overloaded { waiting: 1 })
    }

    fn abort(&self, _: RequestId, _: AbortCause) {}

    fn finish(&self, _: RequestId) {}

    fn limits(&self) -> EngineLimits {
        EngineLimits {
            max_model_len: 1024,
            max_num_seqs: 8,
            max_num_batched_tokens: 1024,
            block_size: 16,
            num_kv_blocks: 128,
            vocab_size: VOCAB_SIZE,
            policy: SchedulingPolicy::Priority,
            prefix_caching: true,
            follows_blocks: false,
        }
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }

    fn stats_by_engine(&self) -> Vec<(u32, EngineStats)> {
        vec![(0, self.stats())]
    }

    fn fault(&self) -> Option<Arc<EngineFault>> {
        None
    }
}

/// A server, and what runs it on this thread.
static SERVER: LazyLock<(Runtime, Router)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let text = TextFiles::of_bytes().unwrap();
    let (sink, hub) = output_channel();
    let config = ServerConfig {
        served_model_names: vec!["tiny".to_owned()],
        api_keys: Vec::new(),
        engine: Arc::new(FullEngine { _sink: Mutex::new(sink) }),
        tokenizer: text.tokenizer,
        chat: ChatConfig {
            template: text.chat_template,
            tool_format: Some(ToolFormat::Hermes),
            reasoning_format: Some(ReasoningFormat::Qwen3),
            trusts_request_templates: true,
        },
        end_of_text: text.end_of_text,
        tracer: None,
        wall: WallAnchor::capture(),
        clock: Arc::new(SystemClock),
        version: "0".to_owned(),
        default_seed: Some(0),
        limits: ServerLimits::default(),
        per_request_metrics: true,
        metric_sources: Vec::new(),
    };
    let router = {
        let _inside = runtime.enter();
        Server::start(config, hub).unwrap().router()
    };
    (runtime, router)
});

fuzz_target!(|bytes: &[u8]| {
    let Some((route, body)) = bytes.split_first() else { return };
    let path = ROUTES[usize::from(*route) % ROUTES.len()];
    let (runtime, router) = &*SERVER;
    runtime.block_on(async {
        let request = Request::post(path).body(Body::from(body.to_vec())).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        if status.is_success() {
            assert!(path.ends_with("tokenize"), "{path}: {answer}");
        } else {
            assert!(status.is_client_error(), "{status}: {answer}");
            assert!(answer["error"]["message"].is_string(), "{answer}");
        }
    });
});
