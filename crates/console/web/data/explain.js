// The sentences that explain a journey. Pieces are { text }, { strong } or { id } (another request); no HTML.

import { ABORT_REASONS, bucketOf, waitReason } from "./buckets.js";
import { ledgerTotal } from "./journey.js";
import { counted, duration, percent } from "../lib/format.js";

/** A bucket that takes less than this of the whole life is not worth a sentence. */
const WORTH_TELLING = 0.1;

const text = (words) => ({ text: words });
const strong = (words) => ({ strong: words });

/** @returns a list of sentences, each a list of pieces. */
export function explain(journey) {
  const sentences = [ending(journey)];
  // What was refused was refused at once; there is nothing to shorten.
  if (journey.sequences.length === 0) return sentences;
  const total = ledgerTotal(journey.ledger);
  const largest = [...journey.ledger].sort((a, b) => b.ns - a.ns);
  const told = largest.filter(({ ns }, place) => ns > 0 && (place === 0 || ns >= total * WORTH_TELLING)).slice(0, 3);
  told.forEach((entry, place) => sentences.push(whereItWent(journey, entry, place, total)));
  const preemptions = preempted(journey);
  if (preemptions) sentences.push(preemptions);
  if (journey.blockedNs > journey.durationNs * WORTH_TELLING) {
    sentences.push([text("The client was slow to read: for "), strong(duration(journey.blockedNs)), text(" output lay ready and nobody took it.")]);
  }
  const advice = told.length ? helps(journey, told[0].key) : "";
  if (advice && told[0].ns >= total * 0.25) sentences.push([text(`To shorten that: ${advice}.`)]);
  return sentences;
}

function ending(journey) {
  const took = strong(duration(journey.durationNs));
  if (journey.status === "aborted") {
    const reason = journey.abort?.reason ?? "";
    const why = ABORT_REASONS[reason] ?? reason;
    const status = journey.httpStatus !== null && journey.httpStatus >= 400 ? ` (${journey.httpStatus})` : "";
    const words = journey.sequences.length ? "Ended before its time after " : "Refused after ";
    const sentence = [text(words), took, text(`${status}: ${why}`)];
    const message = journey.abort?.message;
    return message ? [...sentence, text(` – ${message}.`)] : [...sentence, text(".")];
  }
  const { output } = journey.tokens;
  const what = output === null ? "Answered in " : `${counted(output, "token")} in `;
  const sentence = [text(what), took];
  if (journey.ttftNs !== null) sentence.push(text(", the first after "), strong(duration(journey.ttftNs)));
  return [...sentence, text(".")];
}

function whereItWent(journey, { key, ns }, place, total) {
  const bucket = bucketOf(key);
  const share = [strong(duration(ns)), text(` (${percent(ns / total)})`)];
  const begin = place === 0 ? (ns > total / 2 ? "Most of it, " : "The largest part, ") : "Another ";
  const sentence = [text(begin), ...share, text(`${place === 0 ? "," : ""} is `), strong(bucket.label), text(`: ${bucket.means}`)];
  if (key === "queue") sentence.push(...queueReason(journey, ns));
  if (key === "decode" && journey.tokens.output > 1) {
    sentence.push(text(`, ${duration(ns / journey.tokens.output)} for each`));
  }
  if (key === "prefill" && journey.tokens.prompt !== null) {
    const cached = journey.tokens.cached > 0 ? `, ${journey.tokens.cached} of them cached` : "";
    sentence.push(text(`, ${counted(journey.tokens.prompt, "token")}${cached}`));
  }
  return [...sentence, text(".")];
}

function queueReason(journey, ns) {
  const main = mainWait(journey);
  if (!main) return [];
  const most = main.ns < ns * 0.95 ? `, ${duration(main.ns)} of it because ` : " because ";
  const pieces = [text(most + waitReason(main.reason).means)];
  const blocker = firstOf(journey, "wait.blocker");
  if (!blocker) return pieces;
  // Sequences of one request have its id in common.
  if (blocker === journey.requestId) pieces.push(text(", first of all another sequence of this request"));
  else pieces.push(text(", first of all "), { id: blocker });
  return pieces;
}

function mainWait(journey) {
  return journey.waits.find(({ reason }) => reason !== "next_step") ?? journey.waits[0];
}

function preempted(journey) {
  if (journey.numPreemptions === 0) return null;
  const lost = ["preempted", "recompute"].reduce((sum, key) => sum + (journey.ledger.find((one) => one.key === key)?.ns ?? 0), 0);
  const by = [...new Set(everyOf(journey, "preempted.by"))];
  const sentence = [text("It was preempted "), strong(journey.numPreemptions === 1 ? "once" : counted(journey.numPreemptions, "time"))];
  if (by.length > 0) {
    sentence.push(text(", for "), { id: by[0] });
    if (by.length > 1) sentence.push(text(` and ${by.length - 1} more`));
  }
  sentence.push(text(`, and ${counted(journey.tokens.recomputed, "token")} had to be computed again: `), strong(duration(lost)), text(" lost."));
  return sentence;
}

function helps(journey, key) {
  return key === "queue" ? waitReason(mainWait(journey)?.reason).helps : bucketOf(key).helps;
}

function everyOf(journey, attribute) {
  return journey.sequences.flatMap((one) => one.events).map((event) => event.attributes[attribute]).filter((value) => value !== undefined);
}

function firstOf(journey, attribute) {
  return everyOf(journey, attribute)[0] ?? null;
}
