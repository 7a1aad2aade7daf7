//! The names of spans, events and attributes: the single source for the exporter, the docs and the tests.
//!
//! Names and types are those of the reference implementation of journey tracing, the `gen_ai.*` names those
//! of OpenTelemetry's GenAI semantic conventions.

/// Instrumentation scope of `llm_request`.
pub const SCOPE_API: &str = "vllm.api";
/// Instrumentation scope of `llm_core`.
pub const SCOPE_SCHEDULER: &str = "vllm.scheduler";
/// Instrumentation scope of the engine's steps.
pub const SCOPE_STEPS: &str = "vllm.scheduler.step";
/// The beginning of the name of a span of steps; its number follows.
pub const SPAN_STEPS_PREFIX: &str = "scheduler_steps_";
/// The span of a request in the API layer.
pub const SPAN_REQUEST: &str = "llm_request";
/// The span of a sequence in the engine.
pub const SPAN_CORE: &str = "llm_core";

/// The type of an attribute's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// UTF-8 text.
    Text,
    /// 64-bit signed integer.
    Int,
    /// 64-bit floating point number.
    Double,
    /// True or false.
    Bool,
    /// A list of texts.
    TextList,
}

/// An attribute: its key, the type of its value, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// The key on the wire.
    pub key: &'static str,
    /// The type of the value.
    pub value: ValueType,
    /// What it says, for the documentation.
    pub doc: &'static str,
}

/// An event: its name and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The name on the wire.
    pub name: &'static str,
    /// When it is recorded, for the documentation.
    pub doc: &'static str,
}

macro_rules! attributes {
    ($($name:ident = $key:literal $value:ident $doc:literal;)*) => {
        $(#[doc = concat!("`", $key, "`: ", $doc)]
        pub const $name: Attribute = Attribute { key: $key, value: ValueType::$value, doc: $doc };)*
        /// All of them, in the order of the documentation.
        pub const ALL: &[Attribute] = &[$($name),*];
    };
}

macro_rules! events {
    ($($name:ident = $wire:literal $doc:literal;)*) => {
        $(#[doc = concat!("`", $wire, "`: ", $doc)]
        pub const $name: Event = Event { name: $wire, doc: $doc };)*
        /// All of them, in the order in which they happen.
        pub const ALL: &[Event] = &[$($name),*];
    };
}

/// Events of `llm_request`.
pub mod api_event {
    use super::Event;
    events! {
        ARRIVED = "api.ARRIVED" "The request head has been read, before body and parsing.";
        HANDOFF_TO_CORE = "api.HANDOFF_TO_CORE" "The engine has accepted the request into its inbox.";
        FIRST_RESPONSE_FROM_CORE = "api.FIRST_RESPONSE_FROM_CORE" "The API layer has taken the first generated token from the engine.";
        DEPARTED = "api.DEPARTED" "The last generated chunk, or the whole body, has been handed to the HTTP stack.";
        ABORTED = "api.ABORTED" "The request failed or was abandoned.";
    }
}

/// Events of `llm_core`.
pub mod core_event {
    use super::Event;
    events! {
        QUEUED = "journey.QUEUED" "The scheduler has put the request in its waiting queue.";
        SCHEDULED = "journey.SCHEDULED" "The request becomes running.";
        FIRST_TOKEN = "journey.FIRST_TOKEN" "The first output token exists.";
        PREEMPTED = "journey.PREEMPTED" "The request's KV blocks were taken away; it is back in the queue.";
        FINISHED = "journey.FINISHED" "The request left the scheduler.";
    }
}

/// Events of `scheduler_steps_N`.
pub mod step_event {
    use super::Event;
    events! {
        BATCH_SUMMARY = "step.BATCH_SUMMARY" "What a sampled step did.";
        REQUEST_SNAPSHOT = "step.REQUEST_SNAPSHOT" "A running request of a richly sampled step, before the step was computed.";
    }
}

