//! What an engine core of release 0.32 says.

use rmp::encode::{
    ValueWriteError, write_array_len, write_bool, write_f64, write_map_len, write_nil, write_sint, write_str,
    write_uint,
};
use wayfare_journey::MonoNs;

use super::requests::CallId;
use super::{MockVllmOptions, Running};

/// Fields of a message and of an output, as of 0.32 (`vllm/v1/engine/__init__.py`).
const MESSAGE_FIELDS: u32 = 9;
const OUTPUT_FIELDS: u32 = 18;
const FINISHED_BY_LENGTH: u64 = 1;
const QUEUED: u64 = 1;
const SCHEDULED: u64 = 2;
/// Ordinary words in the vocabulary of the default model, and tokens in any other.
const FIRST_TOKEN: u64 = 1000;
const TOKENS: u64 = 64;
/// What it says of its KV cache.
const BLOCK_SIZE: u32 = 16;
const NUM_GPU_BLOCKS: u64 = 65_537;

type Written = Result<(), ValueWriteError<std::io::Error>>;

/// The first greeting.
pub(super) fn hello() -> Vec<u8> {
    greeting("HELLO", None)
}

/// The second one. Ranks that do not name the same settings are not taken.
pub(super) fn ready_greeting(ranks: u16) -> Vec<u8> {
    greeting("READY", (ranks > 1).then_some("mock"))
}

fn greeting(status: &str, config_hash: Option<&str>) -> Vec<u8> {
    frame(|frame| {
        write_map_len(frame, 3 + u32::from(config_hash.is_some()))?;
        write_str(frame, "status")?;
        write_str(frame, status)?;
        write_str(frame, "local")?;
        boolean(frame, false)?;
        write_str(frame, "headless")?;
        boolean(frame, true)?;
        if let Some(hash) = config_hash {
            write_str(frame, "parallel_config_hash")?;
            write_str(frame, hash)?;
        }
        Ok(())
    })
}

/// What it says of itself on the request socket. All fields that vLLM's own front requires.
pub(super) fn ready_message(options: &MockVllmOptions) -> Vec<u8> {
    let numbers: [(&str, u64); 12] = [
        ("max_model_len", options.max_model_len.into()),
        ("num_gpu_blocks", NUM_GPU_BLOCKS),
        ("block_size", BLOCK_SIZE.into()),
        ("world_size", 1),
        ("data_parallel_size", options.ranks.into()),
        ("tensor_parallel_size", 1),
        ("pipeline_parallel_size", 1),
        ("decode_context_parallel_size", 1),
        ("data_parallel_rank", options.rank.into()),
        ("max_num_seqs", options.max_num_seqs.into()),
        ("max_num_batched_tokens", 8192),
        ("max_loras", 0),
    ];
    let texts = [("dtype", "float32"), ("vllm_version", "0.32.0"), ("instance_id", "mock")];
    frame(|frame| {
        write_map_len(frame, (numbers.len() + texts.len()) as u32 + 2)?;
        for (key, number) in numbers {
            write_str(frame, key)?;
            write_uint(frame, number)?;
        }
        for (key, text) in texts {
            write_str(frame, key)?;
            write_str(frame, text)?;
        }
        write_str(frame, "dp_stats_address")?;
        nils(frame, 1)?;
        write_str(frame, "supports_lora")?;
        boolean(frame, false)
    })
}

/// The answer to a utility call: what a front asks for before it serves, and nil for everything else.
pub(super) fn utility_answer(rank: u16, call_id: &CallId, method: &str, now: MonoNs) -> Vec<u8> {
    frame(|frame| {
        write_array_len(frame, MESSAGE_FIELDS)?;
        write_uint(frame, rank.into())?;
        write_array_len(frame, 0)?;
        nils(frame, 1)?;
        write_f64(frame, seconds(now))?;
        // The number, no failure, and a result of no particular type.
        write_array_len(frame, 3)?;
        match *call_id {
            CallId::Signed(id) => write_sint(frame, id).map(drop)?,
            CallId::Unsigned(id) => write_uint(frame, id).map(drop)?,
        }
        nils(frame, 1)?;
        write_array_len(frame, 2)?;
        nils(frame, 1)?;
        match method {
            "get_supported_tasks" => {
                write_array_len(frame, 1)?;
                write_str(frame, "generate")?;
            }
            "is_sleeping" | "is_scheduler_paused" => boolean(frame, false)?,
            "reset_prefix_cache" => boolean(frame, true)?,
            _ => nils(frame, 1)?,
        }
        nils(frame, 4)
    })
}

/// Writes the messages of steps.
#[derive(Debug, Default)]
pub(super) struct StepWriter {
    steps: u64,
    /// How long the last message was, so that the next needs no second allocation.
    last_bytes: usize,
}

impl StepWriter {
    /// The message of a step that gives each of these a token. Those that have had their last are taken out.
    pub(super) fn write(
        &mut self,
        rank: u16,
        running: &mut Vec<Running>,
        started: MonoNs,
        now: MonoNs,
    ) -> Vec<u8> {
        self.steps += 1;
        let mut frame = Vec::with_capacity(self.last_bytes + 256);
        self.write_message(&mut frame, rank, running, started, now).expect("a vector takes what is written");
        running.retain(|request| request.produced < request.max_tokens);
        self.last_bytes = frame.len();
        frame
    }

