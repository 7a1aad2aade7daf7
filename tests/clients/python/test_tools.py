"""Tool calls and reasoning."""

import json
from typing import Literal

import openai
import pytest
from pydantic import BaseModel

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
ASKED = [{"role": "user", "content": "Is it sunny in Paris?"}]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
OTHER_CALL = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'


def streamed_calls(stream):
    """Name and arguments of each call, put together from deltas, and the finish reason."""
    calls, reason = [], None
    for chunk in stream:
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            for delta in choice.delta.tool_calls or []:
                if delta.index == len(calls):
                    assert delta.id and delta.type == "function"
                    calls.append([delta.function.name, ""])
                calls[delta.index][1] += delta.function.arguments or ""
    return [tuple(call) for call in calls], reason


def calls_of(choice):
    return [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]


@pytest.mark.parametrize(
    "choice",
    ["required", {"type": "function", "function": {"name": "get_weather"}}],
    ids=["required", "named"],
)
def test_a_demanded_call_comes_from_any_model(client, model, choice):
    request = {
        "model": model,
        "messages": ASKED,
        "tools": [WEATHER],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "seed": 4,
        "max_tokens": 200,
    }
    whole = client.chat.completions.create(**request).choices[0]
    [(name, arguments)] = calls_of(whole)
    assert name == "get_weather" and json.loads(arguments)["city"] in ("Paris", "Rome")
    assert whole.finish_reason == "tool_calls" and not whole.message.content
    assert streamed_calls(client.chat.completions.create(**request, stream=True)) == ([(name, arguments)], "tool_calls")


def test_calls_of_the_model_s_own_accord(echo):
    request = {"model": "sim", "tools": [WEATHER, CLOCK], "max_tokens": 1500}
    messages = [{"role": "user", "content": f"</think>I look. {CALL}\n{OTHER_CALL}"}]
    whole = echo.chat.completions.create(messages=messages, **request).choices[0]
    calls = calls_of(whole)
    # The template shows an example of a call's form, so the echo may begin with more.
    assert calls[-2:] == [("get_weather", '{"city": "Rome"}'), ("get_time", "{}")]
    assert whole.finish_reason == "tool_calls" and "I look." in whole.message.content
    streamed, reason = streamed_calls(echo.chat.completions.create(messages=messages, stream=True, **request))
    assert (streamed, reason) == (calls, "tool_calls")


def test_no_calls_where_none_are_wanted(echo):
    messages = [{"role": "user", "content": f"</think>{CALL}"}]
    answer = echo.chat.completions.create(
        model="sim", messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=1500
    )
    assert CALL in answer.choices[0].message.content and not answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_a_round_trip_with_results(client, model):
    """What a program does: asks, calls its function, sends the result back."""
    messages = list(ASKED)
    request = {"model": model, "tools": [WEATHER], "parallel_tool_calls": False, "seed": 4, "max_tokens": 200}
    first = client.chat.completions.create(messages=messages, tool_choice="required", **request).choices[0]
    messages.append(first.message)
    for call in first.message.tool_calls:
        city = json.loads(call.function.arguments)["city"]
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"sunny in {city}"})
    second = client.chat.completions.create(messages=messages, tool_choice="none", **request).choices[0]
    assert second.message.role == "assistant" and not second.message.tool_calls


def test_results_reach_the_prompt(echo):
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        {"role": "user", "content": "</think>Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny and 30 degrees"},
    ]
    answer = echo.chat.completions.create(model="sim", messages=messages, max_tokens=1500)
    assert "sunny and 30 degrees" in answer.choices[0].message.content


class GetWeather(BaseModel):
    city: Literal["Paris", "Rome"]


def test_a_pydantic_tool(client, model):
    answer = client.chat.completions.parse(
        model=model,
        messages=ASKED,
        tools=[openai.pydantic_function_tool(GetWeather)],
        tool_choice="required",
        parallel_tool_calls=False,
        max_completion_tokens=200,
    )
    [call] = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, GetWeather)


def test_reasoning_is_told_apart(echo):
    request = {"model": "sim", "messages": [{"role": "user", "content": "I think.</think>It is."}], "max_tokens": 1500}
    message = echo.chat.completions.create(**request).choices[0].message
    assert message.reasoning.endswith("I think.") and message.content.startswith("It is.")
    reasoning, content = "", ""
    for chunk in echo.chat.completions.create(**request, stream=True):
        for choice in chunk.choices:
            reasoning += getattr(choice.delta, "reasoning", None) or ""
            content += choice.delta.content or ""
    assert (reasoning, content) == (message.reasoning, message.content)
    hidden = echo.chat.completions.create(**request, extra_body={"include_reasoning": False}).choices[0].message
    assert hidden.content == message.content and not getattr(hidden, "reasoning", None)