/// Attributes of the events of `llm_request`.
pub mod api_event_attribute {
    use super::{Attribute, ValueType};
    attributes! {
        TS_MONOTONIC = "event.ts.monotonic" Double "Monotonic time of the event in seconds.";
        TS_MONOTONIC_NS = "ts.monotonic_ns" Int "Monotonic time of the event in nanoseconds.";
        PREFILL_TOTAL_TOKENS = "prefill.total_tokens" Int "Prompt tokens handed to the engine (HANDOFF_TO_CORE).";
        STATUS_CODE = "http.response.status_code" Int "Status of the response (DEPARTED).";
        REASON = "reason" Text "Why the request ended (ABORTED): client_disconnect, validation_error, generation_error, overloaded, timeout, engine_dead, shutdown or exception.";
        ERROR = "error" Text "What happened, in words (ABORTED).";
    }
}

/// Attributes of the events of `llm_core`.
pub mod core_event_attribute {
    use super::{Attribute, ValueType};
    attributes! {
        EVENT_TYPE = "event.type" Text "The event's name without its prefix.";
        TS_MONOTONIC = "ts.monotonic" Double "Monotonic time of the event in seconds.";
        TS_MONOTONIC_NS = "ts.monotonic_ns" Int "Monotonic time of the event in nanoseconds.";
        SCHEDULER_STEP = "scheduler.step" Int "The engine step of the event; on QUEUED the last one started.";
        PHASE = "phase" Text "WAITING, PREFILL or DECODE.";
        PREFILL_DONE_TOKENS = "prefill.done_tokens" Int "Prompt tokens computed so far; survives preemption.";
        PREFILL_TOTAL_TOKENS = "prefill.total_tokens" Int "Prompt tokens of the request.";
        DECODE_DONE_TOKENS = "decode.done_tokens" Int "Output tokens generated so far.";
        DECODE_MAX_TOKENS = "decode.max_tokens" Int "The most output tokens the request may generate.";
        NUM_PREEMPTIONS = "num_preemptions" Int "Preemptions so far, this event included; each PREEMPTED counts as many times as its journey.folded says.";
        SCHEDULE_KIND = "schedule.kind" Text "FIRST, or RESUME after a preemption (SCHEDULED).";
        CACHED_TOKENS = "cached_tokens" Int "Prompt tokens found in the prefix cache (SCHEDULED).";
        SCHEDULED_TOKENS = "scheduled_tokens" Int "Tokens this step computes for the request; absent where the engine does not say (SCHEDULED).";
        WAIT_REASON = "wait.reason" Text "Why it had waited, for most of the time: token_budget, max_num_seqs, kv_blocks, head_of_line or paused; absent when it was scheduled by the first step after it came (SCHEDULED).";
        WAIT_BLOCKER = "wait.blocker" Text "The request that was to blame for that wait, where it was one alone (SCHEDULED).";
        PREEMPTED_BY = "preempted.by" Text "The request that needed the KV blocks (PREEMPTED).";
        TOKENS_LOST = "tokens_lost" Int "Tokens whose KV must be computed again; absent where the engine does not say (PREEMPTED).";
        KV_BLOCKS_FREED = "kv.blocks_freed" Int "KV blocks that went back to the pool; absent where the engine does not say (PREEMPTED).";
        FOLDED = "journey.folded" Int "How many pairs of PREEMPTED and SCHEDULED(RESUME) this event and the next one stand for, when it is more than one (PREEMPTED).";
        FOLDED_PREEMPTED_NS = "journey.folded_preempted_ns" Int "Time between PREEMPTED and SCHEDULED(RESUME) of all these pairs together, in nanoseconds (PREEMPTED with journey.folded).";
        INFERRED = "journey.inferred" Bool "True where the engine did not say so: the server knows it, or assumes it for want of anything better (QUEUED, FINISHED).";
        FINISH_STATUS = "finish.status" Text "stopped, length, aborted, ignored or error (FINISHED).";
    }
}

