//! What `GET /journeys/live` says, as far as it is shown. Fields that a newer server adds are passed over.

use serde::Deserialize;

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Live {
    pub(crate) instance: String,
    pub(crate) in_flight: u64,
    pub(crate) engine: Engine,
    pub(crate) requests: Vec<Request>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Engine {
    pub(crate) running: u64,
    pub(crate) waiting: u64,
    pub(crate) preempted: u64,
    pub(crate) kv_blocks_used: u64,
    pub(crate) kv_blocks_total: u64,
    pub(crate) prompt_tokens_per_second: f64,
    pub(crate) output_tokens_per_second: f64,
    pub(crate) preemptions_total: u64,
    pub(crate) paused: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Request {
    pub(crate) key: String,
    pub(crate) request_id: Option<String>,
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    pub(crate) route: String,
    pub(crate) model: Option<String>,
    pub(crate) state: String,
    /// Not told by the engine, but concluded; absent from servers that do not know it.
    #[serde(default)]
    pub(crate) inferred: bool,
    pub(crate) age_ns: u64,
    pub(crate) in_state_ns: u64,
    pub(crate) wait: Option<Wait>,
    pub(crate) prefill: Option<Prefill>,
    pub(crate) decode: Option<Decode>,
    pub(crate) num_preemptions: u64,
    pub(crate) tokens_per_second: Option<f64>,
    pub(crate) sequences: Vec<Sequence>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Sequence {
    pub(crate) index: u64,
    pub(crate) state: String,
    /// Not told by the engine, but concluded; absent from servers that do not know it.
    #[serde(default)]
    pub(crate) inferred: bool,
    pub(crate) in_state_ns: u64,
    pub(crate) wait: Option<Wait>,
    pub(crate) prefill: Prefill,
    pub(crate) decode: Decode,
    pub(crate) num_preemptions: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Wait {
    pub(crate) reason: String,
    pub(crate) blocker: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Prefill {
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) cached: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Decode {
    pub(crate) done: u64,
    pub(crate) max: u64,
}
