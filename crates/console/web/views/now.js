// The requests in flight as they move, and the engine's last minutes.

import { GAUGES, STATES, countByState, seriesOf, stateOf } from "../data/live.js";
import { drawChart, roundTop } from "../draw/chart.js";
import { updateProgress, updateState, updateWait } from "../draw/live.js";
import { h, replace, setText } from "../lib/dom.js";
import { amount, clock, count, counted, duration, percent } from "../lib/format.js";
import { sinceSeen } from "../net/live.js";
import { WindowedTable } from "./table.js";

/** How often ages are drawn anew. */
const TICK_MS = 250;
const SPAN_MS = 600_000;
const SORTS = {
  state: (one) => stateOf(one.state).order,
  age: (one) => -Number(one.arrived_unix_ns),
  in_state: (one) => -Number(one.changed_unix_ns),
  speed: (one) => one.tokens_per_second ?? -1,
  preempted: (one) => one.num_preemptions,
};

export function nowView(app, _path, parameters) {
  if (app.about && !app.about.live_view) {
    const words = "This server shows no requests in flight: it was started with --disable-live-view. Finished journeys are under Recent.";
    return { element: h("p", { class: "notice" }, words), title: "Now", stop: () => {} };
  }
  const state = {
    only: new Set((parameters.get("state") ?? "").split(",").filter(Boolean)),
    sort: parameters.get("sort") in SORTS ? parameters.get("sort") : "age",
    isDown: parameters.get("order") !== "up",
  };
  const charts = GAUGES.map((gauge) => new Tile(gauge));
  const chips = h("div", { class: "row chips", role: "group", "aria-label": "Only requests in these states" });
  const table = new WindowedTable(columns(app), {
    name: "now-table", label: "Requests in flight", keyOf: (one) => one.key,
    open: (one) => app.go(addressOf(app, one)),
    onSort: (key, isDown) => change({ sort: key, isDown }),
    empty: "No request is in flight.",
  });
  const element = h("div", { class: "stack" },
    h("h1", { class: "hidden" }, "Now"),
    h("section", { class: "tiles", "aria-label": "The engine's last ten minutes" }, charts.map((tile) => tile.element)),
    h("section", { class: "sheet list", "aria-label": "Requests in flight" }, chips, table.element));

  function change(part) {
    Object.assign(state, part);
    app.remember("now", { state: [...state.only].join(","), sort: state.sort === "age" ? "" : state.sort, order: state.isDown ? "" : "up" });
    show();
  }

  function show() {
    const all = [...app.live.requests.values()];
    const by = SORTS[state.sort];
    const sign = state.isDown ? -1 : 1;
    const shown = state.only.size === 0 ? all : all.filter((one) => state.only.has(one.state));
    shown.sort((a, b) => sign * (by(a) - by(b)) || Number(a.arrived_unix_ns) - Number(b.arrived_unix_ns));
    table.sortBy(state.sort, state.isDown);
    table.show(shown);
    showChips(all);
  }

  const buttons = new Map();
  const total = h("strong", null);
  chips.append(total);
  function showChips(all) {
    const counts = countByState(all);
    setText(total, `${counted(all.length, "request")} in flight`);
    for (const { key, bucket, means } of STATES) {
      if (!buttons.has(key)) {
        const number = h("span", null);
        const button = h("button", { type: "button", title: means, class: "state-chip", on: {
          click: () => {
            if (!state.only.delete(key)) state.only.add(key);
            change({});
          },
        } }, h("span", { class: `swatch filled b-${bucket}`, "aria-hidden": "true" }), ` ${key} `, number);
        buttons.set(key, { button, number });
        chips.append(button);
      }
      const { button, number } = buttons.get(key);
      const there = counts.get(key) ?? 0;
      setText(number, count(there));
      button.hidden = there === 0 && !state.only.has(key);
      button.setAttribute("aria-pressed", String(state.only.has(key)));
    }
  }

  let isDirty = true;
  const unwatch = app.live.watch((news) => {
    app.isReachable(!news.problem, news.problem);
    isDirty = true;
  });
  let samples = 0;
  const tick = setInterval(() => {
    if (document.hidden) return;
    if (isDirty && app.live.isLoaded) {
      isDirty = false;
      show();
    } else {
      table.draw();
    }
    const { length } = app.live.samples;
    const last = app.live.samples[length - 1]?.atMs ?? 0;
    if (last !== samples) {
      samples = last;
      for (const tile of charts) tile.show(app.live.samples);
    }
  }, TICK_MS);
  show();
  return {
    element,
    title: "Now",
    stop: () => {
      unwatch();
      clearInterval(tick);
      table.stop();
    },
  };
}