/// Attributes of the events of `scheduler_steps_N`.
pub mod step_event_attribute {
    use super::{Attribute, ValueType};
    attributes! {
        STEP_ID = "step.id" Int "The step's number: scheduler.step of the events of requests.";
        TS_START_NS = "step.ts_start_ns" Int "Monotonic time at which the step's planning began, in nanoseconds (BATCH_SUMMARY).";
        TS_END_NS = "step.ts_end_ns" Int "Monotonic time at which the step was done, in nanoseconds (BATCH_SUMMARY).";
        DURATION_US = "step.duration_us" Int "The whole step, in microseconds (BATCH_SUMMARY).";
        SCHEDULE_US = "step.schedule_us" Int "Of it, the planning (BATCH_SUMMARY).";
        EXECUTE_US = "step.execute_us" Int "Of it, the computing (BATCH_SUMMARY).";
        COMMIT_US = "step.commit_us" Int "Of it, taking over what was computed (BATCH_SUMMARY).";
        RUNNING_DEPTH = "queue.running_depth" Int "Requests that were running, once the step was planned (BATCH_SUMMARY).";
        WAITING_DEPTH = "queue.waiting_depth" Int "Requests that were waiting, once the step was planned (BATCH_SUMMARY).";
        NUM_PREFILL_REQS = "batch.num_prefill_reqs" Int "Requests with prompt tokens in the step, or with tokens computed again (BATCH_SUMMARY).";
        NUM_DECODE_REQS = "batch.num_decode_reqs" Int "Requests with nothing but their last output token in the step (BATCH_SUMMARY).";
        SCHEDULED_TOKENS = "batch.scheduled_tokens" Int "Tokens of the step: prefill and decode (BATCH_SUMMARY).";
        PREFILL_TOKENS = "batch.prefill_tokens" Int "Prompt tokens, and tokens computed again (BATCH_SUMMARY).";
        DECODE_TOKENS = "batch.decode_tokens" Int "Output tokens (BATCH_SUMMARY).";
        NUM_FINISHED = "batch.num_finished" Int "Requests that ended with the step (BATCH_SUMMARY).";
        NUM_PREEMPTED = "batch.num_preempted" Int "Requests that were preempted for the step (BATCH_SUMMARY).";
        KV_USAGE_RATIO = "kv.usage_gpu_ratio" Double "Share of the KV blocks in use after the step, from 0 to 1 (BATCH_SUMMARY).";
        KV_BLOCKS_TOTAL = "kv.blocks_total_gpu" Int "KV blocks in the pool (BATCH_SUMMARY).";
        KV_BLOCKS_FREE = "kv.blocks_free_gpu" Int "KV blocks that are free after the step (BATCH_SUMMARY).";
        REQUEST_ID = "request.id" Text "The request (REQUEST_SNAPSHOT).";
        REQUEST_PHASE = "request.phase" Text "PREFILL or DECODE (REQUEST_SNAPSHOT).";
        REQUEST_PROMPT_TOKENS = "request.num_prompt_tokens" Int "Its prompt tokens (REQUEST_SNAPSHOT).";
        REQUEST_COMPUTED_TOKENS = "request.num_computed_tokens" Int "Its tokens that were computed before the step (REQUEST_SNAPSHOT).";
        REQUEST_OUTPUT_TOKENS = "request.num_output_tokens" Int "Its output tokens before the step (REQUEST_SNAPSHOT).";
        REQUEST_PREEMPTIONS = "request.num_preemptions" Int "Its preemptions (REQUEST_SNAPSHOT).";
        REQUEST_SCHEDULED_TOKENS = "request.scheduled_tokens_this_step" Int "What the step computes for it (REQUEST_SNAPSHOT).";
        REQUEST_EFFECTIVE_PROMPT = "request.effective_prompt_len" Int "Its prompt tokens without those found in the prefix cache, when some were (REQUEST_SNAPSHOT).";
        REQUEST_KV_BLOCKS = "kv.blocks_allocated_gpu" Int "Its KV blocks (REQUEST_SNAPSHOT).";
        REQUEST_KV_BLOCKS_CACHED = "kv.blocks_cached_gpu" Int "Those of them that others can find in the prefix cache (REQUEST_SNAPSHOT).";
    }
}

/// Attributes of `scheduler_steps_N`.
pub mod step_span_attribute {
    use super::{Attribute, ValueType};
    attributes! {
        SPAN_SEQUENCE = "scheduler.span_sequence" Int "The span's place among those of its engine, from 1.";
        STEP_RANGE_START = "scheduler.step_range_start" Int "Its first step.";
        STEP_RANGE_END = "scheduler.step_range_end" Int "Its last step.";
        CLOSURE_INTERVAL = "scheduler.closure_interval" Int "After how many steps spans are closed.";
        ENGINE_ID = "wayfare.engine_id" Int "Which engine of the server it comes from; the same on llm_core.";
    }
}

