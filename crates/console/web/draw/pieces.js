// Small things that several drawings use.

import { h } from "../lib/dom.js";

/** Sentences of pieces, as `explain` makes them. `linkTo` turns a request's id into an address, or null. */
export function drawSentences(sentences, linkTo) {
  return sentences.map((pieces) => [
    pieces.map((piece) => {
      if (piece.strong !== undefined) return h("strong", null, piece.strong);
      return piece.id === undefined ? piece.text : drawId(piece.id, linkTo);
    }),
    " ",
  ]);
}

/** A request's id, as a link where there is something to link to. */
export function drawId(id, linkTo) {
  const address = linkTo?.(id) ?? null;
  return address === null ? h("code", null, id) : h("a", { href: address, class: "mono" }, id);
}

/** The square that stands for a bucket. */
export function swatch(key, hatched) {
  return h("span", { class: `swatch filled b-${key}${hatched ? " hatched" : ""}`, "aria-hidden": "true" });
}

/** "departed", "aborted: timeout", with its HTTP status. */
export function drawStatus(journey) {
  const isBad = journey.status === "aborted";
  const words = isBad ? `aborted: ${journey.abort?.reason ?? "unknown"}` : journey.status;
  return h("span", { class: `state ${isBad ? "bad" : "good"}` }, journey.httpStatus === null ? words : `${journey.httpStatus} ${words}`);
}
