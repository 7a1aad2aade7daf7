// Parts of the live table, and one request in flight.

import { stateInWords, stateOf, stateWord, waitInWords } from "../data/live.js";
import { h, replace, setText } from "../lib/dom.js";
import { amount, count, duration } from "../lib/format.js";
import { drawId } from "./pieces.js";

/** A state as a word with its colour. */
export function updateState(cell, request) {
  const word = stateWord(request);
  if (cell.dataset.state === word) return;
  cell.dataset.state = word;
  replace(cell, drawState(request));
}

function drawState(request) {
  const state = stateOf(request.state);
  return h("span", { class: `chip b-${state.bucket}`, title: stateInWords(request) }, stateWord(request));
}

/** Two bars side by side, for the prompt and for the answer, and both in numbers. */
export function updateProgress(cell, request) {
  if (!cell.firstChild) {
    const bar = (bucket) => h("span", { class: "progress" }, h("span", { class: `done filled b-${bucket}` }));
    replace(cell, bar("prefill"), bar("decode"), h("span", { class: "progress-text" }));
  }
  const [prompt, output, text] = cell.children;
  prompt.firstChild.style.setProperty("width", share(request.prefill?.done, request.prefill?.total));
  output.firstChild.style.setProperty("width", share(request.decode?.done, request.decode?.max));
  setText(text, request.prefill ? `${count(request.prefill.done)}/${count(request.prefill.total)} · ${count(request.decode?.done ?? 0)}/${count(request.decode?.max ?? 0)}` : "");
}

function share(done, all) {
  return `${Math.min(((done ?? 0) / Math.max(all ?? 0, 1)) * 100, 100).toFixed(1)}%`;
}

/** Why it waits, and for whom. */
export function updateWait(cell, request, linkTo) {
  const key = request.wait ? `${request.wait.reason} ${request.wait.blocker ?? ""}` : "";
  if (cell.dataset.wait === key) return;
  cell.dataset.wait = key;
  if (!request.wait) return replace(cell);
  cell.title = waitInWords(request.wait);
  replace(cell, request.wait.reason, request.wait.blocker ? [" · ", drawId(request.wait.blocker, linkTo)] : null);
}

/** One request in flight, as large as a journey.
 *  @param sinceNs how long ago the server said so */
export function drawInFlight(request, sinceNs, linkTo) {
  const progress = h("div", { class: "cell-progress large" });
  updateProgress(progress, request);
  const facts = [["route", request.route], ["model", request.model], ["preemptions", request.num_preemptions || null], ["trace", h("code", null, request.trace_id)]];
  return h("article", { class: "in-flight stack" },
    h("header", { class: "journey-head" },
      h("div", { class: "row between" },
        h("h1", { class: "mono" }, request.request_id ?? request.client_request_id ?? `trace ${request.trace_id}`),
        drawState(request)),
      h("dl", { class: "figures" },
        figure("in flight for", duration(request.age_ns + sinceNs)),
        figure(`${request.state} for`, duration(request.in_state_ns + sinceNs)),
        figure("tokens/s", amount(request.tokens_per_second))),
      h("dl", { class: "facts" }, facts.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))))),
    h("section", { class: "sheet stack" },
      h("p", { class: "sentences" }, `It is in flight: ${stateInWords(request)}`, request.wait ? ["; ", waitInWords(request.wait), request.wait.blocker ? [", first of all ", drawId(request.wait.blocker, linkTo)] : null] : null, ". Its journey comes here when it ends."),
      progress,
      request.sequences.length > 1 ? drawSequences(request, sinceNs, linkTo) : null));
}

function drawSequences(request, sinceNs, linkTo) {
  return h("div", { class: "scrolls" }, h("table", null,
    h("thead", null, h("tr", null, ["sequence", "state", "for", "waits for", "progress"].map((name) => h("th", null, name)))),
    h("tbody", null, request.sequences.map((one) => {
      const [state, wait, progress] = [h("td"), h("td"), h("td", { class: "cell-progress" })];
      updateState(state, one);
      updateWait(wait, one, linkTo);
      updateProgress(progress, one);
      return h("tr", null, h("td", null, one.index), state, h("td", null, duration(one.in_state_ns + sinceNs)), wait, progress);
    }))));
}

function figure(name, value) {
  return h("div", null, h("dt", null, name), h("dd", null, value));
}