/// Attributes of the spans.
pub mod span_attribute {
    use super::{Attribute, ValueType};
    use crate::WaitReason;
    attributes! {
        REQUEST_ID = "gen_ai.request.id" Text "The response's id; the same on both spans.";
        SEQUENCE_INDEX = "wayfare.sequence_index" Int "Which sequence of the request this is, from 0 (llm_core).";
        ENGINE_ID = "wayfare.engine_id" Int "Which engine of the server had it; with scheduler.step it names a step (llm_core).";
        CLOCK_SOURCE = "clock.source" Text "How the times of an engine in another process were had: engine_same_host, they are those of this host's clock; estimated, from the delivery of its messages (llm_core).";
        HTTP_ROUTE = "http.route" Text "The matched route.";
        STATUS_CODE = "http.response.status_code" Int "Status of the response.";
        ERROR_TYPE = "error.type" Text "Class of the error, when the request failed.";
        OPERATION_NAME = "gen_ai.operation.name" Text "chat or text_completion.";
        PROVIDER_NAME = "gen_ai.provider.name" Text "Always wayfare.";
        REQUEST_MODEL = "gen_ai.request.model" Text "The model name in the request.";
        RESPONSE_MODEL = "gen_ai.response.model" Text "The model name in the response.";
        REQUEST_TEMPERATURE = "gen_ai.request.temperature" Double "Sampling temperature in force.";
        REQUEST_TOP_P = "gen_ai.request.top_p" Double "Nucleus sampling share in force.";
        REQUEST_TOP_K = "gen_ai.request.top_k" Int "Top-k limit, when there is one.";
        REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens" Int "Limit on output tokens in force.";
        REQUEST_N = "gen_ai.request.n" Int "Choices asked for.";
        REQUEST_SEED = "gen_ai.request.seed" Int "Seed, when the client gave one.";
        REQUEST_STREAM = "gen_ai.request.stream" Bool "Whether the answer is streamed.";
        FINISH_REASONS = "gen_ai.response.finish_reasons" TextList "Finish reason of each choice.";
        INPUT_TOKENS = "gen_ai.usage.input_tokens" Int "Prompt tokens.";
        OUTPUT_TOKENS = "gen_ai.usage.output_tokens" Int "Generated tokens, all choices together.";
        PROMPT_TOKENS = "gen_ai.usage.prompt_tokens" Int "Prompt tokens, under the reference's name.";
        COMPLETION_TOKENS = "gen_ai.usage.completion_tokens" Int "Generated tokens, under the reference's name.";
        CACHE_READ_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens" Int "Prompt tokens found in the prefix cache.";
        TIME_TO_FIRST_TOKEN = "gen_ai.latency.time_to_first_token" Double "Arrival to first token, in seconds.";
        E2E = "gen_ai.latency.e2e" Double "Arrival to end, in seconds.";
        TIME_IN_QUEUE = "gen_ai.latency.time_in_queue" Double "First QUEUED to first SCHEDULED, in seconds.";
        TIME_IN_MODEL_PREFILL = "gen_ai.latency.time_in_model_prefill" Double "First SCHEDULED to first token, in seconds.";
        TIME_IN_MODEL_DECODE = "gen_ai.latency.time_in_model_decode" Double "First token to FINISHED, in seconds.";
        TIME_IN_MODEL_INFERENCE = "gen_ai.latency.time_in_model_inference" Double "First SCHEDULED to FINISHED, in seconds.";
        LEDGER_RECEIVE = "journey.ledger.receive_ns" Int "Head read to body complete (llm_request).";
        LEDGER_PREPARE = "journey.ledger.prepare_ns" Int "Parse, validate, template, tokenise (llm_request).";
        LEDGER_ADMIT = "journey.ledger.admit_ns" Int "Handed to the engine to QUEUED (llm_request).";
        LEDGER_QUEUE = "journey.ledger.queue_ns" Int "QUEUED to the first SCHEDULED, all reasons together.";
        LEDGER_QUEUE_NEXT_STEP = "journey.ledger.queue.next_step_ns" Int "Of queue_ns: nothing stood in its way, the next step had not begun.";
        LEDGER_QUEUE_TOKEN_BUDGET = "journey.ledger.queue.token_budget_ns" Int "Of queue_ns: others had taken the step's tokens.";
        LEDGER_QUEUE_MAX_NUM_SEQS = "journey.ledger.queue.max_num_seqs_ns" Int "Of queue_ns: as many sequences were running as may.";
        LEDGER_QUEUE_KV_BLOCKS = "journey.ledger.queue.kv_blocks_ns" Int "Of queue_ns: it was first in the queue and too few KV blocks were free.";
        LEDGER_QUEUE_HEAD_OF_LINE = "journey.ledger.queue.head_of_line_ns" Int "Of queue_ns: the first in the queue could not be scheduled, and nobody overtakes.";
        LEDGER_QUEUE_PAUSED = "journey.ledger.queue.paused_ns" Int "Of queue_ns: the engine was paused; also while the request was running already.";
        LEDGER_QUEUE_UNKNOWN = "journey.ledger.queue.unknown_ns" Int "Of queue_ns: the engine does not say why.";
        LEDGER_PREFILL = "journey.ledger.prefill_ns" Int "Steps that computed prompt tokens for the first time.";
        LEDGER_PREFILL_WAIT = "journey.ledger.prefill_wait_ns" Int "Between those steps, while other requests' work ran.";
        LEDGER_DECODE = "journey.ledger.decode_ns" Int "Steps that produced tokens, without interference.";
        LEDGER_INTERFERENCE = "journey.ledger.interference_ns" Int "For each such step, its duration times the share of its tokens that were other requests' prefill; and steps that left the request out for others' prefill.";
        LEDGER_PREEMPTED = "journey.ledger.preempted_ns" Int "PREEMPTED to SCHEDULED(RESUME).";
        LEDGER_RECOMPUTE = "journey.ledger.recompute_ns" Int "Steps that computed again what had been computed before a preemption.";
        LEDGER_DELIVER = "journey.ledger.deliver_ns" Int "FINISHED in the engine to the end of the response (llm_request).";
        DELIVER_BLOCKED = "journey.deliver.blocked_ns" Int "Output lay ready and the client took nothing; overlaps with the engine's work (llm_request).";
        TOKENS_CACHED = "journey.tokens.cached" Int "Prompt tokens found in the prefix cache.";
        TOKENS_RECOMPUTED = "journey.tokens.recomputed" Int "Tokens computed again after a preemption.";
        TOKENS_WASTED = "journey.tokens.wasted" Int "Tokens computed and never delivered: generated beyond the answer; all of them when the request failed or was abandoned (llm_request).";
    }

