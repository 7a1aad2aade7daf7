// A small chart of one number over time: a line over a filled ground. An SVG that stretches with its place.

import { svg } from "../lib/dom.js";

const WIDTH = 600;
const HEIGHT = 100;

/** @param series `[{ atMs, value }]`, ascending
 *  @param range `{ from, to }` in milliseconds, and `max`, the top of the axis */
export function drawChart(series, { from, to, max }) {
  const x = (ms) => ((ms - from) / Math.max(to - from, 1)) * WIDTH;
  const y = (value) => HEIGHT - (Math.min(value, max) / (max || 1)) * (HEIGHT - 4);
  const points = series.filter(({ atMs }) => atMs >= from).map(({ atMs, value }) => `${x(atMs).toFixed(1)},${y(value).toFixed(1)}`);
  const line = points.join(" L");
  const [first, last] = [points[0], points.at(-1)].map((point) => point?.split(",")[0]);
  return svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    points.length > 0 ? svg("path", { class: "chart-ground", d: `M${first},${HEIGHT} L${line} L${last},${HEIGHT} Z` }) : null,
    points.length > 0 ? svg("path", { class: "chart-line", d: `M${line}` }) : null,
    svg("line", { class: "chart-base", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }));
}

/** A round number at least as large as all values, so that the axis does not jump with each. */
export function roundTop(series) {
  const most = series.reduce((top, { value }) => Math.max(top, value), 0);
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return ([1, 2, 3, 5, 8, 10].find((factor) => factor * power >= most) ?? 10) * power;
}