    fn write_message(
        &self,
        frame: &mut Vec<u8>,
        rank: u16,
        running: &mut [Running],
        started: MonoNs,
        now: MonoNs,
    ) -> Written {
        write_array_len(frame, MESSAGE_FIELDS)?;
        write_uint(frame, rank.into())?;
        write_array_len(frame, running.len() as u32)?;
        let mut queries = 0;
        for request in &mut *running {
            if request.scheduled.is_none() {
                queries += u64::from(request.prompt_tokens);
            }
            write_output(frame, request, started)?;
        }
        self.write_stats(frame, running, queries)?;
        write_f64(frame, seconds(now))?;
        // utility_output, finished_requests, wave_complete, start_wave
        nils(frame, 4)?;
        // weight_version
        write_str(frame, "default")
    }

    /// All that an engine core sends with each step.
    fn write_stats(&self, frame: &mut Vec<u8>, running: &[Running], queries: u64) -> Written {
        let tokens = |request: &Running| u64::from(request.prompt_tokens) + u64::from(request.produced);
        let blocks: u64 = running.iter().map(|request| tokens(request).div_ceil(BLOCK_SIZE.into())).sum();
        write_map_len(frame, 18)?;
        for (key, number) in [
            ("num_running_reqs", running.len() as u64),
            ("num_waiting_reqs", 0),
            ("num_skipped_waiting_reqs", 0),
            ("step_counter", self.steps),
            ("current_wave", 0),
        ] {
            write_str(frame, key)?;
            write_uint(frame, number)?;
        }
        write_str(frame, "kv_cache_usage")?;
        write_f64(frame, (blocks as f64 / (NUM_GPU_BLOCKS - 1) as f64).min(1.0))?;
        write_str(frame, "prefix_cache_stats")?;
        write_map_len(frame, 8)?;
        write_str(frame, "reset")?;
        boolean(frame, false)?;
        for (key, number) in [
            ("requests", u64::from(queries > 0)),
            ("queries", queries),
            ("hits", 0),
            ("preempted_requests", 0),
            ("preempted_queries", 0),
            ("preempted_hits", 0),
        ] {
            write_str(frame, key)?;
            write_uint(frame, number)?;
        }
        write_str(frame, "hits_by_source")?;
        write_map_len(frame, 0)?;
        write_str(frame, "num_kv_fetch_reqs_by_stage")?;
        write_map_len(frame, 3)?;
        for key in ["waiting_to_start", "in_progress", "completed_waiting"] {
            write_str(frame, key)?;
            write_uint(frame, 0)?;
        }
        for key in ["waiting_lora_adapters", "running_lora_adapters"] {
            write_str(frame, key)?;
            write_map_len(frame, 0)?;
        }
        write_str(frame, "kv_cache_eviction_events")?;
        write_array_len(frame, 0)?;
        for key in [
            "iteration_details",
            "connector_prefix_cache_stats",
            "spec_decoding_stats",
            "kv_connector_stats",
            "ec_connector_stats",
            "cudagraph_stats",
            "perf_stats",
        ] {
            write_str(frame, key)?;
            nils(frame, 1)?;
        }
        Ok(())
    }
}

fn write_output(frame: &mut Vec<u8>, request: &mut Running, started: MonoNs) -> Written {
    write_array_len(frame, OUTPUT_FIELDS)?;
    write_str(frame, &request.id)?;
    write_array_len(frame, 1)?;
    write_uint(frame, FIRST_TOKEN + u64::from(request.produced) % TOKENS)?;
    request.produced += 1;
    // new_logprobs, new_prompt_logprobs_tensors, pooling_output
    nils(frame, 3)?;
    if request.produced >= request.max_tokens {
        write_uint(frame, FINISHED_BY_LENGTH)?;
    } else {
        nils(frame, 1)?;
    }
    // stop_reason
    nils(frame, 1)?;
    let is_first = request.scheduled.is_none();
    if is_first {
        let scheduled = *request.scheduled.insert(started.max(request.queued));
        write_array_len(frame, 2)?;
        for (kind, at) in [(QUEUED, request.queued), (SCHEDULED, scheduled)] {
            write_map_len(frame, 2)?;
            write_str(frame, "type")?;
            write_uint(frame, kind)?;
            write_str(frame, "timestamp")?;
            write_f64(frame, seconds(at))?;
        }
    } else {
        nils(frame, 1)?;
    }
    // kv_transfer_params, ec_transfer_params, trace_headers
    nils(frame, 3)?;
    if is_first {
        write_map_len(frame, 6)?;
        let prompt = request.prompt_tokens.into();
        for (key, number) in [
            ("num_prompt_tokens", prompt),
            ("num_computed_tokens", prompt),
            ("num_cached_tokens", 0),
            ("num_local_cached_tokens", 0),
            ("num_external_cached_tokens", 0),
            ("num_cache_creation_tokens", prompt),
        ] {
            write_str(frame, key)?;
            write_uint(frame, number)?;
        }
    } else {
        nils(frame, 1)?;
    }
    // routed_experts, num_nans_in_logits, mm_cache_miss_hashes, new_sampling_mask, spec_decode_metrics,
    // prompt_token_id_logprobs
    nils(frame, 1)?;
    write_uint(frame, 0)?;
    nils(frame, 4)
}

fn frame(write: impl FnOnce(&mut Vec<u8>) -> Written) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame).expect("a vector takes what is written");
    frame
}

fn nils(frame: &mut Vec<u8>, count: u32) -> Written {
    (0..count).try_for_each(|_| write_nil(frame).map_err(ValueWriteError::InvalidDataWrite))
}

fn boolean(frame: &mut Vec<u8>, value: bool) -> Written {
    write_bool(frame, value).map_err(ValueWriteError::InvalidDataWrite)
}

/// Times of an engine core are seconds of its monotonic clock.
fn seconds(at: MonoNs) -> f64 {
    at.0 as f64 / 1e9
}
