// The finished journeys: filters, the scatter of their latency, and a table. The filters are part of the address.

import { drawLedgerBar, inWordsOf } from "../draw/ledger.js";
import { Scatter } from "../draw/scatter.js";
import { BUCKETS } from "../data/buckets.js";
import { MEASURES, chosen, idOf } from "../data/summary.js";
import { PERCENTILES, quantile, sortedNumbers } from "../data/stats.js";
import { h, replace } from "../lib/dom.js";
import { clock, count, counted, duration, nsOfMs } from "../lib/format.js";
import { WindowedTable } from "./table.js";

const REFRESH_MS = 2000;
const SORTS = {
  ended: (one) => one.endMs,
  duration: (one) => one.duration_ns,
  ttft: (one) => one.ttftNs ?? -1,
  queue: (one) => one.queueNs,
  prompt: (one) => one.prompt_tokens ?? -1,
  output: (one) => one.output_tokens ?? -1,
  preempted: (one) => one.num_preemptions,
};

export function recentView(app, _path, parameters) {
  const state = {
    text: parameters.get("text") ?? "",
    outcome: parameters.get("outcome") ?? "all",
    minNs: nsOfMs(parameters.get("min_ms") ?? 0),
    preempted: parameters.get("preempted") === "true",
    bucket: parameters.get("bucket") ?? "",
    measure: parameters.get("measure") in MEASURES ? parameters.get("measure") : "duration",
    sort: parameters.get("sort") in SORTS ? parameters.get("sort") : "ended",
    isDown: parameters.get("order") !== "up",
  };
  let isStopped = false;
  const open = (one) => app.go(app.journeyAddress(idOf(one), one.span_id));
  const scatter = new Scatter({ open, describe });
  const figures = h("dl", { class: "figures" });
  const said = h("p", { class: "small soft" });
  const table = new WindowedTable(columns(app), {
    name: "recent-table", label: "Finished journeys", keyOf: (one) => one.span_id, open,
    empty: "No journey that is kept matches.",
    onSort: (key, isDown) => change({ sort: key, isDown }),
  });
  const filters = drawFilters(state, change);
  const element = h("div", { class: "stack" },
    h("h1", { class: "hidden" }, "Recent journeys"),
    filters,
    h("section", { class: "sheet", "aria-label": "Latency" }, h("div", { class: "row between scatter-head" }, figures, drawMeasures(state, change)), scatter.element),
    h("section", { class: "sheet list", "aria-label": "Journeys" }, said, table.element));

  function change(part) {
    Object.assign(state, part);
    app.remember("recent", {
      text: state.text, outcome: state.outcome === "all" ? "" : state.outcome, min_ms: state.minNs > 0 ? state.minNs / 1e6 : "",
      preempted: state.preempted ? "true" : "", bucket: state.bucket, measure: state.measure === "duration" ? "" : state.measure,
      sort: state.sort === "ended" ? "" : state.sort, order: state.isDown ? "" : "up",
    });
    show();
  }

  function show(all = app.recent.journeys) {
    const shown = chosen(all, state);
    const by = SORTS[state.sort];
    const sign = state.isDown ? -1 : 1;
    const sorted = [...shown].sort((a, b) => sign * (by(a) - by(b)) || b.serial - a.serial);
    const measure = MEASURES[state.measure];
    scatter.show(shown, measure);
    const values = sortedNumbers(shown.map(measure.of));
    replace(figures, PERCENTILES.map(([name, share]) => h("div", null, h("dt", null, name), h("dd", null, duration(quantile(values, share))))));
    table.sortBy(state.sort, state.isDown);
    table.show(sorted);
    const lost = app.recent.store?.lost > 0 ? `; ${counted(app.recent.store.lost, "journey")} could not be kept` : "";
    replace(said, `${count(shown.length)} of ${counted(all.length, "journey")} that the server keeps${lost}`);
  }

  async function keepUp() {
    let before = -1;
    while (!isStopped) {
      if (!document.hidden) {
        try {
          await app.recent.refresh(show);
          app.isReachable(true);
        } catch (error) {
          app.isReachable(false, error);
        }
        const newest = app.recent.journeys[0]?.serial ?? 0;
        if (!isStopped && newest !== before) show();
        before = newest;
      }
      await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
    }
  }

  show();
  keepUp();
  return {
    element,
    title: "Recent",
    redraw: () => scatter.draw(),
    stop: () => {
      isStopped = true;
      scatter.stop();
      table.stop();
    },
  };
}

