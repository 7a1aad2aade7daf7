// What `analyse` found, drawn.

import { bucketOf, waitReason } from "../data/buckets.js";
import { h } from "../lib/dom.js";
import { count, counted, duration, percent } from "../lib/format.js";
import { drawLedgerBar } from "./ledger.js";
import { drawId, swatch } from "./pieces.js";

/** @param options `{ linkTo(id) }` */
export function drawWhy(found, options = {}) {
  if (found.served === 0) return h("p", { class: "notice" }, "No journey yet that the engine has worked on.");
  return h("div", { class: "why stack" },
    h("section", { class: "sheet" },
      h("p", { class: "sentences" }, inWords(found)),
      h("div", { class: "cohorts" }, drawCohorts(found.cohorts))),
    h("section", { class: "sheet" }, h("h2", null, "By bucket"), h("div", { class: "scrolls" }, drawBuckets(found.cohorts))),
    h("div", { class: "columns" },
      h("section", { class: "sheet waits" }, h("h2", null, "Why requests waited in the queue"), drawWaits(found.waits)),
      h("section", { class: "sheet blockers" }, h("h2", null, "Who was in the way"), drawBlockers(found.blockers, options.linkTo)),
      h("section", { class: "sheet tax" }, h("h2", null, "What preemptions cost"), drawTax(found.tax, found.served)),
      h("section", { class: "sheet outcomes" }, h("h2", null, "How they ended"), drawOutcomes(found.outcomes, found.total))));
}

function inWords({ cohorts, slower, served }) {
  const [ordinary, slow] = [cohorts[0], cohorts.at(-1)];
  const largest = [...ordinary.ledger].sort((a, b) => b.ns - a.ns)[0];
  const sentences = [
    "Of ", counted(served, "journey"), ", the middle ones took ", h("strong", null, duration(ordinary.meanNs)), ", most of it ",
    h("strong", null, bucketOf(largest.key).label), ` (${percent(largest.ns / ordinary.meanNs)}). `,
  ];
  if (slower.ns > ordinary.meanNs * 0.05 && slower.main.ns > 0) {
    const bucket = bucketOf(slower.main.key);
    sentences.push("The slowest took ", h("strong", null, duration(slow.meanNs)), ": of the ", h("strong", null, duration(slower.ns)), " more, ",
      h("strong", null, duration(slower.main.ns)), " is ", h("strong", null, bucket.label), `: ${bucket.means}.`);
  } else {
    sentences.push("The slowest took hardly longer.");
  }
  return sentences;
}

/** On one scale, so that lengths compare. */
function drawCohorts(cohorts) {
  const longest = Math.max(...cohorts.map((one) => one.meanNs));
  return cohorts.map(({ name, who, count: number, meanNs, ledger }) => {
    const bar = drawLedgerBar(ledger.filter(({ ns }) => ns > 0), `${name}: ${duration(meanNs)}`);
    bar.style.setProperty("width", `${(meanNs / longest) * 100}%`);
    return h("div", { class: "cohort", "data-cohort": name },
      h("div", { class: "cohort-name" }, h("strong", null, name), h("span", { class: "soft small" }, ` ${who}, ${count(number)}`)),
      h("div", { class: "cohort-value" }, duration(meanNs)),
      h("div", { class: "cohort-bar" }, bar));
  });
}

function drawBuckets(cohorts) {
  const rows = cohorts[0].ledger.map(({ key }, place) => {
    const bucket = bucketOf(key);
    const values = cohorts.map((one) => ({ ns: one.ledger[place].ns, share: one.ledger[place].ns / one.meanNs }));
    if (values.every(({ ns }) => ns === 0)) return null;
    return h("tr", { "data-bucket": key },
      h("td", { class: "name nowrap" }, swatch(key, bucket.waits), " ", bucket.label),
      h("td", { class: "wide soft" }, bucket.means),
      values.map(({ ns, share }) => [h("td", { class: "number" }, duration(ns)), h("td", { class: "number soft" }, percent(share))]));
  });
  return h("table", { class: "by-bucket" },
    h("thead", null, h("tr", null, h("th", null, "bucket"), h("th", { class: "wide" }, "while"), cohorts.map(({ name }) => [h("th", { class: "number" }, name), h("th", { class: "number" }, "share")]))),
    h("tbody", null, rows),
    h("tfoot", null, h("tr", null, h("th", null, "sum"), h("td", { class: "wide" }), cohorts.map(({ meanNs }) => [h("td", { class: "number" }, duration(meanNs)), h("td", { class: "number soft" }, "100 %")]))));
}

function drawWaits(waits) {
  if (waits.length === 0) return h("p", { class: "soft" }, "Nobody waited.");
  const total = waits.reduce((sum, { ns }) => sum + ns, 0);
  return waits.map(({ reason, ns, count: number }) => {
    const { means, helps } = waitReason(reason);
    return h("div", { class: "share-row", "data-reason": reason },
      h("div", { class: "row between" }, h("span", null, h("code", null, reason), h("span", { class: "soft" }, ` ${means}`)), h("span", { class: "nowrap" }, duration(ns), h("span", { class: "soft" }, ` ${percent(ns / total)}`))),
      h("div", { class: "share-bar" }, h("span", { class: "filled b-queue hatched", style: { width: `${(ns / total) * 100}%` } })),
      h("p", { class: "soft small" }, counted(number, "request"), helps ? `; what helps: ${helps}` : ""));
  });
}

function drawBlockers(blockers, linkTo) {
  if (blockers.length === 0) return h("p", { class: "soft" }, "Nobody was named: no one request alone was to blame for a wait.");
  return h("div", { class: "scrolls" }, h("table", null,
    h("thead", null, h("tr", null, h("th", null, "request"), h("th", { class: "number" }, "made wait"), h("th", { class: "number" }, "they waited"), h("th", { class: "number" }, "preempted for it"))),
    h("tbody", null, blockers.map(({ id, ns, blocked, preempted }) => h("tr", null,
      h("td", { class: "nowrap" }, drawId(id, linkTo)),
      h("td", { class: "number" }, blocked ? count(blocked) : ""),
      h("td", { class: "number" }, ns ? duration(ns) : ""),
      h("td", { class: "number" }, preempted ? count(preempted) : ""))))));
}

function drawTax(tax, served) {
  if (tax.preemptions === 0) return h("p", { class: "soft" }, "Nothing: nobody was preempted.");
  const facts = [
    ["preempted", `${count(tax.preempted)} of ${count(served)} requests, ${counted(tax.preemptions, "time")}`],
    ["computed again", `${counted(tax.recomputedTokens, "token")}, ${percent(tax.tokenShare)} of all that were computed`],
    ["waiting to go on", duration(tax.waitingNs)],
    ["computing again", duration(tax.recomputeNs)],
    ["of all requests' time", percent(tax.timeShare)],
  ];
  return h("dl", { class: "pairs" }, facts.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}

function drawOutcomes(outcomes, total) {
  return h("dl", { class: "pairs" }, outcomes.map(({ outcome, number }) => h("div", null,
    h("dt", { class: outcome === "departed" ? "good" : "bad" }, outcome),
    h("dd", null, `${count(number)}, ${percent(number / total)}`))));
}
