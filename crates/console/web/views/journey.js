// One journey, by any of its ids. While the request is in flight there is nothing to show but that it is; the journey
// comes when it ends.

import { companions } from "../data/company.js";
import { readJourney } from "../data/journey.js";
import { drawJourney } from "../draw/journey.js";
import { drawInFlight } from "../draw/live.js";
import { drawStatus } from "../draw/pieces.js";
import { h, replace } from "../lib/dom.js";
import { dateAndClock, duration, unixMs } from "../lib/format.js";
import { sinceSeen } from "../net/live.js";

/** How often an id that is not known yet is asked for again. */
const LOOK_AGAIN_MS = 2000;
const TICK_MS = 250;

export function journeyView(app, [id], parameters) {
  const element = h("div", { class: "stack" }, h("p", { class: "notice" }, "Looking for it …"));
  const stopping = new AbortController();

  async function look() {
    const answer = await app.client.get(`${encodeURIComponent(id)}`, stopping.signal);
    const journeys = answer.journeys.map(readJourney);
    const wanted = journeys.find((one) => one.spanId === parameters.get("span")) ?? (journeys.length === 1 ? journeys[0] : null);
    if (wanted === null) return replace(element, drawChoice(journeys, id));
    const options = { linkTo: app.journeyAddress, traceLink: traceLink(app.about?.trace_url_template, wanted.traceId) };
    const show = (company) => replace(element, drawJourney(wanted, { ...options, company }));
    show(null);
    document.title = `${wanted.requestId ?? wanted.traceId} · wayfare`;
    // Who ran beside it is in the others' summaries; fetched after, because there may be many.
    await app.recent.refresh();
    const company = companions(wanted, app.recent.journeys);
    if (!stopping.signal.aborted && company) {
      const section = drawJourney(wanted, { ...options, company }).querySelector(".company");
      element.querySelector(".journey > details")?.before(section);
    }
  }

  async function lookUntilFound() {
    for (;;) {
      try {
        return await look();
      } catch (error) {
        if (stopping.signal.aborted) return;
        if (error.status !== 404) return replace(element, h("p", { class: "notice bad" }, error.message));
        await untilItEnds(error.message);
        if (stopping.signal.aborted) return;
      }
    }
  }

  /** Shows the request in flight, if it is, until it ends; then, or after a while, it is worth looking again. */
  function untilItEnds(message) {
    return new Promise((resolve) => {
      let key = null;
      const span = parameters.get("span");
      const show = () => {
        const request = app.live.find(id, span);
        key ??= request?.key ?? null;
        if (request) replace(element, drawInFlight(request, sinceSeen(request), app.journeyAddress));
        else if (key === null) replace(element, h("p", { class: "notice" }, message));
      };
      const end = () => {
        clearInterval(ticking);
        clearTimeout(giveUp);
        unwatch();
        resolve();
      };
      const unwatch = app.live.watch(({ ended }) => {
        if (ended && ended.key === key) end();
      });
      const ticking = setInterval(show, TICK_MS);
      // It may have ended before it was seen, or never have been.
      const giveUp = setTimeout(end, LOOK_AGAIN_MS);
      stopping.signal.addEventListener("abort", end);
      show();
    });
  }

  lookUntilFound();
  return { element, title: id, stop: () => stopping.abort() };
}

/** Several requests may have the same id. */
function drawChoice(journeys, id) {
  const address = (one) => `#/journey/${encodeURIComponent(id)}?span=${one.spanId}`;
  return h("section", { class: "sheet" },
    h("h1", null, `${journeys.length} journeys have this id`),
    h("table", null,
      h("thead", null, h("tr", null, ["arrived", "request", "status", "took"].map((name) => h("th", null, name)))),
      h("tbody", null, journeys.map((one) => h("tr", null,
        h("td", null, h("a", { href: address(one) }, dateAndClock(unixMs(one.startUnixNs)))),
        h("td", { class: "mono" }, one.requestId ?? one.traceId),
        h("td", null, drawStatus(one)),
        h("td", null, duration(one.durationNs)))))));
}

/** The trace's address elsewhere. The template is the operator's; only web addresses are followed. */
function traceLink(template, traceId) {
  if (!template || !/^[0-9a-f]{32}$/.test(traceId)) return null;
  const address = template.replaceAll("{trace_id}", traceId);
  return /^https?:\/\//.test(address) ? address : null;
}
