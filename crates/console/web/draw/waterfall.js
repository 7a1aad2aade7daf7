// Both spans on one axis: what each did when, and every event as a mark. Elements, not pixels: everything has a title,
// and text stays text. `from` and `to` cut out a part of the life, in nanoseconds.

import { bucketOf } from "../data/buckets.js";
import { allEvents, blamed, eventDetails } from "../data/journey.js";
import { h } from "../lib/dom.js";
import { duration, roundStep } from "../lib/format.js";
import { drawId } from "./pieces.js";

/** Segments narrower than this share of the axis have no label within. */
const LABEL_SHARE = 0.09;
const LABELS = { engine: "in the engine", prefill_wait: "prefill wait" };

export function drawWaterfall(journey, { from = 0, to = journey.durationNs } = {}) {
  const span = Math.max(to - from, 1);
  const place = (ns) => ((ns - from) / span) * 100;
  const lanes = journey.lanes.map((lane) => h("div", { class: "lane" },
    h("div", { class: "lane-name mono" }, lane.name),
    h("div", { class: "track" },
      ticks(from, span).map((at) => h("span", { class: "rule", style: { left: `${place(at)}%` } })),
      lane.segments.filter((one) => one.toNs > from && one.fromNs < to).map((one) => drawSegment(one, from, to, place, span)),
      lane.events.filter((one) => one.atNs >= from && one.atNs <= to).map((event) => drawMark(event, place)))));
  return h("div", { class: "waterfall" }, drawAxis(from, span, place), lanes);
}

function drawAxis(from, span, place) {
  return h("div", { class: "lane axis", "aria-hidden": "true" },
    h("div", { class: "lane-name" }),
    h("div", { class: "track" }, ticks(from, span).map((at) => {
      const side = place(at) > 92 ? " last" : "";
      return h("span", { class: `tick${side}`, style: { left: `${place(at)}%` } }, at === 0 ? "0" : duration(at));
    })));
}

function ticks(from, span) {
  const step = roundStep(span, 6);
  const first = Math.ceil(from / step);
  return Array.from({ length: Math.floor((from + span) / step) - first + 1 }, (_, index) => (first + index) * step);
}

function drawSegment(segment, from, to, place, span) {
  const { key } = segment;
  const [start, end] = [Math.max(segment.fromNs, from), Math.min(segment.toNs, to)];
  const bucket = bucketOf(key);
  const name = LABELS[key] ?? bucket.label;
  const length = duration(segment.toNs - segment.fromNs);
  const look = key === "engine" ? "engine" : `filled b-${bucket.key}${bucket.waits ? " hatched" : ""}`;
  return h("span", {
    class: `segment ${look}`,
    style: { left: `${place(start)}%`, width: `${place(end) - place(start)}%` },
    title: `${name}: ${length}, from ${duration(segment.fromNs)} to ${duration(segment.toNs)}`,
    "data-segment": key,
  }, (end - start) / span >= LABEL_SHARE ? h("span", { class: "segment-label" }, `${name} ${length}`) : null);
}

function drawMark(event, place) {
  const kind = event.short.toLowerCase().replaceAll("_", "-").replace(/[^a-z-]/g, "");
  return h("span", {
    class: `mark mark-${kind}`,
    style: { left: `${place(event.atNs)}%` },
    title: `${event.short} at ${duration(event.atNs)}: ${eventDetails(event).join(", ")}`,
    "data-event": event.short,
  });
}

/** All events as a table, with their distance from the arrival and from the one before. */
export function drawEvents(journey, linkTo) {
  let before = 0;
  const rows = allEvents(journey).map((event) => {
    const since = event.atNs - before;
    before = event.atNs;
    const span = event.lane === "api" ? "request" : journey.sequences.length > 1 ? `core ${event.sequence}` : "core";
    return h("tr", null,
      h("td", { class: "number mono" }, duration(event.atNs)),
      h("td", { class: "number mono soft" }, `+${duration(since)}`),
      h("td", { class: "soft" }, span),
      h("td", { class: "event-name" }, event.short),
      h("td", null, eventDetails(event).join(" · "), blamed(event).map(({ why, id }) => [` · ${why} `, drawId(id, linkTo)])));
  });
  return h("table", { class: "events" },
    h("thead", null, h("tr", null, h("th", { class: "number" }, "at"), h("th", { class: "number" }, "after"), h("th", null, "span"), h("th", null, "event"), h("th", null, "details"))),
    h("tbody", null, rows));
}
