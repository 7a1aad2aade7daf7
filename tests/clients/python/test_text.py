"""Chat and completions: whole and streamed, choices, prompts, log-probabilities, and what changes the tokens."""

import openai
import pytest

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say something about the sea."}]
SAMPLED = {"seed": 11, "temperature": 0.8, "top_p": 0.9, "max_tokens": 24}


def counts(usage):
    """The counts of tokens; how many of them were cached depends on what came before."""
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


def streamed_chat(client, **request):
    """Text and finish reason of each choice, and the usage."""
    texts, reasons, usage = {}, {}, None
    stream = client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        assert chunk.object == "chat.completion.chunk"
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                assert choice.index not in reasons
                reasons[choice.index] = choice.finish_reason
    return texts, reasons, usage


def streamed_completion(client, **request):
    texts, reasons, usage = {}, {}, None
    stream = client.completions.create(**request, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        assert chunk.object == "text_completion"
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    return texts, reasons, usage


def test_a_chat(client, model):
    answer = client.chat.completions.create(model=model, messages=CHAT, max_completion_tokens=16, user="someone")
    choice = answer.choices[0]
    assert (answer.object, answer.model, len(answer.choices)) == ("chat.completion", model, 1)
    assert answer.id.startswith("chatcmpl-") and answer.created > 1_700_000_000
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert 0 < answer.usage.completion_tokens <= 16
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("more", [{}, {"stop": ["e"]}, {"temperature": 0}, {"max_tokens": 1}], ids=str)
def test_a_streamed_chat_is_the_whole_one(client, model, n, more):
    request = {"model": model, "messages": CHAT, "n": n, **SAMPLED, **more}
    whole = client.chat.completions.create(**request)
    texts, reasons, usage = streamed_chat(client, **request)
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert counts(usage) == counts(whole.usage)
    assert len(whole.choices) == n


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("prompt", ["The sea", ["The sea", "A hill"], [40, 41, 42], [[40, 41], [50]]], ids=str)
@pytest.mark.parametrize("echo", [False, True])
def test_a_streamed_completion_is_the_whole_one(client, model, prompt, n, echo):
    request = {"model": model, "prompt": prompt, "n": n, "echo": echo, **SAMPLED}
    whole = client.completions.create(**request)
    texts, reasons, usage = streamed_completion(client, **request)
    prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    assert len(whole.choices) == prompts * n
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert counts(usage) == counts(whole.usage)
    if echo and isinstance(prompt, str):
        assert all(choice.text.startswith(prompt) for choice in whole.choices)


def test_choices_have_seeds_of_their_own_that_count_up(client, model):
    def texts(**more):
        request = {"model": model, "prompt": "Once", **SAMPLED, **more}
        return [choice.text for choice in client.completions.create(**request).choices]

    assert texts(n=3) == texts(seed=11) + texts(seed=12) + texts(seed=13)


def test_echo_without_an_answer_gives_the_prompt_and_its_log_probabilities(client, model):
    answer = client.completions.create(model=model, prompt="The sea", echo=True, max_tokens=0, logprobs=2)
    choice = answer.choices[0]
    assert choice.text == "The sea" == "".join(choice.logprobs.tokens)
    assert choice.logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in choice.logprobs.token_logprobs[1:])
    assert answer.usage.completion_tokens == 0


def test_log_probabilities_of_a_chat(client, model):
    request = {"model": model, "messages": CHAT, "logprobs": True, "top_logprobs": 3, **SAMPLED}
    whole = client.chat.completions.create(**request)
    content = whole.choices[0].logprobs.content
    assert len(content) == whole.usage.completion_tokens
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) >= 3
        best = [other.logprob for other in token.top_logprobs]
        assert best == sorted(best, reverse=True)
    stream = client.chat.completions.create(**request, stream=True)
    streamed = [
        token
        for chunk in stream
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content or []
    ]
    assert [token.token for token in streamed] == [token.token for token in content]


