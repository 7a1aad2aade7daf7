// Who shared steps with a journey, as far as the summaries of other journeys tell.

import { stepsOf } from "./journey.js";

const MOST = 20;

/** @param summaries of `GET /journeys/recent?fields=summary`
 *  @returns `{ firstStep, lastStep, others, more }`, or null when the journey never ran */
export function companions(journey, summaries) {
  const own = journey.sequences.map(stepsOf).filter(({ scheduled, finished }) => scheduled !== null && finished !== null);
  if (own.length === 0) return null;
  const named = namedBy(journey);
  const others = summaries
    .filter((one) => one.span_id !== journey.spanId)
    .map((one) => ({ one, ...inCommon(own, one.sequences ?? []) }))
    .filter(({ one, steps }) => steps > 0 || named.has(one.request_id))
    .map(({ one, steps, prefills }) => ({
      id: one.request_id ?? null,
      traceId: one.trace_id,
      steps,
      prefillTokens: prefills ? Math.max((one.prompt_tokens ?? 0) - (one.cached_tokens ?? 0), 0) : 0,
      roles: [...(named.get(one.request_id) ?? [])],
    }))
    .sort((a, b) => b.roles.length - a.roles.length || b.prefillTokens - a.prefillTokens || b.steps - a.steps);
  return {
    firstStep: Math.min(...own.map((one) => one.scheduled)),
    lastStep: Math.max(...own.map((one) => one.finished)),
    others: others.slice(0, MOST),
    more: Math.max(others.length - MOST, 0),
  };
}

/** The most steps that one of its sequences had with one of the other's, and whether the other's prompt was
 *  computed while this one ran. */
function inCommon(own, sequences) {
  let [steps, prefills] = [0, false];
  for (const mine of own) {
    for (const other of sequences) {
      if (other.engine_id !== mine.engine || other.scheduled_step === undefined || other.finished_step === undefined) continue;
      steps = Math.max(steps, overlap(mine.scheduled, mine.finished, other.scheduled_step, other.finished_step));
      prefills ||= overlap(mine.scheduled, mine.finished, other.scheduled_step, other.first_token_step ?? other.finished_step) > 0;
    }
  }
  return { steps, prefills };
}

function overlap(from, to, otherFrom, otherTo) {
  return Math.max(Math.min(to, otherTo) - Math.max(from, otherFrom) + 1, 0);
}

function namedBy(journey) {
  const named = new Map();
  const add = (id, role) => {
    if (id !== undefined && id !== journey.requestId) named.set(id, (named.get(id) ?? new Set()).add(role));
  };
  for (const event of journey.sequences.flatMap((one) => one.events)) {
    add(event.attributes["wait.blocker"], "the one it waited for");
    add(event.attributes["preempted.by"], "the one it was preempted for");
  }
  return named;
}
