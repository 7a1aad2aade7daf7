"""An engine core to talk to: the engine's side of vLLM's protocol, without vLLM.

Needs pyzmq (libzmq, the sockets that vLLM uses) and msgspec (its encoder). Says hello, waits for the addresses, says that
it is ready. After that it does what it is told, one JSON command on a line of standard input, and says what it hears, one
JSON event on a line of standard output; or, with --auto, it answers requests by itself.

With --front it is `vllm serve` besides: it binds the sockets, starts that program as vLLM starts its front in Rust, and
ends it when it is told to end.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import msgspec
import zmq

# Fields that the protocol has gained, by the release that brought them.
OUTPUT_FIELDS = [
    ("request_id", None, 23), ("new_token_ids", None, 23), ("new_logprobs", None, 23),
    ("new_prompt_logprobs_tensors", None, 23), ("pooling_output", None, 23), ("finish_reason", None, 23),
    ("stop_reason", None, 23), ("events", None, 23), ("kv_transfer_params", None, 23), ("ec_transfer_params", None, 26),
    ("trace_headers", None, 23), ("prefill_stats", None, 23), ("routed_experts", None, 23), ("num_nans_in_logits", 0, 23),
    ("mm_cache_miss_hashes", None, 28), ("new_sampling_mask", None, 28), ("spec_decode_metrics", None, 30),
    ("prompt_token_id_logprobs", None, 31), ("error", None, 33),
]


class SamplingParams(msgspec.Struct, omit_defaults=True, dict=True):
    """What the engine core reads of them, with its types: a request with others is not taken."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    stop_token_ids: list[int] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    structured_outputs: dict | None = None
    _eos_token_id: int | None = None
    _all_stop_token_ids: set[int] = msgspec.field(default_factory=set)
    _bad_words_token_ids: list[list[int]] | None = None


class EngineCoreRequest(msgspec.Struct, array_like=True, omit_defaults=True):
    request_id: str
    prompt_token_ids: list[int] | None
    mm_features: list | None
    sampling_params: SamplingParams | None
    pooling_params: dict | None
    arrival_time: float
    lora_request: dict | None
    cache_salt: str | None
    data_parallel_rank: int | None
    prompt_embeds: None = None
    prompt_is_token_ids: list[bool] | None = None
    client_index: int = 0
    current_wave: int = 0
    priority: int = 0


class Utility(msgspec.Struct, array_like=True):
    client_index: int
    call_id: int
    method: str
    args: list


class Handshake(msgspec.Struct):
    inputs: list[str]
    outputs: list[str]
    coordinator_input: str | None = None
    coordinator_output: str | None = None
    frontend_stats_publish_address: str | None = None


class Init(msgspec.Struct):
    addresses: Handshake
    parallel_config: dict[str, int | str | list[int]]


