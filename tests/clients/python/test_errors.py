"""Every kind of error that the client knows, and how it is told."""

from concurrent import futures

import openai
import pytest
from conftest import connect
from wayfare_server import FEW_BLOCKS, SIMULATED, serve

CHAT = [{"role": "user", "content": "Hi"}]


def refused(call, kind, code, param=None):
    with pytest.raises(kind) as caught:
        call()
    error = caught.value
    assert (type(error), error.code, error.param) == (kind, code, param)
    assert error.body["message"] and error.request_id
    return error


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"n": 129}, "n", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 10**12}, "messages", "context_length_exceeded"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "invalid_value"),
        ({"extra_body": {"nonsense": 1}}, "nonsense", "unknown_parameter"),
        ({"extra_body": {"best_of": 2}}, "best_of", "unsupported_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "unsupported_parameter"),
    ],
    ids=str,
)
def test_a_bad_request_names_the_field(client, model, fields, param, code):
    request = {"model": model, "messages": CHAT, **fields}
    refused(lambda: client.chat.completions.create(**request), openai.BadRequestError, code, param)
    refused(lambda: client.chat.completions.create(**request, stream=True), openai.BadRequestError, code, param)


def test_no_such_model_or_route(client, model):
    create = client.chat.completions.create
    refused(lambda: create(model="gpt-9", messages=CHAT), openai.NotFoundError, "model_not_found", "model")
    embed = client.embeddings.create
    refused(lambda: embed(model=model, input="x"), openai.NotFoundError, "unsupported_endpoint")
    refused(lambda: client.moderations.create(input="x"), openai.NotFoundError, "unsupported_endpoint")
    refused(lambda: client.images.generate(prompt="x"), openai.NotFoundError, "unsupported_endpoint")
    refused(lambda: client.get("/nothing", cast_to=object), openai.NotFoundError, "not_found")


def test_a_suffix_is_refused(client, model):
    create = client.completions.create
    refused(
        lambda: create(model=model, prompt="a", suffix="b"),
        openai.BadRequestError,
        "unsupported_parameter",
        "suffix",
    )


def test_several_api_keys():
    with serve(*SIMULATED, "--api-key", "one", "two") as address:
        for key in ("one", "two"):
            assert connect(address, api_key=key).models.list().data
        for key in ("three", "on", "onetwo"):
            wrong = connect(address, api_key=key)
            refused(wrong.models.list, openai.AuthenticationError, "invalid_api_key")
            chat = wrong.chat.completions
            refused(lambda: chat.create(model="sim", messages=CHAT), openai.AuthenticationError, "invalid_api_key")


def test_a_rate_limit_and_a_failing_server():
    def failing(kind):
        return serve(*SIMULATED, "--failure-injection-rate", "100", "--failure-types", kind)

    for kind, error, code in [
        ("rate_limit", openai.RateLimitError, "overloaded"),
        ("server_error", openai.InternalServerError, "engine_dead"),
        ("executor_error", openai.InternalServerError, "generation_error"),
    ]:
        with failing(kind) as address:
            chat = connect(address).chat.completions
            failed = refused(lambda: chat.create(model="sim", messages=CHAT), error, code)
            assert (kind == "rate_limit") == ("retry-after" in failed.response.headers)


def test_an_error_in_a_stream_is_raised():
    with serve(*SIMULATED, "--failure-injection-rate", "100", "--failure-types", "executor_error") as address:
        stream = connect(address).chat.completions.create(model="sim", messages=CHAT, stream=True)
        with pytest.raises(openai.APIError) as caught:
            list(stream)
        assert caught.value.body["code"] == "generation_error"


def test_a_full_queue_is_served_when_the_client_tries_again():
    narrow = ["--max-num-seqs", "1", "--max-num-queued-reqs", "1", "--max-model-len", "2048", *FEW_BLOCKS]
    with serve("sim", "--time-to-first-token", "300ms", *narrow) as address:
        # The client waits as long as `retry-after` says, a second.
        patient = connect(address, max_retries=5)
        with futures.ThreadPoolExecutor(4) as pool:
            asked = [
                pool.submit(patient.chat.completions.create, model="sim", messages=CHAT, max_tokens=2)
                for _ in range(4)
            ]
            assert all(one.result().choices for one in asked)
