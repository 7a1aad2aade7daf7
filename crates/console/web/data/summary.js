// Summaries of journeys (docs/journeys.md, `fields=summary`), with what lists, scatter and statistics compute from them.

import { BUCKETS } from "./buckets.js";
import { unixMs } from "../lib/format.js";

const BUCKET_KEYS = BUCKETS.map((bucket) => bucket.key);

/** Adds to a summary, as the server sends it, what is computed from it. */
export function readSummary(raw) {
  const ledger = raw.ledger ?? {};
  const ttftNs = raw.ttft_seconds === undefined ? null : raw.ttft_seconds * 1e9;
  const output = raw.output_tokens ?? 0;
  const startMs = unixMs(raw.start_unix_ns);
  return {
    ...raw,
    ledger,
    ttftNs,
    startMs,
    endMs: startMs + raw.duration_ns / 1e6,
    tpotNs: ttftNs === null || output < 2 ? null : (raw.duration_ns - ttftNs) / (output - 1),
    queueNs: ledger.queue ?? 0,
    main: mainBucket(ledger),
    outcome: raw.status === "aborted" ? (raw.abort_reason ?? "aborted") : "departed",
    sought: `${raw.request_id ?? ""} ${raw.trace_id} ${raw.model ?? ""} ${raw.route}`.toLowerCase(),
  };
}

function mainBucket(ledger) {
  let main = "other";
  for (const key of BUCKET_KEYS) {
    if ((ledger[key] ?? 0) > (ledger[main] ?? 0)) main = key;
  }
  return main;
}

/** The same summary from a whole journey, for where there is no server: a report made from a file. */
export function summarize(raw) {
  const attributes = raw.attributes ?? {};
  const ledger = {};
  for (const [name, ns] of Object.entries(attributes)) {
    const bucket = /^journey\.ledger\.(.+)_ns$/.exec(name)?.[1];
    if (bucket !== undefined && ns !== 0) ledger[bucket] = ns;
  }
  const sequences = (raw.sequences ?? []).map((sequence) => {
    const events = sequence.events ?? [];
    const first = (name) => events.find((event) => event.name === name)?.attributes ?? {};
    const scheduled = first("journey.SCHEDULED");
    const preemptedBy = events.map((event) => event.attributes?.["preempted.by"]).filter((by) => by !== undefined);
    return {
      engine_id: sequence.attributes?.["wayfare.engine_id"],
      scheduled_step: scheduled["scheduler.step"],
      first_token_step: first("journey.FIRST_TOKEN")["scheduler.step"],
      finished_step: first("journey.FINISHED")["scheduler.step"],
      wait_reason: scheduled["wait.reason"],
      wait_blocker: scheduled["wait.blocker"],
      ...(preemptedBy.length ? { preempted_by: preemptedBy } : {}),
    };
  });
  return readSummary({
    request_id: raw.request_id ?? undefined,
    trace_id: raw.trace_id,
    span_id: raw.span_id,
    route: raw.route,
    status: raw.status,
    http_status: raw.http_status ?? undefined,
    abort_reason: raw.abort?.reason,
    start_unix_ns: raw.start_unix_ns,
    duration_ns: raw.duration_ns,
    model: attributes["gen_ai.request.model"],
    prompt_tokens: attributes["gen_ai.usage.input_tokens"],
    output_tokens: attributes["gen_ai.usage.output_tokens"],
    cached_tokens: attributes["journey.tokens.cached"],
    recomputed_tokens: attributes["journey.tokens.recomputed"],
    wasted_tokens: attributes["journey.tokens.wasted"],
    ttft_seconds: attributes["gen_ai.latency.time_to_first_token"],
    num_preemptions: sequences.length ? raw.sequences.reduce((sum, one) => sum + (one.num_preemptions ?? 0), 0) : 0,
    ledger,
    sequences,
  });
}

/** What can be looked at over time: a time in nanoseconds for each journey that has it. */
export const MEASURES = {
  duration: { label: "whole life", of: (one) => one.duration_ns },
  ttft: { label: "time to first token", of: (one) => one.ttftNs },
  queue: { label: "queue", of: (one) => one.queueNs },
  tpot: { label: "time per token", of: (one) => one.tpotNs },
};

/** Those for which all that is given holds.
 *  @param filter `{ text, outcome: "all" | "departed" | "aborted" | a reason, minNs, preempted }` */
export function chosen(summaries, filter) {
  const text = (filter.text ?? "").trim().toLowerCase();
  const outcome = filter.outcome ?? "all";
  return summaries.filter((one) =>
    (text === "" || one.sought.includes(text)) &&
    (outcome === "all" || one.status === outcome || one.outcome === outcome) &&
    (!(filter.minNs > 0) || one.duration_ns >= filter.minNs) &&
    (!filter.preempted || one.num_preemptions > 0) &&
    (!filter.bucket || one.main === filter.bucket));
}

/** How the journeys are found again at `/journeys/{id}`: by the response's id, or else by the trace. */
export function idOf(summary) {
  return summary.request_id ?? summary.trace_id;
}
