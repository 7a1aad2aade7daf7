// The ledger's buckets: what they are called, what they mean, and what helps when one is the largest. The same words
// as in docs/journey-tracing.md.

/** In the order in which a request passes them. `waits`: nothing was done for the request. `lost`: to others. */
export const BUCKETS = [
  { key: "receive", label: "receive", means: "the request's body was coming in", helps: "look at the network and the client, which sends slowly" },
  { key: "prepare", label: "prepare", means: "it was parsed, checked, templated and tokenised", helps: "send shorter prompts, or give the HTTP side more CPU" },
  { key: "admit", label: "admit", means: "the engine was within a step when it came", helps: "lower --max-num-batched-tokens, so that steps are shorter" },
  { key: "queue", label: "queue", means: "it waited to be scheduled", waits: true, lost: true, helps: "see what it waited for" },
  { key: "prefill", label: "prefill", means: "its prompt was computed", helps: "share prefixes between prompts, so that the prefix cache has more of them" },
  { key: "prefill_wait", label: "prefill wait", means: "it stood still between the parts of its prompt, while others' work ran", waits: true, lost: true, helps: "set --long-prefill-token-threshold, or add servers" },
  { key: "decode", label: "decode", means: "its tokens were generated", helps: "ask for fewer tokens, or lower --max-num-seqs" },
  { key: "interference", label: "interference", means: "others' prompts slowed its own steps down", waits: true, lost: true, helps: "set --long-prefill-token-threshold or a smaller --max-num-batched-tokens" },
  { key: "preempted", label: "preempted", means: "its KV blocks had been taken away and it waited to go on", waits: true, lost: true, helps: "enlarge the KV cache, or lower --max-num-seqs" },
  { key: "recompute", label: "recompute", means: "what a preemption had thrown away was computed again", lost: true, helps: "enlarge the KV cache, or lower --max-num-seqs" },
  { key: "deliver", label: "deliver", means: "the answer was done and on its way to the client", helps: "look at the client and at proxies that buffer" },
];

const BY_KEY = new Map(BUCKETS.map((bucket) => [bucket.key, bucket]));

export function bucketOf(key) {
  return BY_KEY.get(key) ?? { key: "other", label: key, means: "", helps: "" };
}

/** Why a request waits in the queue, as `wait.reason` says it. */
export const WAIT_REASONS = {
  next_step: { means: "nothing stood in its way; the next step had not begun", helps: "lower --max-num-batched-tokens, so that steps are shorter" },
  token_budget: { means: "others had taken all tokens of the step", helps: "set --long-prefill-token-threshold, or add servers" },
  max_num_seqs: { means: "as many sequences were running as may", helps: "raise --max-num-seqs, if the KV cache has room" },
  kv_blocks: { means: "too few KV blocks were free", helps: "enlarge the KV cache or lower max_tokens" },
  head_of_line: { means: "the first in the queue could not be scheduled, and nobody overtakes", helps: "enlarge the KV cache, or use --scheduling-policy priority" },
  paused: { means: "the engine was paused", helps: "resume it" },
  unknown: { means: "the engine did not say why", helps: "" },
};

export function waitReason(key) {
  return WAIT_REASONS[key] ?? { means: String(key), helps: "" };
}

/** Why a request ended before its time, as `reason` of ABORTED says it. */
export const ABORT_REASONS = {
  client_disconnect: "the client left",
  validation_error: "the request was not valid",
  generation_error: "the engine failed while it generated",
  overloaded: "too many requests were waiting",
  timeout: "it had taken as long as a request may",
  engine_dead: "the engine was not running",
  shutdown: "the server was shut down",
  exception: "the server failed",
};
