"""Records what a real vLLM engine core says, as frames in hexadecimal by the name of the situation.

Run with a Python that has vLLM in it (pyzmq and msgspec come with it):

    python record_frames.py recorded-0.32.json -- vllm serve MODEL --headless --enforce-eager ARGUMENTS

The arguments of the handshake, of a KV cache that holds two short requests and not their answers, and of iteration
details are added here. Nothing in the file depends on the model's weights being good for anything.
"""

import json
import subprocess
import sys
import time

import msgspec
import zmq

HOST = "127.0.0.1"
# Six blocks, of which one is reserved: room for 160 tokens, which two requests outgrow with their answers.
POOL = ["--block-size", "32", "--num-gpu-blocks-override", "6", "--max-model-len", "96", "--max-num-seqs", "4"]
PROMPT_TOKENS = 56
ANSWER_TOKENS = 20


class Front:
    def __init__(self, command):
        context = zmq.Context()
        self.handshake, self.input = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
        self.outputs = context.socket(zmq.PULL)
        sockets = [self.handshake, self.input, self.outputs]
        ports = [socket.bind_to_random_port(f"tcp://{HOST}") for socket in sockets]
        self.addresses = [f"tcp://{HOST}:{port}" for port in ports]
        ranks = ["--data-parallel-size", "1", "--data-parallel-size-local", "1"]
        place = ["--data-parallel-address", HOST, "--data-parallel-rpc-port", str(ports[0])]
        details = ["--enable-logging-iteration-details"]
        self.process = subprocess.Popen(command + place + ranks + POOL + details)
        self.recorded = {}

    def hear(self, socket):
        while not socket.poll(1000):
            if self.process.poll() is not None:
                sys.exit("vLLM has ended before it said everything")
        return socket.recv_multipart()

    def greet(self):
        self.identity, hello = self.hear(self.handshake)
        self.recorded["hello"] = [[hello]]
        addresses = {"inputs": [self.addresses[1]], "outputs": [self.addresses[2]]}
        absent = ["coordinator_input", "coordinator_output", "frontend_stats_publish_address"]
        init = {"addresses": {**addresses, **dict.fromkeys(absent)}, "parallel_config": {}}
        self.handshake.send_multipart([self.identity, msgspec.msgpack.encode(init)])
        self.recorded["ready message"] = [[self.hear(self.input)[1]]]
        self.recorded["ready greeting"] = [[self.hear(self.handshake)[1]]]

    def add(self, slot, first_token, **sampling):
        prompt = list(range(first_token, first_token + PROMPT_TOKENS))
        # The end of the text is not among the tokens that end it, so that the lengths do not depend on the model.
        sampling = {"temperature": 0.0, "max_tokens": ANSWER_TOKENS, **sampling}
        request = [f"{1:08x}{slot:08x}", prompt, None, sampling, None, time.time(), None, None, None]
        self.input.send_multipart([self.identity, b"\x00", msgspec.msgpack.encode(request)])

    def call(self, name, call_id, method):
        self.input.send_multipart([self.identity, b"\x03", msgspec.msgpack.encode([0, call_id, method, []])])
        # A last word of its state may come before.
        while True:
            message = self.hear(self.outputs)
            if msgspec.msgpack.decode(message[0])[4] is not None:
                break
        self.recorded[name] = [message]

    def until_finished(self, name, requests):
        messages = self.recorded[name] = []
        while requests:
            messages.append(self.hear(self.outputs))
            outputs = msgspec.msgpack.decode(messages[-1][0], ext_hook=lambda code, data: None)[1]
            requests -= sum(output[5] is not None for output in outputs)


def main():
    place, separator, *command = sys.argv[1:]
    assert separator == "--", __doc__
    front = Front(command)
    try:
        front.greet()
        front.add(0, 100, max_tokens=3)
        front.until_finished("plain", 1)
        front.add(1, 200, max_tokens=2, logprobs=2, prompt_logprobs=1)
        front.until_finished("logprobs", 1)
        # A prompt that has been seen, so that a block of it is found in the cache.
        front.add(2, 100, max_tokens=1)
        front.until_finished("cached", 1)
        front.add(3, 300)
        front.add(4, 400)
        front.until_finished("preempted", 2)
        front.call("utility", 9, "is_scheduler_paused")
        front.call("failed utility", 10, "no_such_method")
    finally:
        front.process.terminate()
        front.process.wait()
    recorded = {name: [[frame.hex() for frame in frames] for frames in messages] for name, messages in front.recorded.items()}
    with open(place, "w", encoding="utf-8") as file:
        json.dump(recorded, file, indent=0, sort_keys=True)
        file.write("\n")
    print({name: len(messages) for name, messages in recorded.items()})


if __name__ == "__main__":
    main()
