"""Writes frames-VERSION.json: messages as the engine core of each release of vLLM sends them.

Made with msgspec, the library that vLLM encodes its messages with (`pip install msgspec`). The tables below say which
field came with which release; positions follow from their order.
"""

import json
import pathlib
import struct

import msgspec

RELEASES = ["0.23", "0.25", "0.26", "0.28", "0.30", "0.31", "0.32", "0.33"]

# (name, default, first release that has it); no default: required.
REQUIRED = object()
OUTPUT = [
    ("request_id", REQUIRED, "0.23"),
    ("new_token_ids", REQUIRED, "0.23"),
    ("new_logprobs", None, "0.23"),
    ("new_prompt_logprobs_tensors", None, "0.23"),
    ("pooling_output", None, "0.23"),
    ("finish_reason", None, "0.23"),
    ("stop_reason", None, "0.23"),
    ("events", None, "0.23"),
    ("kv_transfer_params", None, "0.23"),
    ("ec_transfer_params", None, "0.26"),
    ("trace_headers", None, "0.23"),
    ("prefill_stats", None, "0.23"),
    ("routed_experts", None, "0.23"),
    ("num_nans_in_logits", 0, "0.23"),
    ("mm_cache_miss_hashes", None, "0.28"),
    ("new_sampling_mask", None, "0.28"),
    ("spec_decode_metrics", None, "0.30"),
    ("prompt_token_id_logprobs", None, "0.31"),
    ("error", None, "0.33"),
]
OUTPUTS = [
    ("engine_index", 0, "0.23"),
    ("outputs", [], "0.23"),
    ("scheduler_stats", None, "0.23"),
    ("timestamp", 0.0, "0.23"),
    ("utility_output", None, "0.23"),
    ("finished_requests", None, "0.23"),
    ("wave_complete", None, "0.23"),
    ("start_wave", None, "0.23"),
    ("weight_version", None, "0.32"),
]


def number(release):
    return tuple(int(part) for part in release.split("."))


def struct_of(name, table, release):
    fields = []
    for field, default, since in table:
        if number(since) > number(release):
            continue
        fields.append((field, object) if default is REQUIRED else (field, object, default))
    return msgspec.defstruct(name, fields, array_like=True, omit_defaults=True, gc=False)


class Event(msgspec.Struct):
    type: int
    timestamp: float


class Error(msgspec.Struct):
    code: str
    message: str
    retryable: bool = False


def array(dtype, code, shape, values):
    """A small array: its data is in the message."""
    return (dtype, shape, msgspec.msgpack.Ext(3, struct.pack(f"<{len(values)}{code}", *values)))


