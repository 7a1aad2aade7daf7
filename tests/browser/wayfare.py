"""A running `wayfare serve sim`, and requests to it."""

import json
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request

PATIENCE = 30
READY = "wayfare is ready: "


class Server:
    """The process. `arguments` come on top of those that all tests share."""

    def __init__(self, *arguments, key=None, port=0):
        self.key = key
        command = [os.environ["WAYFARE_PROGRAM"], "serve", "sim", "--host", "127.0.0.1", "--port", str(port), "--enable-journey-tracing"]
        if key is not None:
            command += ["--api-key", key]
        self.process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, env={**os.environ, "RUST_LOG": "warn"})
        line = self.process.stdout.readline()
        assert line.startswith(READY), f"the server did not start: {line!r}"
        self.url = line.removeprefix(READY).strip()

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def _open(self, path, body=None, headers=None):
        headers = {"content-type": "application/json", **(headers or {})}
        if self.key is not None:
            headers["authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=PATIENCE)

    def get(self, path):
        with self._open(path) as response:
            return json.load(response)

    def complete(self, request_id, tokens=8, prompt="a prompt", **more):
        """Sends a completion and reads all of the answer; returns the status."""
        body = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, **more}
        try:
            with self._open("/v1/completions", body, {"x-request-id": request_id}) as response:
                response.read()
                return response.status
        except urllib.error.HTTPError as refused:
            refused.read()
            return refused.code

    def complete_all(self, requests):
        """Sends them at once, each `(request_id, tokens, prompt)`, and waits for all."""
        threads = [threading.Thread(target=self.complete, args=request) for request in requests]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

    def kept(self, count):
        """The journeys, once there are so many."""
        return until(lambda: (found := self.get("/journeys/recent?limit=1000")["journeys"]) and len(found) >= count and found)


def until(look):
    """What `look` returns once it is true. For what happens in a page as well: Playwright's own `wait_for_function`
    needs `eval` there, which the page's policy forbids."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)
    return found
