"""Answers of a given form."""

import json
import re
from typing import Literal

import pytest
from pydantic import BaseModel, Field

CHAT = [{"role": "user", "content": "Where is it sunny, and how warm is it?"}]


# Tokens in which any `Report` without further properties ends: twelve places for white space, of 32 characters each at
# most, and some for the rest. What the model makes of a seed changes with every change of its arithmetic.
ENOUGH = 500


class Report(BaseModel):
    place: Literal["Paris", "Rome"]
    degrees: int = Field(ge=0, le=40)
    sunny: bool


def test_parse_gives_the_model_back(client, model):
    for seed in range(3):
        answer = client.chat.completions.parse(
            model=model, messages=CHAT, response_format=Report, seed=seed, max_completion_tokens=ENOUGH
        )
        choice = answer.choices[0]
        assert choice.finish_reason == "stop"
        assert isinstance(choice.message.parsed, Report) and choice.message.refusal is None


def test_a_parsed_stream(client, model):
    with client.chat.completions.stream(
        model=model, messages=CHAT, response_format=Report, seed=1, max_completion_tokens=ENOUGH
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"content.delta", "content.done"} <= kinds
    assert isinstance(final.choices[0].message.parsed, Report)


def test_any_json_object(client, model):
    answer = client.chat.completions.create(
        model=model, messages=CHAT, response_format={"type": "json_object"}, seed=3, max_tokens=200
    )
    choice = answer.choices[0]
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    else:
        assert choice.finish_reason == "length" and choice.message.content.lstrip().startswith("{")


@pytest.mark.parametrize(
    "form",
    [
        {"guided_regex": "[a-f]{2,4}-[0-9]{3}"},
        {"structured_outputs": {"regex": "[a-f]{2,4}-[0-9]{3}"}},
        {"guided_grammar": 'start: /[a-f]{2,4}/ "-" /[0-9]{3}/'},
        {"structured_outputs": {"grammar": 'root ::= [a-f] [a-f] "-" [0-9] [0-9] [0-9]'}},
        {"structured_outputs": {"choice": ["cafe-123", "bad-999"]}},
        {"guided_choice": ["cafe-123", "bad-999"]},
    ],
    ids=str,
)
def test_vllm_s_forms(client, model, form):
    request = {"model": model, "seed": 5, "max_tokens": 60, "extra_body": form}
    chat = client.chat.completions.create(messages=CHAT, **request).choices[0]
    completion = client.completions.create(prompt="The code is ", **request).choices[0]
    for text, reason in [(chat.message.content, chat.finish_reason), (completion.text, completion.finish_reason)]:
        assert reason == "stop" and re.fullmatch("[a-f]{2,4}-[0-9]{3}", text)


def test_a_schema_of_vllm_s(client, model):
    extra = {"guided_json": Report.model_json_schema() | {"additionalProperties": False}}
    answer = client.completions.create(model=model, prompt="Rome:", extra_body=extra, seed=2, max_tokens=ENOUGH)
    assert Report.model_validate_json(answer.choices[0].text)


def test_the_length_limit_cuts_and_says_so(client, model):
    answer = client.chat.completions.create(
        model=model, messages=CHAT, response_format={"type": "json_object"}, max_tokens=1
    )
    assert answer.choices[0].finish_reason == "length"
