"""Starts `wayfare serve` for a test: `$WAYFARE` is the program."""

import contextlib
import os
import subprocess
import tempfile

READY = "wayfare is ready: "
PROGRAM = os.environ["WAYFARE"]

# Few KV blocks: a debug build checks all of them after every step.
FEW_BLOCKS = ["--num-kv-blocks", "300"]
SIMULATED = ["sim", "--sim-profile", "instant", "--max-model-len", "2048", *FEW_BLOCKS]
# Says back what it is told, template included: what a model would say is what the test says.
ECHO = [*SIMULATED, "--sim-output", "echo"]
MODEL = ["--max-model-len", "1024", *FEW_BLOCKS, "--max-num-seqs", "8"]


@contextlib.contextmanager
def serve(*options):
    """A server with these options; gives its address, and ends it."""
    # A file and not a pipe: nobody has to read it.
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [PROGRAM, "serve", "--host", "127.0.0.1", "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            line = process.stdout.readline().strip()
            if not line.startswith(READY):
                log.seek(0)
                raise RuntimeError(f"the server did not start: {log.read().decode()}")
            yield line.removeprefix(READY)
        finally:
            process.terminate()
            process.wait(timeout=30)
            process.stdout.close()