class Peer:
    def __init__(self, options):
        self.options = options
        self.minor = int(options.version.split(".")[1])
        self.encode = msgspec.msgpack.Encoder().encode
        self.decode_request = msgspec.msgpack.Decoder(EngineCoreRequest).decode
        self.context = zmq.Context()
        self.identity = options.rank.to_bytes(2, "little")
        self.lock = threading.Lock()

    def say(self, event, **facts):
        with self.lock:
            print(json.dumps({"event": event, **facts}), flush=True)

    def dealer(self, address, linger=0):
        socket = self.context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, self.identity)
        socket.setsockopt(zmq.LINGER, linger)
        socket.connect(address)
        return socket

    def start(self):
        options = self.options
        handshake = self.dealer(options.handshake, linger=5000)
        greeting = {"local": False, "headless": True}
        handshake.send(self.encode({"status": "HELLO", **greeting}))
        init = msgspec.msgpack.decode(handshake.recv(), type=Init)
        self.say("init", inputs=init.addresses.inputs, outputs=init.addresses.outputs)
        self.connect(init.addresses.inputs[0], init.addresses.outputs[0])
        if not options.never_ready:
            hash_of_config = {"parallel_config_hash": options.config_hash} if options.ranks > 1 else {}
            handshake.send(self.encode({"status": "READY", **greeting, **hash_of_config}))
        self.say("ready")

    def connect(self, inputs, outputs):
        options = self.options
        self.input = self.dealer(inputs)
        self.output = self.context.socket(zmq.PUSH)
        self.output.setsockopt(zmq.LINGER, 4000)
        self.output.connect(outputs)
        ready = {
            "max_model_len": options.max_model_len, "num_gpu_blocks": options.num_gpu_blocks, "block_size": 16,
            "dp_stats_address": None, "dtype": "float32", "vllm_version": options.version, "world_size": 1,
            "max_num_seqs": 8, "max_num_batched_tokens": 512, "data_parallel_size": options.ranks, "instance_id": "peer",
        }
        ready.update(json.loads(options.ready))
        self.input.send(self.encode({key: value for key, value in ready.items() if value != "absent"}))

    # Messages to the front.

    def row(self, output):
        events = [{"type": kind, "timestamp": at} for kind, at in output.get("events", [])]
        fields = {**output, "events": events or None}
        return [fields.get(name, default) for name, default, since in OUTPUT_FIELDS if since <= self.minor]

    def send_outputs(self, outputs, stats=None, timestamp=None):
        rows = [self.row(output) for output in outputs]
        at = time.monotonic() if timestamp is None else timestamp
        envelope = [self.options.rank, rows, stats, at, None, None, None, None]
        self.output.send(self.encode(envelope + ([None] if self.minor >= 32 else [])))

    def answer(self, call_id, failure=None, result=None):
        envelope = [self.options.rank, [], None, time.monotonic(), [call_id, failure, [None, result]], None, None, None]
        self.output.send(self.encode(envelope))

    def command(self, line):
        command = json.loads(line)
        what = command.pop("do")
        if what == "outputs":
            self.send_outputs(**command)
        elif what == "answer":
            self.answer(**command)
        elif what == "raw":
            self.output.send_multipart([bytes.fromhex(frame) for frame in command["frames"]])
        elif what == "now":
            self.say("now", seconds=time.monotonic())
        elif what == "vanish":
            os._exit(1)
        else:
            raise ValueError(f"no such command: {what}")

    # Messages from the front.

    def hear(self):
        kind, *frames = self.input.recv_multipart()
        if kind == b"\x00":
            request = self.decode_request(frames[0])
            if self.options.auto:
                self.add(request)
            else:
                self.say("add", **msgspec.to_builtins(msgspec.structs.asdict(request)))
        elif kind == b"\x01":
            ids = msgspec.msgpack.decode(frames[0], type=list[str])
            if self.options.auto:
                for name in ids:
                    self.running.pop(name, None)
            else:
                self.say("abort", ids=ids)
        elif kind == b"\x03":
            call = msgspec.msgpack.decode(frames[0], type=Utility)
            if self.options.auto:
                self.answer(call.call_id, result=True)
            else:
                self.say("utility", call_id=call.call_id, method=call.method, args=call.args)
        else:
            raise ValueError(f"no such message: {kind!r}")

    def run_told(self):
        poller = zmq.Poller()
        poller.register(self.input, zmq.POLLIN)
        poller.register(sys.stdin.fileno(), zmq.POLLIN)
        rest = b""
        while True:
            for socket, _ in poller.poll():
                if socket is self.input:
                    self.hear()
                    continue
                data = os.read(sys.stdin.fileno(), 65536)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self.command(line)

    # Answering by itself: the prompt, backwards and over again, a token in each step.

    def add(self, request):
        self.running[request.request_id] = {"request": request, "queued": time.monotonic(), "scheduled": None, "count": 0}

    def run_auto(self):
        self.running = {}
        parent = os.getppid()
        while os.getppid() == parent:
            while self.input.poll(0 if self.running else 20):
                self.hear()
            if not self.running:
                continue
            started = time.monotonic()
            time.sleep(self.options.step_seconds)
            outputs = []
            for name, state in list(self.running.items()):
                request, output = state["request"], {"request_id": name}
                if state["scheduled"] is None:
                    state["scheduled"] = started
                    output["events"] = [(1, state["queued"]), (2, started)]
                    prompt = len(request.prompt_token_ids)
                    output["prefill_stats"] = {
                        "num_prompt_tokens": prompt, "num_computed_tokens": prompt, "num_cached_tokens": 0,
                    }
                prompt = request.prompt_token_ids
                output["new_token_ids"] = [prompt[-1 - state["count"] % len(prompt)]]
                state["count"] += 1
                if state["count"] >= request.sampling_params.max_tokens:
                    output["finish_reason"] = 1
                    del self.running[name]
                outputs.append(output)
            stats = {"num_running_reqs": len(self.running), "num_waiting_reqs": 0, "kv_cache_usage": 0.5}
            self.send_outputs(outputs, stats=stats)


