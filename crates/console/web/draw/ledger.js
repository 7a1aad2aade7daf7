// The ledger as a bar and as a table. The bar's parts are as long as their nanoseconds; the table's last row is their
// sum beside the life of the request, which must be the same number.

import { bucketOf, waitReason } from "../data/buckets.js";
import { ledgerTotal } from "../data/journey.js";
import { h } from "../lib/dom.js";
import { count, duration, percent } from "../lib/format.js";
import { swatch } from "./pieces.js";

/** A bar of `[{ key, ns }]`. `label` is read aloud. */
export function drawLedgerBar(ledger, label) {
  const total = ledgerTotal(ledger);
  const parts = ledger.map(({ key, ns }) => {
    const bucket = bucketOf(key);
    return h("span", {
      class: `part filled b-${bucket.key}${bucket.waits ? " hatched" : ""}`,
      style: { "flex-grow": String(ns / Math.max(total, 1)) },
      title: `${bucket.label}: ${duration(ns)}, ${percent(ns / total)}`,
      "data-bucket": key,
      "data-ns": ns,
    });
  });
  return h("div", { class: "ledger-bar", role: "img", "aria-label": label ?? inWords(ledger, total) }, parts);
}

function inWords(ledger, total) {
  return ledger.map(({ key, ns }) => `${bucketOf(key).label} ${percent(ns / total)}`).join(", ");
}

/** The largest parts of a summary's ledger, in words. */
export function inWordsOf(ledger) {
  const entries = Object.entries(ledger).filter(([key]) => !key.includes(".")).map(([key, ns]) => ({ key, ns })).sort((a, b) => b.ns - a.ns);
  return inWords(entries.slice(0, 3), ledgerTotal(entries));
}

/** Every bucket with its exact time, the queue's reasons below it, and the sum. */
export function drawLedgerTable(journey) {
  const total = ledgerTotal(journey.ledger);
  const rows = journey.ledger.flatMap(({ key, ns }) => {
    const bucket = bucketOf(key);
    const row = tableRow([swatch(bucket.key, bucket.waits), " ", bucket.label], bucket.means, ns, total);
    row.dataset.bucket = key;
    if (key !== "queue") return [row];
    return [row, ...journey.waits.map(({ reason, ns: part }) => {
      const inner = tableRow(h("span", { class: "inner" }, reason), waitReason(reason).means, part, total);
      inner.classList.add("soft");
      return inner;
    })];
  });
  const isExact = total === journey.durationNs;
  return h("table", { class: "ledger-table" },
    h("thead", null, h("tr", null, h("th", null, "bucket"), h("th", { class: "wide" }, "while"), h("th", { class: "number" }, "time"), h("th", { class: "number" }, "share"), h("th", { class: "number exact" }, "nanoseconds"))),
    h("tbody", null, rows),
    h("tfoot", null, h("tr", null,
      h("th", null, "sum"),
      h("td", { class: "wide soft" }, isExact ? "exactly the life of the request" : `the life of the request is ${count(journey.durationNs)} ns: it does not add up, which is a bug`),
      h("td", { class: "number" }, duration(total)),
      h("td", { class: "number" }, percent(1)),
      h("td", { class: `number exact mono ${isExact ? "" : "bad"}`, "data-sum": total, "data-life": journey.durationNs }, count(total)))));
}

function tableRow(name, means, ns, total) {
  return h("tr", null,
    h("td", { class: "name" }, name),
    h("td", { class: "wide soft" }, means),
    h("td", { class: "number" }, duration(ns)),
    h("td", { class: "number" }, percent(ns / total)),
    h("td", { class: "number exact mono", "data-ns": ns }, count(ns)));
}