    /// The part of [`LEDGER_QUEUE`] that was waited for this reason.
    #[must_use]
    pub fn ledger_queue(reason: WaitReason) -> Attribute {
        match reason {
            WaitReason::NextStep => LEDGER_QUEUE_NEXT_STEP,
            WaitReason::TokenBudget => LEDGER_QUEUE_TOKEN_BUDGET,
            WaitReason::MaxNumSeqs => LEDGER_QUEUE_MAX_NUM_SEQS,
            WaitReason::KvBlocks => LEDGER_QUEUE_KV_BLOCKS,
            WaitReason::HeadOfLine => LEDGER_QUEUE_HEAD_OF_LINE,
            WaitReason::Paused => LEDGER_QUEUE_PAUSED,
            WaitReason::Unknown => LEDGER_QUEUE_UNKNOWN,
        }
    }
}

/// Attributes of the resource that says which server the spans come from.
pub mod resource_attribute {
    use super::{Attribute, ValueType};
    attributes! {
        SERVICE_NAME = "service.name" Text "wayfare, unless configured.";
        SERVICE_VERSION = "service.version" Text "The server's version.";
        SERVICE_INSTANCE_ID = "service.instance.id" Text "Random per process.";
        HOST_NAME = "host.name" Text "The machine.";
        PROCESS_PID = "process.pid" Int "The process.";
        MODEL = "wayfare.model" Text "The model being served.";
        ENGINE = "wayfare.engine" Text "Which engine serves it.";
        MAX_NUM_SEQS = "wayfare.max_num_seqs" Int "Most sequences running at once.";
        MAX_NUM_BATCHED_TOKENS = "wayfare.max_num_batched_tokens" Int "Most tokens per step.";
        BLOCK_SIZE = "wayfare.block_size" Int "Tokens per KV block.";
        NUM_KV_BLOCKS = "wayfare.num_kv_blocks" Int "KV blocks in the pool.";
    }
}
