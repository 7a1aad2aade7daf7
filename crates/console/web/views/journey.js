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

/** When an id that is not known yet is asked for again, and how many times. */
const LOOK_AGAIN_MS = 2000;
const MOST_TRIES = 3;
const TICK_MS = 250;

export function journeyView(app, [id], parameters) {
  const element = h("div", { class: "stack" }, h("p", { class: "notice" }, "Looking for it …"));
  const stopping = new AbortController();
  const span = parameters.get("span");
  const hasLive = app.about?.live_view ?? false;

  async function look() {
    const answer = await app.client.get(`${encodeURIComponent(id)}`, stopping.signal);
    const journeys = (answer.journeys ?? []).map(readJourney);
    const wanted = journeys.find((one) => one.spanId === span) ?? (journeys.length === 1 ? journeys[0] : null);
    if (wanted === null) return replace(element, drawChoice(journeys, id));
    const options = { linkTo: app.journeyAddress, traceLink: traceLink(app.about?.trace_url_template, wanted.traceId) };
    const show = (company) => replace(element, drawJourney(wanted, { ...options, company }));
    show(null);
    document.title = `${wanted.requestId ?? wanted.traceId} · wayfare`;
    // Who ran beside it is in the others' summaries; fetched after, because there may be many.
    await app.recent.refresh().catch(() => {});
    const company = companions(wanted, app.recent.journeys);
    if (!stopping.signal.aborted && company) {
      const section = drawJourney(wanted, { ...options, company }).querySelector(".company");
      element.querySelector(".journey > details")?.before(section);
    }
  }

  async function lookUntilFound() {
    if (hasLive) await untilLive((live) => live.isLoaded);
    for (let tries = 1; !stopping.signal.aborted; tries += 1) {
      const request = hasLive ? app.live.find(id, span) : null;
      if (request) await untilItEnds(request.key);
      try {
        return await look();
      } catch (error) {
        if (stopping.signal.aborted) return;
        replace(element, h("p", { class: `notice${error.status === 404 ? "" : " bad"}` }, error.message));
        if (error.status !== 404) return;
      }
      // It may come yet: the client has the id before the server has the journey. After a while, only what is seen
      // in flight is worth another question.
      if (tries % MOST_TRIES !== 0) await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
      else if (hasLive) await untilLive((live) => live.find(id, span) !== null);
      else return;
    }
  }

  /** Until something holds of the live view, or can no longer be known. */
  function untilLive(holds) {
    return new Promise((resolve) => {
      const look = ({ problem } = {}) => {
        if (!problem && !holds(app.live)) return;
        unwatch();
        resolve();
      };
      const unwatch = app.live.watch(look);
      stopping.signal.addEventListener("abort", () => look({ problem: true }));
      look();
    });
  }

  async function untilItEnds(key) {
    const show = () => {
      const request = app.live.requests.get(key);
      if (request) replace(element, drawInFlight(request, sinceSeen(request), app.journeyAddress));
    };
    const ticking = setInterval(show, TICK_MS);
    show();
    await untilLive((live) => !live.requests.has(key));
    clearInterval(ticking);
  }

  // Watched for as long as it is looked for, so that the connection stays.
  const unwatch = hasLive ? app.live.watch(() => {}) : () => {};
  lookUntilFound().finally(unwatch);
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
