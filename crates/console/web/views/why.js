// Where the time went, over the journeys that are kept, or those of the last minutes.

import { analyse } from "../data/why.js";
import { drawWhy } from "../draw/why.js";
import { h, replace } from "../lib/dom.js";

const REFRESH_MS = 5000;
const WINDOWS = { "": ["all that are kept", Infinity], "15m": ["15 min", 900_000], "5m": ["5 min", 300_000], "1m": ["1 min", 60_000] };

export function whyView(app, _path, parameters) {
  let span = Object.hasOwn(WINDOWS, parameters.get("since") ?? "") ? (parameters.get("since") ?? "") : "";
  let isStopped = false;
  const place = h("div", null, h("p", { class: "notice" }, "Reading the journeys …"));
  const buttons = Object.entries(WINDOWS).map(([key, [label]]) => h("button", { type: "button", "aria-pressed": String(key === span), "data-since": key, on: {
    click: () => {
      span = key;
      for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.since === key));
      app.remember("why", { since: key });
      show();
    },
  } }, label));
  const element = h("div", { class: "stack" },
    h("div", { class: "row between" }, h("h1", null, "Where the time went"), h("div", { class: "choice", role: "group", "aria-label": "Of which time" }, buttons)),
    place);

  function show() {
    const since = (app.recent.journeys[0]?.endMs ?? 0) - WINDOWS[span][1];
    const found = analyse(app.recent.journeys.filter((one) => one.endMs >= since));
    replace(place, drawWhy(found, { linkTo: app.journeyAddress }));
  }

  async function keepUp() {
    let before = -1;
    while (!isStopped) {
      if (!document.hidden) {
        try {
          await app.recent.refresh();
          app.isReachable(true);
        } catch (error) {
          app.isReachable(false, error);
        }
        const newest = app.recent.journeys[0]?.serial ?? 0;
        // Not under the hands of somebody who is reading a link or selecting text.
        const isInUse = place.contains(document.activeElement) || String(globalThis.getSelection() ?? "") !== "";
        if (!isStopped && newest !== before && !(isInUse && before >= 0)) {
          show();
          before = newest;
        }
      }
      await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
    }
  }

  keepUp();
  return {
    element,
    title: "Why",
    stop: () => {
      isStopped = true;
    },
  };
}