def unix_listener(path):
    """As vLLM binds the sockets of engines on the same host."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()
    return listener


def client_socket(options):
    """As vLLM binds the socket of clients: nobody listens yet."""
    if options.front_uds:
        clients = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        clients.bind(options.front_uds)
    else:
        clients = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        clients.bind(("127.0.0.1", 0))
    return clients


def serve(options):
    """The supervisor: starts the front, and an engine core for each rank, and ends when the front does."""
    folder = tempfile.TemporaryDirectory()
    inputs, outputs = os.path.join(folder.name, "inputs"), os.path.join(folder.name, "outputs")
    sockets = [client_socket(options), unix_listener(inputs), unix_listener(outputs)]
    numbers = [listener.fileno() for listener in sockets]
    for number in numbers:
        os.set_inheritable(number, True)
    names = ["--listen-fd", "--input-listener-fd", "--output-listener-fd"]
    command = [options.front, "frontend"]
    for name, number in zip(names, numbers):
        command += [name, str(number)]
    command += ["--engine-start-index", str(options.rank), "--engine-count", str(options.ranks)]
    command += ["--data-parallel-size", str(options.rank + options.ranks), "--args-json", options.front_arguments]
    command += json.loads(options.front_options)
    front = subprocess.Popen(command, pass_fds=numbers)
    print(f"front {front.pid}", file=sys.stderr, flush=True)
    for listener in sockets:
        listener.close()
    own = ["--auto", "--inputs", f"ipc://{inputs}", "--outputs", f"ipc://{outputs}", "--ranks", str(options.ranks)]
    own += ["--max-model-len", str(options.max_model_len), "--num-gpu-blocks", str(options.num_gpu_blocks)]
    cores = [
        subprocess.Popen([sys.executable, __file__, *own, "--rank", str(options.rank + rank)])
        for rank in range(options.ranks)
    ]
    signal.signal(signal.SIGTERM, lambda *_: front.terminate())
    status = front.wait()
    for core in cores:
        core.kill()
    folder.cleanup()
    # As a shell says it.
    sys.exit(status if status >= 0 else 128 - status)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--handshake")
    parser.add_argument("--inputs", help="where requests come from, when nobody is to be greeted")
    parser.add_argument("--outputs", help="where outputs go then")
    parser.add_argument("--front", help="a program to start as vLLM starts its front")
    parser.add_argument("--front-arguments", default="{}", help="what vLLM says in --args-json")
    parser.add_argument("--front-options", default="[]", help="further options of its command line")
    parser.add_argument("--front-uds", help="a Unix socket for clients, instead of a port")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--version", default="0.32.0")
    parser.add_argument("--ready", default="{}", help="fields of the ready message that differ; \"absent\" leaves one out")
    parser.add_argument("--config-hash", default="same")
    parser.add_argument("--max-model-len", type=int, default=256)
    parser.add_argument("--num-gpu-blocks", type=int, default=65)
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--auto", action="store_true")
    parser.add_argument("--step-seconds", type=float, default=0.002)
    options = parser.parse_args()
    if options.front:
        serve(options)
    peer = Peer(options)
    peer.connect(options.inputs, options.outputs) if options.inputs else peer.start()
    peer.run_auto() if options.auto else peer.run_told()


if __name__ == "__main__":
    main()
