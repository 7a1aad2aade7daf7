// A journey as the drawings need it, from its JSON (docs/journeys.md). Pure: the same for the running server's answers
// and for a report made from a file. Times are nanoseconds after the arrival.

import { BUCKETS, WAIT_REASONS } from "./buckets.js";

/** Reads one element of `journeys`. What is missing is null or empty, never an error. */
export function readJourney(raw) {
  const attributes = raw.attributes ?? {};
  const durationNs = raw.duration_ns ?? 0;
  const ledger = ledgerOf(attributes);
  const sequences = (raw.sequences ?? []).map((one) => readSequence(one, durationNs));
  const journey = {
    raw,
    requestId: raw.request_id ?? null,
    traceId: raw.trace_id ?? "",
    spanId: raw.span_id ?? "",
    parentSpanId: raw.parent_span_id ?? null,
    route: raw.route ?? "",
    status: raw.status ?? "",
    httpStatus: raw.http_status ?? null,
    abort: raw.abort ?? null,
    startUnixNs: raw.start_unix_ns ?? "0",
    endUnixNs: raw.end_unix_ns ?? "0",
    durationNs,
    model: attributes["gen_ai.request.model"] ?? null,
    streamed: attributes["gen_ai.request.stream"] ?? null,
    finishReasons: attributes["gen_ai.response.finish_reasons"] ?? [],
    ttftNs: secondsAsNs(attributes["gen_ai.latency.time_to_first_token"]),
    blockedNs: attributes["journey.deliver.blocked_ns"] ?? 0,
    tokens: {
      prompt: attributes["gen_ai.usage.input_tokens"] ?? promptOf(sequences),
      output: attributes["gen_ai.usage.output_tokens"] ?? null,
      cached: attributes["journey.tokens.cached"] ?? 0,
      recomputed: attributes["journey.tokens.recomputed"] ?? 0,
      wasted: attributes["journey.tokens.wasted"] ?? 0,
    },
    ledger,
    waits: waitsOf(attributes),
    numPreemptions: sequences.reduce((sum, one) => sum + one.numPreemptions, 0),
    sequences,
    events: (raw.events ?? []).map((event) => readEvent(event, "api", null)),
  };
  journey.lanes = [{ name: "llm_request", segments: requestSegments(journey), events: journey.events }].concat(
    sequences.map((one) => ({
      name: sequences.length > 1 ? `llm_core ${one.index}` : "llm_core",
      segments: one.segments,
      events: one.events,
    })),
  );
  return journey;
}

/** The buckets with any time in them, in the order in which a request passes them. */
export function ledgerOf(attributes) {
  return BUCKETS.map(({ key }) => ({ key, ns: attributes[`journey.ledger.${key}_ns`] ?? 0 })).filter(({ ns }) => ns > 0);
}

/** Of the queue's time, how much for which reason; the longest first. */
export function waitsOf(attributes) {
  return Object.keys(WAIT_REASONS)
    .map((reason) => ({ reason, ns: attributes[`journey.ledger.queue.${reason}_ns`] ?? 0 }))
    .filter(({ ns }) => ns > 0)
    .sort((a, b) => b.ns - a.ns);
}

export function ledgerTotal(ledger) {
  return ledger.reduce((sum, { ns }) => sum + ns, 0);
}

function secondsAsNs(seconds) {
  return typeof seconds === "number" ? Math.round(seconds * 1e9) : null;
}

function promptOf(sequences) {
  const totals = sequences.map((one) => one.events[0]?.attributes["prefill.total_tokens"]).filter(Number.isFinite);
  return totals.length ? totals.reduce((sum, one) => sum + one, 0) : null;
}

function readEvent(event, lane, sequence) {
  const name = event.name ?? "";
  return {
    name,
    short: name.slice(name.indexOf(".") + 1),
    lane,
    sequence,
    atNs: event.offset_ns ?? 0,
    attributes: event.attributes ?? {},
  };
}

function readSequence(raw, durationNs) {
  const attributes = raw.attributes ?? {};
  const index = raw.index ?? 0;
  const events = (raw.events ?? []).map((event) => readEvent(event, "core", index));
  const sequence = {
    index,
    spanId: raw.span_id ?? "",
    startNs: raw.start_offset_ns ?? 0,
    endNs: Math.min((raw.start_offset_ns ?? 0) + (raw.duration_ns ?? 0), durationNs),
    finishStatus: raw.finish_status ?? null,
    numPreemptions: raw.num_preemptions ?? 0,
    droppedEvents: raw.dropped_events ?? 0,
    engineId: attributes["wayfare.engine_id"] ?? null,
    ledger: ledgerOf(attributes),
    events,
  };
  sequence.segments = coreSegments(sequence);
  return sequence;
}

