// One journey, whole: who it was, the sentences, the ledger, the waterfall, the events, the company, the JSON. Drawn
// from data alone; `options` says what can be linked to:
//   linkTo(id)        address of another request's journey, or null
//   traceLink         address of this trace elsewhere, or null
//   company           what `companions` returned, or null when nothing is known

import { explain } from "../data/explain.js";
import { h, replace } from "../lib/dom.js";
import { count, dateAndClock, duration, unixMs } from "../lib/format.js";
import { drawLedgerBar, drawLedgerTable } from "./ledger.js";
import { drawId, drawSentences, drawStatus } from "./pieces.js";
import { drawEvents, drawWaterfall } from "./waterfall.js";

export function drawJourney(journey, options = {}) {
  return h("article", { class: "journey stack" },
    drawHead(journey, options),
    h("section", { class: "sheet explained", "aria-label": "What happened" }, h("p", { class: "sentences" }, drawSentences(explain(journey), options.linkTo))),
    h("section", { class: "sheet" },
      h("h2", null, "Where the time went"),
      drawLedgerBar(journey.ledger),
      h("div", { class: "scrolls" }, drawLedgerTable(journey))),
    drawTimeline(journey),
    h("section", { class: "sheet" }, h("h2", null, "Events"), h("div", { class: "scrolls" }, drawEvents(journey, options.linkTo)), droppedEvents(journey)),
    options.company ? drawCompany(options.company, options.linkTo) : null,
    drawRaw(journey));
}

function drawHead(journey, { traceLink }) {
  const facts = [
    ["route", journey.route],
    ["model", journey.model],
    ["arrived", dateAndClock(unixMs(journey.startUnixNs))],
    ["prompt", tokens(journey.tokens.prompt, journey.tokens.cached, "cached")],
    ["output", tokens(journey.tokens.output, journey.tokens.wasted, "wasted")],
    ["finish", journey.finishReasons.join(", ") || null],
    ["streamed", journey.streamed === null ? null : journey.streamed ? "yes" : "no"],
    ["preemptions", journey.numPreemptions || null],
  ];
  return h("header", { class: "journey-head" },
    h("div", { class: "row between" },
      h("h1", { class: "mono" }, journey.requestId ?? `trace ${journey.traceId}`),
      h("div", { class: "row" }, drawStatus(journey), traceLink ? h("a", { href: traceLink, rel: "noopener noreferrer", target: "_blank", class: "trace-link" }, "open the trace ↗") : null)),
    h("dl", { class: "figures" }, figure("took", duration(journey.durationNs)), figure("first token", duration(journey.ttftNs)), figure("per token", duration(perToken(journey)))),
    h("dl", { class: "facts" }, facts.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => fact(name, value)), fact("trace", h("code", { class: "trace-id" }, journey.traceId))));
}

function perToken(journey) {
  const { output } = journey.tokens;
  return journey.ttftNs === null || !(output > 1) ? null : (journey.durationNs - journey.ttftNs) / (output - 1);
}

function tokens(all, some, what) {
  if (all === null) return null;
  return some > 0 ? `${count(all)} tokens, ${count(some)} ${what}` : `${count(all)} tokens`;
}

function fact(name, value) {
  return h("div", null, h("dt", null, name), h("dd", null, value));
}

function figure(name, value) {
  return h("div", null, h("dt", null, name), h("dd", null, value));
}

function droppedEvents(journey) {
  const dropped = journey.sequences.reduce((sum, one) => sum + one.droppedEvents, 0);
  return dropped > 0 ? h("p", { class: "warn small" }, `${count(dropped)} events are missing; the ledger is whole all the same.`) : null;
}

/** The waterfall, and buttons that look closer at a part of it. */
function drawTimeline(journey) {
  const whole = { from: 0, to: journey.durationNs };
  let part = whole;
  const place = h("div");
  const show = (next) => {
    part = next;
    reset.hidden = part === whole;
    replace(place, drawWaterfall(journey, part));
  };
  const zoom = (factor) => {
    const length = Math.min((part.to - part.from) * factor, journey.durationNs);
    if (length >= journey.durationNs) return show(whole);
    const middle = (part.from + part.to) / 2;
    return move(length, middle - length / 2);
  };
  const move = (length, from) => {
    const start = Math.min(Math.max(from, 0), journey.durationNs - length);
    show({ from: start, to: start + length });
  };
  const pan = (share) => {
    const length = part.to - part.from;
    if (part !== whole) move(length, part.from + length * share);
  };
  const button = (label, text, act) => h("button", { type: "button", "aria-label": label, title: label, on: { click: act } }, text);
  const reset = h("button", { type: "button", class: "quiet", hidden: true, on: { click: () => show(whole) } }, "all");
  const starts = [...new Set(journey.lanes.flatMap((lane) => lane.segments.map((one) => one.fromNs)))];
  const keys = {
    "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: () => show(whole),
    ArrowLeft: () => pan(-0.25), ArrowRight: () => pan(0.25),
  };
  const section = h("section", { class: "sheet timeline", tabindex: "0", "aria-label": "Timeline; plus and minus zoom, arrows move, 0 shows all", on: {
    keydown: (event) => {
      if (event.target !== section || !(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    },
    dblclick: (event) => {
      const track = event.target.closest?.(".track");
      if (!track) return;
      const box = track.getBoundingClientRect();
      const at = part.from + ((event.clientX - box.left) / box.width) * (part.to - part.from);
      const length = (part.to - part.from) / 4;
      move(length, at - length / 2);
    },
  } },
    h("div", { class: "row between" },
      h("h2", null, "Timeline"),
      starts.length > 1 ? h("div", { class: "row zoom" }, reset, button("Earlier", "←", () => pan(-0.5)), button("Zoom out", "−", () => zoom(2)), button("Zoom in", "+", () => zoom(0.5)), button("Later", "→", () => pan(0.5))) : null),
    place,
    h("p", { class: "legend small soft" }, "Solid is work for this request, hatched is time it stood still or lost to others. Interference is part of the steps of decode and not shown apart."));
  show(whole);
  return section;
}

function drawCompany(company, linkTo) {
  const rows = company.others.map((one) => h("tr", null,
    h("td", null, one.id === null ? h("code", null, one.traceId) : drawId(one.id, linkTo)),
    h("td", { class: "number" }, count(one.steps)),
    h("td", { class: "number" }, one.prefillTokens > 0 ? count(one.prefillTokens) : ""),
    h("td", null, one.roles.join(", "))));
  return h("section", { class: "sheet company" },
    h("h2", null, "Who shared its steps"),
    rows.length === 0
      ? h("p", { class: "soft" }, "None of the journeys that are kept.")
      : [
        h("p", { class: "soft small" }, `It ran from step ${company.firstStep} to ${company.lastStep}. Of the journeys that are kept, these ran in the same steps${company.more > 0 ? `, and ${count(company.more)} more` : ""}:`),
        h("div", { class: "scrolls" }, h("table", null,
          h("thead", null, h("tr", null, h("th", null, "request"), h("th", { class: "number" }, "steps in common"), h("th", { class: "number" }, "prompt tokens computed meanwhile"), h("th", null, "to this one it was"))),
          h("tbody", null, rows))),
      ]);
}

function drawRaw(journey) {
  const text = h("pre", { class: "raw", tabindex: "0" });
  const details = h("details", { class: "sheet", on: {
    // Long; made only when somebody looks.
    toggle: () => {
      if (details.open && text.textContent === "") text.textContent = JSON.stringify(journey.raw, null, 2);
    },
  } }, h("summary", null, "JSON"), text);
  return details;
}
