"""What the manifests start, started here: wayfare with their options, and engine cores played by the peer of the tests of
`crates/engine-vllm`, with what the StatefulSet tells vLLM."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from manifests import KUBERNETES, REPOSITORY, arguments, environment, named, pod

PEER = REPOSITORY / "crates" / "engine-vllm" / "tests" / "peer" / "peer.py"
PROBE = KUBERNETES / "serving" / "front_connection.py"
PATIENCE = 30


def free_ports(count):
    """The first of so many free ports, one behind the other."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
        if port + count > 65535:
            continue
        try:
            with contextlib.ExitStack() as stack:
                for other in range(port, port + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", other)))
            return port
        except OSError:
            continue


def until(look):
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)
    return found


class Deployed:
    """The pods as processes of this machine: other ports, another name for the front, and a model that is here."""

    def __init__(self, folder):
        [front] = pod(named("Deployment", "wayfare"))["containers"]
        [engine] = pod(named("StatefulSet", "engines"))["containers"]
        self.count = named("StatefulSet", "engines")["spec"]["replicas"]
        self.handshake, self.http = free_ports(2 + self.count), free_ports(1)
        options = [self.here(one) for one in arguments(front)]
        options[1] = os.environ["WAYFARE_MODEL"]
        self.front_command = [os.environ["WAYFARE"], *options, "--host=127.0.0.1", f"--port={self.http}"]
        self.front_variables = {"WAYFARE_API_KEY": "secret", "RUST_LOG": environment(front)["RUST_LOG"]}
        self.engine_options = dict(one.split("=", 1) for one in map(self.here, arguments(engine)) if "=" in one)
        self.folder = folder
        self.processes = []

    def here(self, argument):
        return argument.replace("29550", str(self.handshake)).replace("wayfare-engines", "127.0.0.1")

    def start(self, command, name, variables=None):
        log = open(self.folder / f"{name}.log", "a")
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=os.environ | (variables or {}))
        self.processes.append(process)
        return process

    def start_front(self):
        return self.start(self.front_command, "front", self.front_variables)

    def start_engine(self, rank):
        options = self.engine_options
        address = f"tcp://{options['--data-parallel-address']}:{options['--data-parallel-rpc-port']}"
        ranks = options["--data-parallel-size"]
        # The default model, whose text side is asked for, has a longer context.
        command = [sys.executable, PEER, "--auto", "--handshake", address, "--rank", str(rank), "--ranks", ranks]
        return self.start([*command, "--max-model-len", "2048", "--num-gpu-blocks", "200"], f"engine-{rank}")

    def status(self, path, body=None, key=None):
        """Of an answer; 0 where nothing listens."""
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", body and json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def probe(self):
        """What the liveness probe of an engine says; nothing when it passes."""
        variables = {"FRONT_HOST": "127.0.0.1", "FRONT_PORT": str(self.handshake + 1), "FRONT_CONNECTION_FILE": str(self.folder / "first")}
        return subprocess.run([sys.executable, PROBE], env=os.environ | variables, capture_output=True, text=True).stderr

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()


@pytest.fixture
def deployed(tmp_path):
    made = Deployed(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def test_the_front_is_ready_when_all_engines_are_and_they_start_again_with_it(deployed):
    front = deployed.start_front()
    until(lambda: "waiting for 2 vLLM engines" in deployed.log("front"))
    assert deployed.count == 2
    first = deployed.start_engine(0)
    until(lambda: "vLLM engine 0 is ready" in deployed.log("front"))
    assert deployed.status("/health") == 0, "one of two is not enough"
    second = deployed.start_engine(1)
    until(lambda: deployed.status("/health") == 200)
    completion = {"prompt": "One two three", "max_tokens": 3}
    assert deployed.status("/v1/completions", completion) == 401
    assert deployed.status("/v1/completions", completion, key="secret") == 200
    assert deployed.probe() == ""

    # The kubelet starts the container of the front again. The engines connect, and are not known there.
    front.kill()
    front.wait()
    deployed.start_front()
    until(lambda: deployed.log("front").count("waiting for 2 vLLM engines") == 2)
    assert "is closed" in until(deployed.probe)
    time.sleep(1)
    assert deployed.status("/health") == 0
    assert (first.poll(), second.poll()) == (None, None), "they live on, and would for ever"
    # What a failed probe does.
    for rank, engine in enumerate([first, second]):
        engine.kill()
        engine.wait()
        deployed.start_engine(rank)
    pathlib.Path(deployed.folder / "first").unlink()
    until(lambda: deployed.status("/health") == 200)
    assert deployed.status("/v1/completions", completion, key="secret") == 200
    assert deployed.probe() == ""
    assert re.search("vLLM engine 1 is ready", deployed.log("front"))