def test_log_probabilities_of_a_completion(client, model):
    answer = client.completions.create(model=model, prompt="The sea", logprobs=2, **SAMPLED)
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens).startswith(answer.choices[0].text)
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs)
    assert logprobs.text_offset[0] == 0 and logprobs.text_offset == sorted(logprobs.text_offset)
    extra = {"prompt_logprobs": 1, "return_token_ids": True}
    answer = client.completions.create(model=model, prompt="The sea", extra_body=extra, **SAMPLED)
    choice = answer.choices[0]
    assert len(choice.prompt_logprobs) == len(choice.prompt_token_ids) == answer.usage.prompt_tokens
    assert len(choice.token_ids) == answer.usage.completion_tokens


def test_usage_in_every_chunk_counts_up(client, model):
    options = {"include_usage": True, "continuous_usage_stats": True}
    request = {"model": model, "messages": CHAT, **SAMPLED}
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options=options))
    seen = [chunk.usage.completion_tokens for chunk in chunks]
    assert seen == sorted(seen) and seen[-1] == client.chat.completions.create(**request).usage.completion_tokens
    assert chunks[-1].choices == []
    assert all(chunk.usage is None for chunk in client.chat.completions.create(**request, stream=True))


def test_a_stop_string_ends_the_text_before_it(client, model):
    request = {"model": model, "prompt": "The sea", **SAMPLED}
    whole = client.completions.create(**request).choices[0].text
    stop = whole[8:11]
    cut = client.completions.create(**request, stop=[stop]).choices[0]
    assert (cut.text, cut.finish_reason, cut.stop_reason) == (whole[: whole.index(stop)], "stop", stop)
    kept = client.completions.create(**request, stop=stop, extra_body={"include_stop_str_in_output": True})
    assert kept.choices[0].text == whole[: whole.index(stop) + len(stop)]


def test_rules_change_which_tokens_come(client, model):
    request = {"model": model, "prompt": "The sea", "temperature": 0, "max_tokens": 12}

    def ids(extra, **more):
        extra = {"return_token_ids": True, "ignore_eos": True, **extra}
        answer = client.completions.create(**{**request, **more}, extra_body=extra)
        return answer.choices[0].token_ids

    plain = ids({})
    assert len(plain) == 12
    assert set(ids({"allowed_token_ids": [60, 61]})) <= {60, 61}
    assert plain[0] not in ids({}, logit_bias={plain[0]: -100})
    assert set(ids({}, logit_bias={70: 100})) == {70}
    repeated = ids({"allowed_token_ids": [60, 61]}, presence_penalty=2, frequency_penalty=2)
    assert {60, 61} == set(repeated)
    assert ids({"stop_token_ids": [plain[2]]})[-1] == plain[2]
    late = ids({"stop_token_ids": [plain[0]], "min_tokens": 6})
    assert len(late) >= 6 and plain[0] not in late[:6]
    assert len(ids({"repetition_penalty": 1.5, "top_k": 5, "min_p": 0.1})) == 12


def test_bad_words_do_not_come(client, model):
    request = {"model": model, "prompt": "The sea", "temperature": 0, "max_tokens": 24}
    text = client.completions.create(**request).choices[0].text
    word = max(text.split(), key=len).strip(".,!?\"'")
    without = client.completions.create(**request, extra_body={"bad_words": [word]}).choices[0].text
    assert word in text and f" {word}" not in without


def test_the_last_message_is_continued(client, model):
    messages = [*CHAT, {"role": "assistant", "content": "The sea is"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False, "echo": True}
    answer = client.chat.completions.create(model=model, messages=messages, extra_body=extra, max_tokens=8)
    assert answer.choices[0].message.content.startswith("The sea is")


def test_a_prompt_is_cut_to_its_last_tokens(client, model):
    extra = {"truncate_prompt_tokens": 4, "return_token_ids": True}
    answer = client.completions.create(model=model, prompt="one two three four five six", extra_body=extra, max_tokens=1)
    assert answer.usage.prompt_tokens == len(answer.choices[0].prompt_token_ids) == 4


def test_models(client, model):
    card = client.models.retrieve(model)
    assert (card.id, card.object) == (model, "model") and card.max_model_len >= 1024
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-none")
