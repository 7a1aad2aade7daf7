"""How clients are connected: time-outs, streams that are left, TLS, HTTP/2, many at once."""

import asyncio
import ssl
import time

import httpx2
import openai
import pytest
import trustme
from conftest import connect
from wayfare_server import FEW_BLOCKS, SIMULATED, serve

CHAT = [{"role": "user", "content": "Hi"}]
SLOW = ["sim", "--inter-token-latency", "20ms", "--max-model-len", "4096", *FEW_BLOCKS]
ENDLESS = {"model": "sim", "messages": CHAT, "max_tokens": 3000, "extra_body": {"ignore_eos": True}}


def running(address):
    """How many sequences the engine computes, and how many have been aborted."""
    page = httpx2.get(f"{address}/metrics").text
    values = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line[0] != "#"}
    aborted = [name for name in values if name.startswith("vllm:request_success_total") and '"abort"' in name]
    running = [name for name in values if name.startswith("vllm:num_requests_running")]
    return sum(values[name] for name in running), sum(values[name] for name in aborted)


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within ten seconds"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def slow():
    with serve(*SLOW) as address:
        yield address


def test_a_stream_that_is_left_ends_the_request(slow):
    aborted = running(slow)[1]
    client = connect(slow)
    stream = client.chat.completions.create(**ENDLESS, stream=True)
    next(iter(stream))
    assert running(slow)[0] == 1
    stream.close()
    wait_until(lambda: running(slow) == (0, aborted + 1))


def test_a_client_that_gives_up_waiting_ends_the_request(slow):
    aborted = running(slow)[1]
    with pytest.raises(openai.APITimeoutError):
        connect(slow, timeout=0.3).chat.completions.create(**ENDLESS)
    wait_until(lambda: running(slow) == (0, aborted + 1))


def test_the_server_s_own_time_limit():
    with serve(*SLOW, "--request-timeout", "0.3") as address:
        client = connect(address)
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(**ENDLESS)
        assert (caught.value.status_code, caught.value.code) == (504, "timeout")
        chunks = []
        with pytest.raises(openai.APIError) as caught:
            for chunk in client.chat.completions.create(**ENDLESS, stream=True):
                chunks.append(chunk)
        assert chunks and caught.value.body["code"] == "timeout"


def test_no_server_is_a_connection_error():
    with serve(*SIMULATED) as address:
        pass
    with pytest.raises(openai.APIConnectionError):
        connect(address).models.list()


def version_of(http, address):
    return http.get(f"{address}/version").http_version


def test_http_2_without_tls(address, model):
    with httpx2.Client(http1=False, http2=True) as http:
        assert version_of(http, address) == "HTTP/2"
        client = connect(address, http_client=http)
        assert client.chat.completions.create(model=model, messages=CHAT, max_tokens=4).choices
        stream = client.chat.completions.create(model=model, messages=CHAT, max_tokens=4, stream=True)
        assert [choice.finish_reason for chunk in stream for choice in chunk.choices][-1]


@pytest.mark.parametrize("http2", [False, True])
def test_tls(http2, tmp_path):
    authority = trustme.CA()
    # Certificate and key in one file.
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    with serve(*SIMULATED, "--ssl-certfile", str(tmp_path / "server.pem")) as address:
        assert address.startswith("https://")
        by_name = address.replace("127.0.0.1", "localhost")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        with httpx2.Client(verify=context, http2=http2) as http:
            assert version_of(http, by_name) == ("HTTP/2" if http2 else "HTTP/1.1")
            client = connect(by_name, http_client=http)
            assert client.chat.completions.create(model="sim", messages=CHAT, max_tokens=4).choices
        with pytest.raises(openai.APIConnectionError):
            connect(by_name).models.list()


def test_many_at_once_get_their_own_answers(address, model):
    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:

            async def ask(number, stream):
                request = {"model": model, "prompt": f"Number {number}:", "seed": number, "max_tokens": 8}
                if not stream:
                    return (await client.completions.create(**request)).choices[0].text
                chunks = await client.completions.create(**request, stream=True)
                return "".join([choice.text async for chunk in chunks for choice in chunk.choices])

            numbers = range(12)
            whole = await asyncio.gather(*[ask(number, False) for number in numbers])
            streamed = await asyncio.gather(*[ask(number, True) for number in numbers])
            assert whole == streamed

    asyncio.run(ask_all())
