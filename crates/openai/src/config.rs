//! What a server is made of.

use std::sync::Arc;
use std::time::Duration;

use wayfare_engine::{Engine, TokenId};
use wayfare_journey::{Clock, Tracer, WallAnchor};
use wayfare_text::{ChatTemplate, ReasoningFormat, Tokenizer, ToolFormat};

use crate::metrics::MetricSource;

/// Everything a [`Server`](crate::Server) needs, fixed for its life.
pub struct ServerConfig {
    /// The names under which clients may ask for the model; the first is the default and names the metrics.
    pub served_model_names: Vec<String>,
    /// The keys of which a client must present one; empty lets everybody in.
    pub api_keys: Vec<String>,
    /// The engine that generates. It must have been built with the [`HubSink`](crate::HubSink) that came
    /// with the server's [`OutputHub`](crate::OutputHub).
    pub engine: Arc<dyn Engine>,
    /// The model's tokeniser.
    pub tokenizer: Tokenizer,
    /// How messages become prompts, and answers messages.
    pub chat: ChatConfig,
    /// The tokens that end a text.
    pub end_of_text: Vec<TokenId>,
    /// Opens the span of each request; `None` when tracing is off.
    pub tracer: Option<Tracer>,
    /// Where the time is read. The same clock as the tracer's and the engine's.
    pub clock: Arc<dyn Clock>,
    /// Maps that clock to wall time, for the `created` field of responses.
    pub wall: WallAnchor,
    /// What `/version` says.
    pub version: String,
    /// From which the seeds of requests without one are derived; `None` draws them at random.
    pub default_seed: Option<u64>,
    /// What a client may use up.
    pub limits: ServerLimits,
    /// Whether clients may ask for the metrics of their own request, and get `Server-Timing`.
    pub per_request_metrics: bool,
    /// Parts of the program whose metrics are shown with the server's own.
    pub metric_sources: Vec<Arc<dyn MetricSource>>,
}

/// How messages become prompts, and answers messages.
#[derive(Clone, Debug, Default)]
pub struct ChatConfig {
    /// The model's chat template; without one, chat requests are refused.
    pub template: Option<ChatTemplate>,
    /// How the model writes tool calls; without it, it is what the template teaches, if that is known.
    pub tool_format: Option<ToolFormat>,
    /// How the model marks its reasoning; without it, everything is content.
    pub reasoning_format: Option<ReasoningFormat>,
    /// Whether clients may send a template of their own. They run within the same limits.
    pub trusts_request_templates: bool,
}

/// Bounds on what one client may use up.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Most bytes of a request body.
    pub max_body_bytes: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long a request may take from its arrival to its last token; `None` for as long as it takes.
    pub request_timeout: Option<Duration>,
    /// Most large prompts that are rendered and tokenised at the same time.
    pub max_concurrent_preparations: usize,
}

impl Default for ServerLimits {
    /// 16 MiB, one minute for the body and any time for the answer, and half of the processors.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            max_body_bytes: 16 << 20,
            body_timeout: Duration::from_secs(60),
            request_timeout: None,
            max_concurrent_preparations: (processors / 2).max(1),
        }
    }
}

/// Why a server could not be made of its configuration.
#[derive(Debug, thiserror::Error)]
pub enum ServerConfigError {
    /// A client could not ask for the model.
    #[error("no served model name was given; give at least one")]
    NoModelName,
    /// An empty API key would let everybody in who sends an empty one.
    #[error("an API key is empty; remove it or give it a value")]
    EmptyApiKey,
}
