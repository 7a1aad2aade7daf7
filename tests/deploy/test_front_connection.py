"""The liveness probe of an engine, run beside connections of this process."""

import os
import socket
import subprocess
import sys

import pytest
from manifests import KUBERNETES

PROBE = KUBERNETES / "serving" / "front_connection.py"


class Engine:
    """An engine's side of the connection, and the probe of its container."""

    def __init__(self, folder, family, host):
        self.front = socket.create_server((host, 0), family=family)
        self.port = self.front.getsockname()[1]
        self.family, self.host = family, host
        self.file = folder / "front-connection"
        self.connection = None
        self.accepted = None

    def connect(self):
        self.connection = socket.create_connection((self.host, self.port))
        self.accepted, _ = self.front.accept()

    def lose(self):
        self.accepted.close()
        self.connection.close()

    def probe(self, host=None):
        """What it complains of, if anything."""
        variables = {"FRONT_HOST": host or self.host, "FRONT_PORT": str(self.port), "FRONT_CONNECTION_FILE": str(self.file)}
        done = subprocess.run([sys.executable, PROBE], env=os.environ | variables, capture_output=True, text=True)
        assert (done.returncode == 0) == (done.stderr == "")
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"])
def engine(tmp_path, request):
    family, host = request.param
    try:
        made = Engine(tmp_path, family, host)
    except OSError:
        pytest.skip("this machine has no IPv6")
    yield made
    made.front.close()


def test_an_engine_that_loads_its_model_lives(engine):
    assert engine.probe() == ""
    assert engine.probe() == ""


def test_an_engine_that_is_connected_lives(engine):
    engine.connect()
    assert engine.probe() == ""
    assert engine.probe() == ""


def test_an_engine_that_lost_its_front_is_started_again_even_when_it_is_connected_to_another(engine):
    engine.connect()
    assert engine.probe() == ""
    engine.lose()
    assert "is closed" in engine.probe()
    engine.connect()
    assert "is closed" in engine.probe()
    # A new container begins without the file.
    engine.file.unlink()
    assert engine.probe() == ""


def test_a_front_that_moved_without_a_word_is_noticed(engine):
    engine.connect()
    assert engine.probe() == ""
    assert "no longer at" in engine.probe(host="192.0.2.1")


def test_a_name_without_an_address_says_nothing(engine):
    engine.connect()
    assert engine.probe() == ""
    assert engine.probe(host="nowhere.invalid") == ""
