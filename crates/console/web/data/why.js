// Where the time of the ordinary and of the slow went, over many journeys.

import { BUCKETS, WAIT_REASONS } from "./buckets.js";
import { quantile } from "./stats.js";

/** Which part of the journeys, sorted by their duration, stands for a percentile. */
const COHORTS = [
  { name: "p50", who: "the middle fifth", from: 0.4, to: 0.6 },
  { name: "p95", who: "those around the 95th percentile", from: 0.925, to: 0.975 },
  { name: "p99", who: "the slowest in a hundred", from: 0.985, to: 1 },
];
const MOST_BLOCKERS = 10;

/** @param summaries as `readSummary` or `summarize` make them */
export function analyse(summaries) {
  // What was refused never reached the engine and says nothing about its time.
  const served = summaries.filter((one) => (one.sequences ?? []).length > 0).sort((a, b) => a.duration_ns - b.duration_ns);
  const cohorts = served.length === 0 ? [] : COHORTS.map((cohort) => cohortOf(served, cohort));
  return {
    total: summaries.length,
    served: served.length,
    outcomes: outcomesOf(summaries),
    cohorts,
    slower: slowerBy(cohorts),
    waits: waitsOf(served),
    blockers: blockersOf(served),
    tax: taxOf(served),
  };
}

function cohortOf(served, { name, who, from, to }) {
  const first = Math.min(Math.floor(served.length * from), served.length - 1);
  const members = served.slice(first, Math.max(Math.ceil(served.length * to), first + 1));
  const mean = (of) => members.reduce((sum, one) => sum + of(one), 0) / members.length;
  return {
    name,
    who,
    count: members.length,
    valueNs: quantile(served.map((one) => one.duration_ns), Number(name.slice(1)) / 100),
    meanNs: mean((one) => one.duration_ns),
    ledger: BUCKETS.map(({ key }) => ({ key, ns: mean((one) => one.ledger[key] ?? 0) })),
  };
}

/** By how much the slow are slower than the ordinary, and which bucket has most of that. */
function slowerBy(cohorts) {
  if (cohorts.length === 0) return null;
  const [ordinary, slow] = [cohorts[0], cohorts.at(-1)];
  const parts = slow.ledger.map(({ key, ns }, place) => ({ key, ns: ns - ordinary.ledger[place].ns })).sort((a, b) => b.ns - a.ns);
  return { ns: slow.meanNs - ordinary.meanNs, main: parts[0] };
}

function outcomesOf(summaries) {
  const counts = new Map();
  for (const one of summaries) counts.set(one.outcome, (counts.get(one.outcome) ?? 0) + 1);
  return [...counts].map(([outcome, number]) => ({ outcome, number })).sort((a, b) => b.number - a.number);
}

/** All time in the queue by its reason. */
function waitsOf(served) {
  return Object.keys(WAIT_REASONS)
    .map((reason) => {
      const times = served.map((one) => one.ledger[`queue.${reason}`] ?? 0).filter((ns) => ns > 0);
      return { reason, ns: times.reduce((sum, ns) => sum + ns, 0), count: times.length };
    })
    .filter(({ ns }) => ns > 0)
    .sort((a, b) => b.ns - a.ns);
}

/** Whom the others name: as the one they waited for, with the time they waited, or were preempted for. */
function blockersOf(served) {
  const blockers = new Map();
  const of = (id) => {
    if (!blockers.has(id)) blockers.set(id, { id, ns: 0, blocked: 0, preempted: 0 });
    return blockers.get(id);
  };
  for (const one of served) {
    const waitedFor = new Set(one.sequences.map((sequence) => sequence.wait_blocker).filter((id) => id !== undefined && id !== one.request_id));
    for (const id of waitedFor) {
      const blocker = of(id);
      blocker.blocked += 1;
      blocker.ns += (one.ledger.queue ?? 0) / waitedFor.size;
    }
    for (const id of one.sequences.flatMap((sequence) => sequence.preempted_by ?? [])) of(id).preempted += 1;
  }
  return [...blockers.values()].sort((a, b) => b.ns - a.ns || b.preempted - a.preempted).slice(0, MOST_BLOCKERS);
}

/** What preemptions cost all together. */
function taxOf(served) {
  const sum = (of) => served.reduce((total, one) => total + (of(one) ?? 0), 0);
  const computed = sum((one) => (one.prompt_tokens ?? 0) - (one.cached_tokens ?? 0)) + sum((one) => one.output_tokens);
  const recomputed = sum((one) => one.recomputed_tokens);
  return {
    preempted: served.filter((one) => one.num_preemptions > 0).length,
    preemptions: sum((one) => one.num_preemptions),
    recomputedTokens: recomputed,
    /** Of all tokens that were computed. */
    tokenShare: recomputed / Math.max(computed + recomputed, 1),
    waitingNs: sum((one) => one.ledger.preempted),
    recomputeNs: sum((one) => one.ledger.recompute),
    /** Of the life of all requests. */
    timeShare: sum((one) => (one.ledger.preempted ?? 0) + (one.ledger.recompute ?? 0)) / Math.max(sum((one) => one.duration_ns), 1),
  };
}
