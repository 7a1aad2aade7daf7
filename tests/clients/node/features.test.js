// What the client can ask for, of the default model and of the simulated engine.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { MODEL, SIMULATED, serve } from "./server.js";

const CHAT = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "Say something about the sea." },
];
const SAMPLED = { seed: 11, temperature: 0.8, top_p: 0.9, max_tokens: 24 };
const WEATHER_PARAMETERS = {
  type: "object",
  properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
const WEATHER = { type: "function", function: { name: "get_weather", parameters: WEATHER_PARAMETERS } };
const REPORT = {
  type: "object",
  properties: { place: { type: "string", enum: ["Paris", "Rome"] }, sunny: { type: "boolean" } },
  required: ["place", "sunny"],
  additionalProperties: false,
};

/** How many tokens were cached depends on what came before. */
function counts({ prompt_tokens, completion_tokens, total_tokens }) {
  return [prompt_tokens, completion_tokens, total_tokens];
}

/** Text and finish reason of each choice of a stream, and its usage. */
async function collect(stream, textOf) {
  const texts = [];
  const reasons = [];
  let usage;
  for await (const chunk of stream) {
    usage = chunk.usage ?? usage;
    for (const choice of chunk.choices) {
      texts[choice.index] = (texts[choice.index] ?? "") + (textOf(choice) ?? "");
      reasons[choice.index] = choice.finish_reason ?? reasons[choice.index];
    }
  }
  return { texts, reasons, usage: counts(usage) };
}

for (const [kind, options] of Object.entries({ model: MODEL, simulated: SIMULATED })) {
  describe(kind, () => {
    let server, client, model;
    before(async () => {
      server = await serve(...options);
      client = server.client;
      model = (await client.models.list()).data[0].id;
    });
    after(() => server.stop());

    const streamed = { stream: true, stream_options: { include_usage: true } };

    for (const n of [1, 3]) {
      test(`a streamed chat with ${n} choices is the whole one`, async () => {
        const request = { model, messages: CHAT, n, ...SAMPLED };
        const whole = await client.chat.completions.create(request);
        const stream = await client.chat.completions.create({ ...request, ...streamed });
        assert.deepEqual(await collect(stream, (choice) => choice.delta.content), {
          texts: whole.choices.map((choice) => choice.message.content),
          reasons: whole.choices.map((choice) => choice.finish_reason),
          usage: counts(whole.usage),
        });
        assert.equal(whole.choices.length, n);
      });
    }

    for (const prompt of ["The sea", ["The sea", "A hill"], [40, 41, 42], [[40, 41], [50]]]) {
      test(`a streamed completion of ${JSON.stringify(prompt)} is the whole one`, async () => {
        const request = { model, prompt, echo: true, logprobs: 1, ...SAMPLED };
        const whole = await client.completions.create(request);
        const stream = await client.completions.create({ ...request, ...streamed });
        assert.deepEqual(await collect(stream, (choice) => choice.text), {
          texts: whole.choices.map((choice) => choice.text),
          reasons: whole.choices.map((choice) => choice.finish_reason),
          usage: counts(whole.usage),
        });
        assert.ok(whole.choices.every((choice) => choice.logprobs.tokens.length > 0));
      });
    }

    test("log-probabilities, penalties, biases and the fields that only vLLM has", async () => {
      const answer = await client.chat.completions.create({
        model,
        messages: CHAT,
        logprobs: true,
        top_logprobs: 2,
        presence_penalty: 0.5,
        frequency_penalty: 0.5,
        logit_bias: { 60: 100 },
        allowed_token_ids: [60, 61],
        bad_words: ["hill"],
        ignore_eos: true,
        max_tokens: 6,
      });
      const tokens = answer.choices[0].logprobs.content;
      assert.equal(tokens.length, 6);
      assert.ok(tokens.every((token) => token.logprob <= 0 && token.top_logprobs.length >= 2));
    });

    test("parse follows a schema", async () => {
      const answer = await client.chat.completions.parse({
        model,
        messages: CHAT,
        response_format: { type: "json_schema", json_schema: { name: "report", schema: REPORT, strict: true } },
        max_completion_tokens: 400, // enough for any report, however much white space the model writes
      });
      const report = JSON.parse(answer.choices[0].message.content);
      assert.ok(["Paris", "Rome"].includes(report.place) && typeof report.sunny === "boolean");
    });

    for (const choice of ["required", { type: "function", function: { name: "get_weather" } }]) {
      test(`a call demanded by ${JSON.stringify(choice)}, whole, streamed, and with its result`, async () => {
        const request = { model, tools: [WEATHER], seed: 4, max_tokens: 200 };
        const demanded = { ...request, messages: CHAT, tool_choice: choice, parallel_tool_calls: false };
        const whole = await client.chat.completions.create(demanded);
        const { message, finish_reason } = whole.choices[0];
        assert.equal(finish_reason, "tool_calls");
        assert.equal(message.tool_calls.length, 1);
        const call = message.tool_calls[0];
        assert.ok(["Paris", "Rome"].includes(JSON.parse(call.function.arguments).city));

        const final = await client.chat.completions.stream(demanded).finalMessage();
        assert.deepEqual(
          final.tool_calls.map(({ function: { name, arguments: text } }) => [name, text]),
          [["get_weather", call.function.arguments]],
        );

        const result = { role: "tool", tool_call_id: call.id, content: "sunny" };
        const messages = [...CHAT, message, result];
        const last = await client.chat.completions.create({ ...request, messages, tool_choice: "none" });
        assert.equal(last.choices[0].message.tool_calls, undefined);
      });
    }

    test("runTools goes the whole way by itself", async () => {
      const asked = [];
      const look = ({ city }) => {
        asked.push(city);
        return "sunny";
      };
      const tool = { ...WEATHER.function, parse: JSON.parse, function: look };
      const runner = client.chat.completions.runTools(
        {
          model,
          messages: CHAT,
          tools: [{ type: "function", function: tool }],
          tool_choice: { type: "function", function: { name: "get_weather" } },
          parallel_tool_calls: false,
          max_tokens: 200,
        },
        { maxChatCompletions: 1 },
      );
      await runner.done();
      assert.equal(asked.length, 1);
      assert.ok(["Paris", "Rome"].includes(asked[0]));
    });

    test("a streamed response is the whole one", async () => {
      const request = { model, input: "Say something about hills.", seed: 3, max_output_tokens: 24 };
      const whole = await client.responses.create(request);
      let text = "";
      let last;
      for await (const event of await client.responses.create({ ...request, stream: true })) {
        if (event.type === "response.output_text.delta") text += event.delta;
        last = event;
      }
      assert.equal(last.type, `response.${whole.status}`);
      assert.equal(text, whole.output_text);
      const { input_tokens, output_tokens } = last.response.usage;
      assert.deepEqual([input_tokens, output_tokens], [whole.usage.input_tokens, whole.usage.output_tokens]);
    });

    test("a response that calls", async () => {
      const response = await client.responses.create({
        model,
        input: "Weather?",
        tools: [{ type: "function", name: "get_weather", parameters: WEATHER_PARAMETERS, strict: true }],
        tool_choice: "required",
        parallel_tool_calls: false,
        max_output_tokens: 200,
      });
      const calls = response.output.filter((item) => item.type === "function_call");
      assert.equal(calls.length, 1);
      assert.ok(["Paris", "Rome"].includes(JSON.parse(calls[0].arguments).city));
    });
  });
}