function describe(one) {
  const tokens = one.output_tokens === undefined ? "" : `, ${counted(one.output_tokens, "token")}`;
  return `${idOf(one)}\n${duration(one.duration_ns)}${tokens}, ${one.outcome}\n${inWordsOf(one.ledger)}`;
}

function columns(app) {
  return [
    { key: "ended", label: "ended", sort: true, cell: (one) => clock(one.endMs) },
    { key: "request", label: "request", cell: (one) => h("a", { href: app.journeyAddress(idOf(one), one.span_id), tabindex: "-1", class: "mono" }, idOf(one)) },
    { key: "outcome", label: "outcome", cell: (one) => h("span", { class: one.status === "aborted" ? "bad" : "good" }, one.outcome) },
    { key: "model", label: "model", cell: (one) => one.model ?? one.route },
    { key: "duration", label: "took", sort: true, number: true, cell: (one) => duration(one.duration_ns) },
    { key: "ttft", label: "first token", sort: true, number: true, cell: (one) => duration(one.ttftNs) },
    { key: "queue", label: "queue", sort: true, number: true, cell: (one) => duration(one.queueNs) },
    { key: "prompt", label: "prompt", sort: true, number: true, cell: (one) => count(one.prompt_tokens) },
    { key: "output", label: "output", sort: true, number: true, cell: (one) => count(one.output_tokens) },
    { key: "preempted", label: "preempted", sort: true, number: true, cell: (one) => one.num_preemptions || "" },
    { key: "ledger", label: "where its time went", cell: (one) => drawLedgerBar(BUCKETS.map(({ key }) => ({ key, ns: one.ledger[key] ?? 0 })).filter(({ ns }) => ns > 0)) },
  ];
}

function drawFilters(state, change) {
  let typing = 0;
  const typed = (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ text: event.target.value }), 120);
  };
  const outcomes = ["all", "departed", "aborted", "client_disconnect", "validation_error", "generation_error", "overloaded", "timeout", "engine_dead", "shutdown", "exception"];
  return h("form", { class: "row filters", role: "search", on: { submit: (event) => event.preventDefault() } },
    h("label", { class: "field grow" }, "id, model or route contains", h("input", { type: "search", name: "text", value: state.text, spellcheck: "false", on: { input: typed } })),
    h("label", { class: "field" }, "outcome", h("select", { name: "outcome", on: { change: (event) => change({ outcome: event.target.value }) } }, outcomes.map((one) => h("option", { value: one, selected: one === state.outcome }, one)))),
    h("label", { class: "field" }, "most of its time in", h("select", { name: "bucket", on: { change: (event) => change({ bucket: event.target.value }) } }, h("option", { value: "" }, "anything"), BUCKETS.map(({ key, label }) => h("option", { value: key, selected: key === state.bucket }, label)))),
    h("label", { class: "field" }, "took at least, ms", h("input", { type: "number", min: "0", step: "any", name: "min", class: "short", value: state.minNs > 0 ? state.minNs / 1e6 : "", on: { input: (event) => change({ minNs: nsOfMs(event.target.value) }) } })),
    h("label", { class: "check" }, h("input", { type: "checkbox", name: "preempted", checked: state.preempted, on: { change: (event) => change({ preempted: event.target.checked }) } }), " preempted"));
}

function drawMeasures(state, change) {
  const buttons = Object.entries(MEASURES).map(([key, { label }]) => h("button", { type: "button", "aria-pressed": String(key === state.measure), "data-measure": key, on: { click: () => choose(key) } }, label));
  const choose = (key) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.measure === key));
    change({ measure: key });
  };
  return h("div", { class: "choice", role: "group", "aria-label": "What is shown" }, buttons);
}
