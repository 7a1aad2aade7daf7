// A report made from files of traces: what `wayfare explain` says, drawn with the modules of the page at /journeys.

import { readJourney } from "./data/journey.js";
import { MEASURES, summarize } from "./data/summary.js";
import { analyse } from "./data/why.js";
import { drawChart, roundTop } from "./draw/chart.js";
import { drawJourney } from "./draw/journey.js";
import { drawWhy } from "./draw/why.js";
import { Scatter } from "./draw/scatter.js";
import { h, replace } from "./lib/dom.js";
import { count, duration, percent } from "./lib/format.js";

const LATENCIES = [["ttft", "TTFT"], ["itl", "ITL"], ["tpot", "TPOT"], ["queue", "queue"], ["prefill", "prefill"], ["decode", "decode"], ["e2e", "end to end"]];
const FIGURES = ["mean", "p50", "p90", "p95", "p99", "max"];

const data = JSON.parse(document.getElementById("data").textContent);
const { explanation, stories, integrity_sentences: integritySentences } = data;
const detailed = new Map(data.journeys.map((raw) => [raw.span_id, raw]));
const byId = new Map(data.journeys.filter((raw) => raw.request_id).map((raw) => [raw.request_id, raw]));
const summaries = data.points.map(summarize);
const place = h("div", { id: "journey" });

function linkTo(id) {
  return byId.has(id) ? `#${encodeURIComponent(byId.get(id).span_id)}` : null;
}

function show(spanId) {
  const raw = detailed.get(spanId);
  if (!raw) return;
  const story = stories[spanId];
  replace(place,
    h("section", { class: "sheet story" }, h("p", { class: "sentences" }, story ?? "")),
    drawJourney(readJourney(raw), { linkTo, company: null }));
  place.scrollIntoView({ block: "start" });
}

function section(name, title, ...children) {
  return h("section", { class: `sheet ${name}`, "aria-label": title }, h("h2", null, title), ...children);
}

function drawFindings() {
  return section("findings", "Why", explanation.findings.map((finding) => h("article", { "data-cause": finding.cause },
    h("h3", null, finding.cause.replaceAll("_", " ")),
    h("p", null, finding.sentence),
    h("ul", null, finding.evidence.map((sentence) => h("li", null, sentence))),
    h("p", null, h("strong", null, "What helps: "), finding.advice))));
}

function drawLatencies() {
  const seconds = (value) => duration(value * 1e9);
  const rows = LATENCIES.map(([key, title]) => {
    const figures = explanation.latencies[key];
    return h("tr", null, h("td", { class: "name" }, title),
      figures ? FIGURES.map((name) => h("td", { class: "number" }, seconds(figures[name]))) : h("td", { colspan: FIGURES.length, class: "soft" }, "not told by these traces"),
      figures ? h("td", { class: "number" }, count(figures.count)) : null);
  });
  return section("latencies", "Latencies", h("div", { class: "scrolls" }, h("table", null,
    h("thead", null, h("tr", null, h("th", null, ""), [...FIGURES, "count"].map((name) => h("th", { class: "number" }, name)))),
    h("tbody", null, rows))));
}

function drawOverTime() {
  const { timeline } = explanation;
  if (timeline.slices.length < 2) return null;
  const ms = timeline.slice * 1000;
  const rates = (key) => (slice) => slice[key] / timeline.slice;
  const charts = [
    ["arrived per second", rates("arrived")], ["served per second", rates("served")], ["output tokens per second", rates("output_tokens")],
    ["waiting", (slice) => slice.waiting], ["running", (slice) => slice.running],
    ["TTFT, middle, ms", (slice) => (slice.ttft_p50 === null ? null : slice.ttft_p50 * 1000)],
    ["KV cache in use, %", (slice) => (slice.kv_usage === null ? null : slice.kv_usage * 100)],
  ];
  const drawn = charts.map(([title, of]) => {
    const series = timeline.slices.map((slice, number) => ({ atMs: (number + 0.5) * ms, value: of(slice) })).filter(({ value }) => value !== null);
    if (series.length < 2) return null;
    const max = roundTop(series);
    return h("figure", null, h("figcaption", { class: "small" }, `${title}, to ${count(max)}`), drawChart(series, { from: 0, to: ms * timeline.slices.length, max }));
  });
  const { saturation } = explanation;
  const growth = `${saturation.is_saturated ? "Saturated" : "Not saturated"}: the queue grew by ${saturation.queue_growth_per_second.toFixed(3)} requests a second while requests arrived.`;
  return section("timeline-of-all", "Over time", h("div", { class: "over-time" }, drawn), h("p", { class: "soft small" }, growth));
}

function drawSlowest() {
  const slowest = [...data.journeys].sort((a, b) => b.duration_ns - a.duration_ns);
  return section("slowest", "The slowest requests", h("div", { class: "scrolls" }, h("table", null,
    h("thead", null, h("tr", null, ["request", "took", "in short"].map((name) => h("th", null, name)))),
    h("tbody", null, slowest.map((raw) => h("tr", null,
      h("td", { class: "mono" }, h("a", { href: `#${encodeURIComponent(raw.span_id)}` }, raw.request_id ?? raw.trace_id)),
      h("td", { class: "number nowrap" }, duration(raw.duration_ns)),
      h("td", { class: "small" }, stories[raw.span_id] ?? "")))))));
}

function drawAll() {
  const { requests } = explanation;
  document.getElementById("about").textContent =
    `${count(requests.total)} requests, ${count(requests.served)} served, in ${duration(requests.window * 1e9)}`;
  const scatter = new Scatter({
    open: (summary) => show(summary.span_id),
    describe: (summary) => `${summary.request_id ?? summary.trace_id}: ${duration(summary.duration_ns)}`,
  });
  replace(document.getElementById("main"), h("div", { class: "stack" },
    h("h1", null, data.title),
    section("integrity", "Integrity", integritySentences.map((sentence) => h("p", { class: "small" }, sentence))),
    drawFindings(),
    drawLatencies(),
    section("points", summaries.length < requests.total ? `Requests, ${percent(summaries.length / requests.total)} of them` : "Requests", scatter.element),
    drawWhy(analyse(summaries), { linkTo }),
    drawOverTime(),
    place,
    drawSlowest(),
    section("cannot-tell", "What these traces do not tell", explanation.cannot_tell.map((sentence) => h("p", { class: "soft small" }, sentence)))));
  scatter.show(summaries, MEASURES.duration);
  const follow = () => show(decodeURIComponent(location.hash.slice(1)));
  addEventListener("hashchange", follow);
  if (location.hash.length > 1) follow();
}

drawAll();