/** The API's side: the ledger says exactly when it began and ended to wait for the engine. */
function requestSegments(journey) {
  const ns = (key) => journey.ledger.find((one) => one.key === key)?.ns ?? 0;
  const segments = [];
  let at = 0;
  for (const key of ["receive", "prepare", "admit"]) {
    push(segments, key, at, at + ns(key));
    at += ns(key);
  }
  const delivers = journey.durationNs - ns("deliver");
  push(segments, "engine", at, delivers);
  push(segments, "deliver", delivers, journey.durationNs);
  return segments;
}

/** The engine's side, from event to event. */
function coreSegments(sequence) {
  const segments = [];
  let [at, doing, hasToken] = [sequence.startNs, null, false];
  const recomputeNs = sequence.ledger.find((one) => one.key === "recompute")?.ns ?? 0;
  const until = (to, attributes) => {
    if (doing !== null) push(segments, doing, at, to, attributes);
    at = Math.max(at, to);
  };
  for (const event of sequence.events) {
    const { attributes } = event;
    switch (event.short) {
      case "QUEUED":
        until(event.atNs);
        doing = "queue";
        break;
      case "SCHEDULED": {
        until(event.atNs, attributes);
        doing = hasToken ? "decode" : "prefill";
        // After a single preemption, what is computed again comes first. After several, the events do not part them.
        if (attributes["schedule.kind"] === "RESUME" && sequence.numPreemptions === 1 && recomputeNs > 0) {
          const caughtUp = Math.min(event.atNs + recomputeNs, sequence.endNs);
          push(segments, "recompute", at, caughtUp);
          at = Math.max(at, caughtUp);
        }
        break;
      }
      case "FIRST_TOKEN":
        until(event.atNs);
        [doing, hasToken] = ["decode", true];
        break;
      case "PREEMPTED":
        until(event.atNs);
        doing = "preempted";
        break;
      default:
        until(event.atNs);
        if (event.short === "FINISHED") doing = null;
    }
  }
  until(sequence.endNs);
  return segments;
}

function push(segments, key, fromNs, toNs, attributes) {
  if (toNs > fromNs) segments.push({ key, fromNs, toNs, attributes: attributes ?? {} });
}

/** All events of all spans, in the order in which they happened. */
export function allEvents(journey) {
  const all = journey.events.concat(...journey.sequences.map((one) => one.events));
  return all.map((event, place) => ({ event, place })).sort((a, b) => a.event.atNs - b.event.atNs || a.place - b.place).map(({ event }) => event);
}

/** The steps in which a sequence ran: its first and its last, and that of its first token. */
export function stepsOf(sequence) {
  const step = (short) => sequence.events.find((event) => event.short === short)?.attributes["scheduler.step"] ?? null;
  return { engine: sequence.engineId, scheduled: step("SCHEDULED"), firstToken: step("FIRST_TOKEN"), finished: step("FINISHED") };
}

/** What an event tells beyond its name, as pieces of text. */
export function eventDetails(event) {
  const { attributes } = event;
  const details = [];
  const tell = (key, text) => {
    if (attributes[key] !== undefined) details.push(text(attributes[key]));
  };
  if (event.lane === "core") {
    tell("scheduler.step", (step) => `step ${step}`);
    const of = (done, total) => `${attributes[done] ?? 0}/${attributes[total] ?? "?"}`;
    details.push(`prompt ${of("prefill.done_tokens", "prefill.total_tokens")}`, `output ${of("decode.done_tokens", "decode.max_tokens")}`);
    tell("schedule.kind", (kind) => kind.toLowerCase());
    tell("scheduled_tokens", (tokens) => `computes ${tokens}`);
    if (attributes["cached_tokens"] > 0) details.push(`${attributes["cached_tokens"]} cached`);
    tell("wait.reason", (reason) => `waited for ${reason}`);
    tell("tokens_lost", (tokens) => `${tokens} tokens lost`);
    tell("kv.blocks_freed", (blocks) => `${blocks} blocks freed`);
    tell("journey.folded", (pairs) => `stands for ${pairs} preemptions`);
    tell("finish.status", (status) => status);
  } else {
    tell("prefill.total_tokens", (tokens) => `${tokens} prompt tokens`);
    tell("http.response.status_code", (status) => `status ${status}`);
    tell("reason", (reason) => reason);
    tell("error", (error) => error);
  }
  return details;
}

/** Other requests that an event names, with why. */
export function blamed(event) {
  const { attributes } = event;
  return [["wait.blocker", "blocked by"], ["preempted.by", "for"]]
    .filter(([key]) => attributes[key] !== undefined)
    .map(([key, why]) => ({ why, id: attributes[key] }));
}
