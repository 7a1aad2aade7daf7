"""`/v1/responses`."""

import json
from typing import Literal

import openai
import pytest
from pydantic import BaseModel

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
SAMPLED = {"temperature": 0.7, "max_output_tokens": 24, "extra_body": {"seed": 3}}


def counts(usage):
    return usage.input_tokens, usage.output_tokens, usage.total_tokens


def test_a_streamed_response_is_the_whole_one(client, model):
    request = {"model": model, "instructions": "Be brief.", "input": "Say something about hills.", **SAMPLED}
    whole = client.responses.create(**request)
    assert whole.object == "response" and whole.output_text
    text, names, numbers, last = "", [], [], None
    for event in client.responses.create(**request, stream=True):
        names.append(event.type)
        numbers.append(event.sequence_number)
        if event.type == "response.output_text.delta":
            text += event.delta
        last = event
    assert names[:2] == ["response.created", "response.in_progress"]
    assert names[-1] == f"response.{whole.status}" and numbers == list(range(len(names)))
    assert text == whole.output_text == last.response.output_text
    assert counts(last.response.usage) == counts(whole.usage)
    assert last.response.status == whole.status
    assert last.response.incomplete_details == whole.incomplete_details


# Tokens in which any `Report` ends, however much white space the model writes.
ENOUGH = 400


class Report(BaseModel):
    place: Literal["Paris", "Rome"]
    sunny: bool


def test_a_parsed_response(client, model):
    response = client.responses.parse(model=model, input="Where?", text_format=Report, max_output_tokens=ENOUGH)
    assert response.status == "completed" and isinstance(response.output_parsed, Report)


def test_a_parsed_stream(client, model):
    request = {"model": model, "input": "Where?", "text_format": Report, "max_output_tokens": ENOUGH}
    with client.responses.stream(**request) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert {"response.output_text.delta", "response.output_text.done", "response.completed"} <= kinds
    assert isinstance(final.output_parsed, Report)


def test_a_conversation_with_a_call_and_its_result(client, model):
    conversation = [{"role": "user", "content": "Weather in Rome?"}]
    request = {"model": model, "tools": [WEATHER], "max_output_tokens": 200}
    first = client.responses.create(input=conversation, tool_choice="required", parallel_tool_calls=False, **request)
    [call] = [item for item in first.output if item.type == "function_call"]
    assert call.name == "get_weather" and json.loads(call.arguments)["city"] in ("Paris", "Rome")
    conversation += first.output
    conversation.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
    second = client.responses.create(input=conversation, tool_choice="none", **request)
    assert second.output[-1].type == "message"


def test_streamed_arguments_are_those_of_the_call(client, model):
    request = {"model": model, "tools": [WEATHER], "max_output_tokens": 200, "input": "Weather in Rome?"}
    arguments, done = "", None
    stream = client.responses.create(
        tool_choice={"type": "function", "name": "get_weather"}, parallel_tool_calls=False, stream=True, **request
    )
    for event in stream:
        if event.type == "response.function_call_arguments.delta":
            arguments += event.delta
        if event.type == "response.function_call_arguments.done":
            done = event.arguments
    assert arguments == done and json.loads(arguments)["city"] in ("Paris", "Rome")


def test_reasoning_is_an_item(echo):
    response = echo.responses.create(model="sim", input="I think.</think>It is.", max_output_tokens=1500)
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output_text.startswith("It is.")
    assert response.usage.output_tokens_details.reasoning_tokens > 0


def test_log_probabilities(client, model):
    response = client.responses.create(
        model=model, input="Hi", include=["message.output_text.logprobs"], top_logprobs=2, max_output_tokens=8
    )
    logprobs = response.output[0].content[0].logprobs
    assert 1 <= len(logprobs) <= 8 and all(len(token.top_logprobs) >= 2 for token in logprobs)


@pytest.mark.parametrize("more", [{"previous_response_id": "resp_1"}, {"store": True}, {"background": True}], ids=str)
def test_what_needs_a_memory_is_refused(client, model, more):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=model, input="Hi", **more)
    assert refused.value.param == next(iter(more))
