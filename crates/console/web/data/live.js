// What the live view says of requests in flight (docs/live-view.md).

import { waitReason } from "./buckets.js";

/** States in the order of a request's life, each with the colour of the bucket in which its time is booked. */
export const STATES = [
  { key: "receiving", bucket: "receive", means: "its body is still arriving" },
  { key: "preparing", bucket: "prepare", means: "it is parsed, rendered and tokenised, or being refused" },
  { key: "queued", bucket: "queue", means: "the engine has it, and has computed nothing of it" },
  { key: "prefill", bucket: "prefill", means: "the engine computes its prompt" },
  { key: "decode", bucket: "decode", means: "the engine generates" },
  { key: "preempted", bucket: "preempted", means: "its KV blocks were taken away; it waits to go on" },
  { key: "delivering", bucket: "deliver", means: "the engine is through, the response is not" },
  { key: "abandoned", bucket: "other", means: "the response is over, the engine has not let go of it yet" },
];

const BY_KEY = new Map(STATES.map((state, order) => [state.key, { ...state, order }]));

export function stateOf(key) {
  return BY_KEY.get(key) ?? { key, bucket: "other", means: "", order: STATES.length };
}

/** The state; with a question mark when the engine has not said it of this request. */
export function stateWord(request) {
  return request.inferred ? `${request.state}?` : request.state;
}

/** What the state means, and how it is known where that is not from the engine. */
export function stateInWords(request) {
  const means = stateOf(request.state).means;
  return request.inferred ? `${means}, as far as can be told from how many the engine says run and wait` : means;
}

/** How many requests are in which state. */
export function countByState(requests) {
  const counts = new Map();
  for (const one of requests) counts.set(one.state, (counts.get(one.state) ?? 0) + 1);
  return counts;
}

/** Why it waits, in words; empty when it does not. */
export function waitInWords(wait) {
  return wait ? waitReason(wait.reason).means : "";
}

/** What the charts show of the samples: each with its value in a sample. A share has 1 at the top of its axis. */
export const GAUGES = [
  { key: "running", label: "running", of: (one) => one.running, isWhole: true },
  { key: "waiting", label: "waiting", of: (one) => one.waiting, isWhole: true },
  { key: "kv", label: "KV blocks used", of: (one) => one.kv_blocks_used / Math.max(one.kv_blocks_total, 1), isShare: true },
  { key: "output", label: "output tokens/s", of: (one) => one.output_tokens_per_second },
  { key: "prompt", label: "prompt tokens/s", of: (one) => one.prompt_tokens_per_second },
  { key: "preemptions", label: "preemptions/s", of: (one, before) => (before ? Math.max(one.preemptions_total - before.preemptions_total, 0) : 0), isWhole: true },
];

/** One gauge over time: `[{ atMs, value }]`. */
export function seriesOf(gauge, samples) {
  return samples.map((one, index) => ({ atMs: one.atMs, value: gauge.of(one, samples[index - 1]) }));
}
