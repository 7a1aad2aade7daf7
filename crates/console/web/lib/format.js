// Numbers as people read them.

const NO_VALUE = "–";

/** 840 ns, 12.4 µs, 3.05 ms, 1.23 s, 2 min 05 s; three digits that count, never broken between two lines. */
export function duration(ns) {
  return inWords(ns).replaceAll(" ", "\u00a0");
}

function inWords(ns) {
  if (ns === null || ns === undefined || Number.isNaN(ns)) return NO_VALUE;
  if (ns < 0) return `−${inWords(-ns)}`;
  if (ns < 999.5) return `${Math.round(ns)} ns`;
  if (ns < 999.5e3) return `${digits(ns / 1e3)} µs`;
  if (ns < 999.5e6) return `${digits(ns / 1e6)} ms`;
  if (ns < 59.995e9) return `${digits(ns / 1e9)} s`;
  const seconds = Math.round(ns / 1e9);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${two(Math.floor(seconds / 60) % 60)} min`;
}

/** Three digits that count, or all of a larger whole number. */
function digits(value) {
  if (value >= 99.95) return value.toFixed(0);
  return value >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

/** Of milliseconds as they are typed in: whole, so that a duration that was read off is the same number again. */
export function nsOfMs(ms) {
  return Math.round(Number(ms) * 1e6);
}

function two(number) {
  return String(number).padStart(2, "0");
}

/** 1 234 567, with thin spaces. */
export function count(number) {
  if (number === null || number === undefined) return NO_VALUE;
  return String(Math.round(number)).replace(/\B(?=(\d{3})+(?!\d))/g, "\u2009");
}

/** A rate or another number that need not be whole. */
export function amount(number) {
  if (number === null || number === undefined || Number.isNaN(number)) return NO_VALUE;
  if (number >= 99.95 || number === 0) return count(number);
  return number >= 9.995 ? number.toFixed(1) : number.toFixed(2);
}

/** 12.3 %, and "<0.1 %" for what is there but hardly. */
export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return NO_VALUE;
  if (share > 0 && share < 0.0005) return "<0.1\u00a0%";
  return share > 0.9995 || share === 0 ? `${Math.round(share * 100)}\u00a0%` : `${(share * 100).toFixed(1)}\u00a0%`;
}

/** "1 token", "2 tokens". */
export function counted(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** 14:03:07.123 of the reader's own day. */
export function clock(unixMs, withMs = true) {
  const at = new Date(unixMs);
  const seconds = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return withMs ? `${seconds}.${String(at.getMilliseconds()).padStart(3, "0")}` : seconds;
}

/** 2026-11-28 14:03:07.123. */
export function dateAndClock(unixMs) {
  const at = new Date(unixMs);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock(unixMs)}`;
}

/** Nanoseconds since the Unix epoch, as text, in milliseconds: exact to the microsecond. */
export function unixMs(nsText) {
  return Number(BigInt(nsText) / 1000n) / 1000;
}

/** Round steps that cut `span` into about `wanted` parts: 1, 2 or 5 times a power of ten. */
export function roundStep(span, wanted) {
  const rough = span / Math.max(wanted, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const factor = [1, 2, 5, 10].find((one) => one * power >= rough) ?? 10;
  return factor * power;
}
