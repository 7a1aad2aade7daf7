// Reasoning, calls in the model's own form, errors, time-outs, streams that are left, TLS.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";
import OpenAI from "openai";
import { ECHO, SIMULATED, SLOW, connect, serve } from "./server.js";

const CHAT = [{ role: "user", content: "Hi" }];
const WEATHER = { type: "function", function: { name: "get_weather", parameters: { type: "object" } } };
const ENDLESS = { model: "sim", messages: CHAT, max_tokens: 3000, ignore_eos: true };

async function withServer(options, use) {
  const server = await serve(...options);
  try {
    await use(server);
  } finally {
    await server.stop();
  }
}

/** What the call was refused with. */
async function refused(call, kind) {
  const error = await call.then(
    () => assert.fail("it was not refused"),
    (error) => error,
  );
  assert.equal(error.constructor, kind);
  return error;
}

test("reasoning and calls of the model's own accord, whole and streamed", async () => {
  const options = [...ECHO, "--tool-call-parser", "hermes", "--reasoning-parser", "deepseek_r1"];
  await withServer(options, async ({ client }) => {
    const call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>';
    const messages = [{ role: "user", content: `I think.</think>I look. ${call}` }];
    const request = { model: "sim", messages, tools: [WEATHER], max_tokens: 1500 };
    const { message, finish_reason } = (await client.chat.completions.create(request)).choices[0];
    const calls = message.tool_calls.map((one) => [one.function.name, one.function.arguments]);
    assert.equal(finish_reason, "tool_calls");
    assert.deepEqual(calls.at(-1), ["get_weather", '{"city": "Rome"}']);
    const seen = { reasoning: "", content: "", calls: [] };
    for await (const chunk of await client.chat.completions.create({ ...request, stream: true })) {
      const { delta } = chunk.choices[0];
      seen.reasoning += delta.reasoning ?? "";
      seen.content += delta.content ?? "";
      for (const part of delta.tool_calls ?? []) {
        seen.calls[part.index] ??= [part.function.name, ""];
        seen.calls[part.index][1] += part.function.arguments;
      }
    }
    assert.deepEqual(seen, { reasoning: message.reasoning, content: message.content, calls });
  });
});

test("errors are of the kinds that the client knows", async () => {
  await withServer([...SIMULATED, "--api-key", "one", "two"], async ({ address }) => {
    const chat = connect(address, { apiKey: "two" }).chat.completions;
    const bad = await refused(chat.create({ model: "sim", messages: CHAT, temperature: 3 }), OpenAI.BadRequestError);
    assert.deepEqual([bad.param, bad.code], ["temperature", "invalid_value"]);
    const unknown = await refused(chat.create({ model: "sim", messages: CHAT, nonsense: 1 }), OpenAI.BadRequestError);
    assert.deepEqual([unknown.param, unknown.code], ["nonsense", "unknown_parameter"]);
    const none = await refused(chat.create({ model: "gpt-9", messages: CHAT }), OpenAI.NotFoundError);
    assert.equal(none.code, "model_not_found");
    const embeddings = connect(address, { apiKey: "one" }).embeddings;
    const other = await refused(embeddings.create({ model: "sim", input: "x" }), OpenAI.NotFoundError);
    assert.equal(other.code, "unsupported_endpoint");
    await refused(connect(address, { apiKey: "three" }).models.list(), OpenAI.AuthenticationError);
  });
  for (const [type, kind] of [
    ["rate_limit", OpenAI.RateLimitError],
    ["server_error", OpenAI.InternalServerError],
    ["executor_error", OpenAI.InternalServerError],
  ]) {
    const failing = [...SIMULATED, "--failure-injection-rate", "100", "--failure-types", type];
    await withServer(failing, async ({ client }) => {
      await refused(client.chat.completions.create({ model: "sim", messages: CHAT }), kind);
    });
  }
});

test("an error in a stream is thrown", async () => {
  const failing = [...SIMULATED, "--failure-injection-rate", "100", "--failure-types", "executor_error"];
  await withServer(failing, async ({ client }) => {
    const stream = await client.chat.completions.create({ model: "sim", messages: CHAT, stream: true });
    await assert.rejects(async () => {
      for await (const _ of stream);
    }, OpenAI.APIError);
  });
});

test("streams that are left and time-outs end the request", async () => {
  await withServer(SLOW, async ({ address, client }) => {
    const running = async () => {
      const page = await (await fetch(`${address}/metrics`)).text();
      return Number(/^vllm:num_requests_running\S* (\S+)$/m.exec(page)[1]);
    };
    const settled = async () => {
      const deadline = Date.now() + 10_000;
      while ((await running()) > 0) {
        assert.ok(Date.now() < deadline, "it goes on");
        await sleep(20);
      }
    };
    const stream = await client.chat.completions.create({ ...ENDLESS, stream: true });
    for await (const _ of stream) break;
    await settled();

    const aborted = await client.chat.completions.create({ ...ENDLESS, stream: true });
    assert.equal(await running(), 1);
    aborted.controller.abort();
    await settled();

    const impatient = connect(address, { timeout: 300 });
    await refused(impatient.chat.completions.create(ENDLESS), OpenAI.APIConnectionTimeoutError);
    await settled();
  });
  await withServer([...SLOW, "--request-timeout", "0.3"], async ({ client }) => {
    const late = await refused(client.chat.completions.create(ENDLESS), OpenAI.InternalServerError);
    assert.deepEqual([late.status, late.code], [504, "timeout"]);
  });
});

test("no server is a connection error", async () => {
  let gone;
  await withServer(SIMULATED, async ({ client }) => {
    gone = client;
  });
  await refused(gone.models.list(), OpenAI.APIConnectionError);
});

// `$NODE_EXTRA_CA_CERTS` is the authority of `$WAYFARE_TLS/server.pem`.
test("TLS", async () => {
  const folder = process.env.WAYFARE_TLS;
  const files = ["--ssl-certfile", `${folder}/server.pem`, "--ssl-keyfile", `${folder}/server.key`];
  await withServer([...SIMULATED, ...files], async ({ address }) => {
    const client = connect(address.replace("127.0.0.1", "localhost"));
    assert.equal((await client.models.list()).data[0].id, "sim");
    const stream = await client.chat.completions.create({ model: "sim", messages: CHAT, max_tokens: 4, stream: true });
    let chunks = 0;
    for await (const _ of stream) chunks += 1;
    assert.ok(chunks > 1);
  });
});