function addressOf(app, one) {
  return app.journeyAddress(one.request_id ?? one.trace_id, one.span_id);
}

function columns(app) {
  return [
    { key: "state", label: "state", sort: true, update: updateState },
    { key: "request", label: "request", update: (cell, one) => {
      const id = one.request_id ?? one.client_request_id ?? one.trace_id;
      if (cell.dataset.id === id) return;
      cell.dataset.id = id;
      replace(cell, h("a", { href: addressOf(app, one), tabindex: "-1", class: "mono" }, id));
    } },
    { key: "model", label: "model", update: (cell, one) => setText(cell, one.model ?? one.route) },
    { key: "age", label: "age", sort: true, number: true, update: (cell, one) => setText(cell, duration(one.age_ns + sinceSeen(one))) },
    { key: "in_state", label: "in state for", sort: true, number: true, update: (cell, one) => setText(cell, duration(one.in_state_ns + sinceSeen(one))) },
    { key: "wait", label: "waits for", update: (cell, one) => updateWait(cell, one, app.journeyAddress) },
    { key: "progress", label: "prompt · output", update: updateProgress },
    { key: "speed", label: "tokens/s", sort: true, number: true, update: (cell, one) => setText(cell, one.tokens_per_second === null ? "" : amount(one.tokens_per_second)) },
    { key: "preempted", label: "preempted", sort: true, number: true, update: (cell, one) => setText(cell, one.num_preemptions ? String(one.num_preemptions) : "") },
  ];
}

/** One gauge: its name, its number, its last minutes. Under the mouse, the number is that of then. */
class Tile {
  constructor(gauge) {
    this.gauge = gauge;
    this.value = h("dd", null, "–");
    this.note = h("span", { class: "soft tile-note" });
    this.chart = h("div", { class: "tile-chart" });
    this.at = null;
    this.series = [];
    this.element = h("div", { class: "sheet tile", "data-gauge": gauge.key, on: {
      pointermove: (event) => {
        const box = this.chart.getBoundingClientRect();
        this.at = (event.clientX - box.left) / Math.max(box.width, 1);
        this.say();
      },
      pointerleave: () => {
        this.at = null;
        this.say();
      },
    } }, h("dl", null, h("dt", null, gauge.label, this.note), this.value), this.chart);
  }

  show(samples) {
    this.series = seriesOf(this.gauge, samples);
    this.last = samples.at(-1);
    const to = this.last?.atMs ?? 0;
    // As long as the server has run, up to ten minutes.
    const from = Math.max(this.series[0]?.atMs ?? to, to - SPAN_MS);
    this.range = { from: Math.min(from, to - 60_000), to };
    const max = this.gauge.isShare ? 1 : roundTop(this.series);
    replace(this.chart, drawChart(this.series, { ...this.range, max }), h("span", { class: "tile-max soft" }, this.inWords(max)));
    this.say();
  }

  inWords(value) {
    if (this.gauge.isShare) return percent(value);
    return this.gauge.isWhole ? count(value) : amount(value);
  }

  say() {
    if (this.series.length === 0) return;
    let shown = this.series.at(-1);
    let note = this.gauge.key === "kv" && this.last ? ` ${count(this.last.kv_blocks_used)} of ${count(this.last.kv_blocks_total)}` : "";
    if (this.gauge.key === "running" && this.last?.paused) note = " paused";
    if (this.at !== null) {
      const then = this.range.from + this.at * (this.range.to - this.range.from);
      shown = this.series.reduce((best, one) => (Math.abs(one.atMs - then) < Math.abs(best.atMs - then) ? one : best));
      note = ` at ${clock(shown.atMs, false)}`;
    }
    setText(this.value, this.inWords(shown.value));
    setText(this.note, note);
  }
}