def frames_of(release):
    Output = struct_of("EngineCoreOutput", OUTPUT, release)
    Outputs = struct_of("EngineCoreOutputs", OUTPUTS, release)
    encode = msgspec.msgpack.Encoder().encode
    id_of = "{:08x}{:08x}".format

    stats = {
        "num_running_reqs": 2,
        "num_waiting_reqs": 3,
        "num_skipped_waiting_reqs": 1,
        "step_counter": 0,
        "current_wave": 0,
        "kv_cache_usage": 0.25,
        "prefix_cache_stats": {
            "reset": False, "requests": 1, "queries": 40, "hits": 16,
            "preempted_requests": 0, "preempted_queries": 0, "preempted_hits": 0,
        },
        "connector_prefix_cache_stats": None,
        "kv_cache_eviction_events": [],
        "spec_decoding_stats": None,
        "kv_connector_stats": None,
        "waiting_lora_adapters": {},
        "running_lora_adapters": {},
        "cudagraph_stats": None,
        "perf_stats": None,
    }
    if number(release) >= (0, 28):
        stats["iteration_details"] = {
            "iteration_index": 7, "num_ctx_requests": 1, "num_ctx_tokens": 24,
            "num_generation_requests": 1, "num_generation_tokens": 1, "elapsed_ms": 12.5,
        }
    if number(release) >= (0, 32):
        stats["num_kv_fetch_reqs_by_stage"] = {"waiting": 1}

    sampled = (
        array("<i4", "i", (1, 3), [11, 11, 12]),
        array("<f4", "f", (1, 3), [-0.25, -0.25, -1.5]),
        array("<i8", "q", (1,), [1]),
        None,
    )
    # Larger than what is sent in the message itself: its data is in a frame of its own.
    prompt_ids = list(range(100, 140))
    prompt = (
        ("int32", (40, 1), 1),
        ("float32", (40, 1), 2),
        ("int64", (40,), 3),
        None,
    ) + ((None,) if number(release) >= (0, 30) else ())
    prompt_data = [
        struct.pack("<40i", *prompt_ids),
        struct.pack("<40f", *[-i / 8 for i in range(40)]),
        struct.pack("<40q", *[i + 1 for i in range(40)]),
    ]
    messages = {
        "decode step of two requests": [encode(Outputs(
            outputs=[Output(id_of(0, 0), [5]), Output(id_of(1, 1), [70000])],
            scheduler_stats=stats, timestamp=1000.5,
        ))],
        "first token": [encode(Outputs(
            outputs=[Output(
                id_of(2, 3), [11], new_logprobs=sampled, events=[Event(1, 1000.0), Event(2, 1000.25)],
                prefill_stats={
                    "num_prompt_tokens": 40, "num_computed_tokens": 24, "num_cached_tokens": 16,
                    "num_local_cached_tokens": 16, "num_external_cached_tokens": 0,
                },
            )],
            timestamp=1000.5,
        ))],
        "prompt logprobs in frames of their own": [encode(Outputs(
            outputs=[Output(id_of(0, 4), [1], new_prompt_logprobs_tensors=prompt)], timestamp=1001.0,
        ))] + prompt_data,
        "resumed after a preemption": [encode(Outputs(
            engine_index=1,
            outputs=[Output(id_of(0, 5), [9, 8, 7], events=[Event(3, 1001.0), Event(2, 1001.5)])],
            timestamp=1002.0,
        ))],
        "ends": [encode(Outputs(
            outputs=[
                Output(id_of(0, 0), [2], finish_reason=0),
                Output(id_of(0, 1), [7], finish_reason=0, stop_reason=7),
                Output(id_of(0, 2), [1], finish_reason=1),
                Output(id_of(0, 3), [], finish_reason=2),
                Output(id_of(0, 4), [], finish_reason=3, **(
                    {"error": Error("validation_error", "no such grammar")} if number(release) >= (0, 33) else {}
                )),
                Output(id_of(0, 5), [1], finish_reason=4, stop_reason="repetition_detected"),
                Output("somebody-else's", [1]),
            ],
            timestamp=1003.0, finished_requests=[id_of(0, 0)],
        ))],
        "optional fields that are not used": [encode(Outputs(
            outputs=[Output(
                id_of(0, 6), [4], kv_transfer_params={"block": [1, {"a": None}]}, trace_headers={"traceparent": "x"},
                num_nans_in_logits=1, **(
                    {"ec_transfer_params": {"hash": "h"}} if number(release) >= (0, 26) else {}
                ),
            )],
            timestamp=1004,
        ))],
        "answer to a utility call": [encode(Outputs(timestamp=1005.0, utility_output=(12, None, (None, True))))],
        "failed utility call": [encode(Outputs(timestamp=1005.0, utility_output=(13, "no such method")))],
        "state only": [encode(Outputs(scheduler_stats=stats, timestamp=1006.0))],
    }
    ready = {
        "max_model_len": 2048, "num_gpu_blocks": 512, "block_size": 16, "dp_stats_address": None, "dtype": "bfloat16",
        "vllm_version": f"{release}.0", "world_size": 1, "max_num_seqs": 64, "max_num_batched_tokens": 4096,
        "instance_id": "a1b2",
    }
    if number(release) >= (0, 25):
        ready["data_parallel_size"] = 2
    greetings = {
        "hello": [encode({"status": "HELLO", "local": False, "headless": True})],
        "ready greeting": [encode({
            "status": "READY", "local": False, "headless": True, "parallel_config_hash": "c0ffee",
        })],
        "ready message": [encode(ready)],
    }
    return {**messages, **greetings}


def main():
    folder = pathlib.Path(__file__).parent
    for release in RELEASES:
        frames = {name: [frame.hex() for frame in frames] for name, frames in frames_of(release).items()}
        (folder / f"frames-{release}.json").write_text(json.dumps(frames, indent=1) + "\n")


if __name__ == "__main__":
    main()
