import openai
import pytest
from wayfare_server import ECHO, MODEL, SIMULATED, serve

KINDS = {"model": MODEL, "simulated": SIMULATED}


def connect(address, **options):
    """A client of a server. It does not try again, so that each error is seen."""
    options = {"api_key": "none", "max_retries": 0, "timeout": 60, **options}
    return openai.OpenAI(base_url=f"{address}/v1", **options)


@pytest.fixture(scope="session", params=KINDS)
def address(request):
    """The address of the default model, and of the simulated engine."""
    with serve(*KINDS[request.param]) as address:
        yield address


@pytest.fixture(scope="session")
def client(address):
    with connect(address) as client:
        yield client


@pytest.fixture(scope="session")
def model(client):
    return client.models.list().data[0].id


@pytest.fixture(scope="session")
def echo():
    """A client of an engine that says what it is told, whose tool calls and reasoning are read."""
    with serve(*ECHO, "--tool-call-parser", "hermes", "--reasoning-parser", "deepseek_r1") as address:
        with connect(address) as client:
            yield client
