// One point for each journey: when it ended, and how long it took, on a logarithmic axis, with percentiles. A canvas,
// because there may be tens of thousands. The mouse finds the nearest point, the arrow keys go from point to point.

import { BUCKETS, bucketOf } from "../data/buckets.js";
import { PERCENTILES, quantile, sortedNumbers } from "../data/stats.js";
import { colorsOf } from "../lib/colors.js";
import { h, replace, setText } from "../lib/dom.js";
import { clock, duration, roundStep } from "../lib/format.js";

const MARGIN = { left: 58, right: 54, top: 10, bottom: 24 };
const POINT = 2.5;
const REACH = 14;
const NAMES = ["ink", "ink-soft", "line", "accent", "bad", "sheet", "bucket-other", ...BUCKETS.map(({ key }) => `bucket-${key}`)];

export class Scatter {
  /** @param options `{ open(summary), describe(summary) }` */
  constructor(options) {
    this.options = options;
    this.points = [];
    this.active = null;
    this.canvas = h("canvas", { tabindex: "0", role: "application", "aria-label": "Latency of each journey over time. Left and right go from one to the next, Enter opens it." });
    this.layer = document.createElement("canvas");
    this.tip = h("div", { class: "tip", hidden: true });
    this.legend = h("div", { class: "swatches small soft" });
    this.element = h("figure", { class: "scatter" }, h("div", { class: "scatter-box" }, this.canvas, this.tip), this.legend);
    this.listen();
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointermove", (event) => this.select(this.nearest(event)));
    canvas.addEventListener("pointerleave", () => this.select(null));
    canvas.addEventListener("click", (event) => {
      const point = this.nearest(event);
      if (point) this.options.open(point.summary);
    });
    canvas.addEventListener("blur", () => this.select(null));
    canvas.addEventListener("keydown", (event) => {
      const last = this.points.length - 1;
      const at = this.active === null ? last : this.points.indexOf(this.active);
      const moves = { ArrowLeft: at - 1, ArrowRight: this.active === null ? last : at + 1, Home: 0, End: last, PageUp: at - 50, PageDown: at + 50 };
      if (event.key in moves && last >= 0) {
        event.preventDefault();
        this.select(this.points[Math.min(Math.max(moves[event.key], 0), last)]);
      } else if (event.key === "Enter" && this.active) {
        this.options.open(this.active.summary);
      }
    });
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(canvas);
  }

  /** No longer follows its size. */
  stop() {
    this.resized.disconnect();
  }

  /** @param summaries what is shown
   *  @param measure one of `MEASURES` */
  show(summaries, measure) {
    this.measure = measure;
    const kept = this.active?.summary;
    this.points = summaries
      .map((summary) => ({ summary, value: measure.of(summary), x: 0, y: 0 }))
      .filter(({ value }) => value !== null && value > 0)
      .sort((a, b) => a.summary.endMs - b.summary.endMs);
    this.sorted = sortedNumbers(this.points.map(({ value }) => value));
    this.active = kept ? (this.points.find(({ summary }) => summary === kept) ?? null) : null;
    this.draw();
    const present = new Set(this.points.map(({ summary }) => summary.main));
    replace(this.legend, this.points.length ? "most of its time: " : "", BUCKETS.filter(({ key }) => present.has(key)).map(({ key, label }) => [
      h("span", { class: "nowrap" }, h("span", { class: `swatch filled b-${key}`, "aria-hidden": "true" }), ` ${label}`), " "]),
      this.points.some(({ summary }) => summary.status === "aborted") ? h("span", { class: "nowrap" }, h("span", { class: "bad", "aria-hidden": "true" }, "×"), " aborted") : null);
  }

  /** Draws all points on the layer, and the layer on the canvas. */
  draw() {
    const { canvas, layer } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!this.sorted || width === 0) return;
    const ratio = globalThis.devicePixelRatio || 1;
    for (const one of [canvas, layer]) {
      one.width = Math.round(width * ratio);
      one.height = Math.round(height * ratio);
    }
    const pen = layer.getContext("2d");
    pen.scale(ratio, ratio);
    this.drawLayer(pen, width, height);
    this.paint();
  }

  /** The layer, and a ring around the active point: all that changes while the mouse moves. */
  paint() {
    const pen = this.canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    pen.drawImage(this.layer, 0, 0);
    if (!this.active) return;
    const ratio = globalThis.devicePixelRatio || 1;
    pen.scale(ratio, ratio);
    pen.strokeStyle = this.ink;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(this.active.x, this.active.y, POINT + 4, 0, 2 * Math.PI);
    pen.stroke();
  }

  drawLayer(pen, width, height) {
    const colors = colorsOf(this.element, NAMES);
    this.ink = colors.ink;
    pen.font = `12px ${getComputedStyle(this.canvas).fontFamily}`;
    if (this.points.length === 0) {
      pen.fillStyle = colors["ink-soft"];
      pen.textAlign = "center";
      pen.fillText("nothing to show", width / 2, height / 2);
      return;
    }
    const scale = this.scale(width, height);
    drawAxes(pen, scale, colors);
    // Circles of one colour in one path: tens of thousands in some milliseconds.
    const byColor = grouped(this.points);
    pen.globalAlpha = this.points.length > 3000 ? 0.55 : 0.8;
    for (const [key, points] of byColor) {
      pen.fillStyle = colors[`bucket-${key}`];
      pen.beginPath();
      for (const point of points) {
        point.x = scale.x(point.summary.endMs);
        point.y = scale.y(point.value);
        if (point.summary.status !== "aborted") {
          pen.moveTo(point.x + POINT, point.y);
          pen.arc(point.x, point.y, POINT, 0, 2 * Math.PI);
        }
      }
      pen.fill();
    }
    // Those that were aborted are crosses, so that their colour need not say it.
    pen.globalAlpha = 1;
    pen.strokeStyle = colors.bad;
    pen.lineWidth = 1.25;
    pen.beginPath();
    for (const { summary, x, y } of this.points) {
      if (summary.status !== "aborted") continue;
      pen.moveTo(x - POINT, y - POINT);
      pen.lineTo(x + POINT, y + POINT);
      pen.moveTo(x + POINT, y - POINT);
      pen.lineTo(x - POINT, y + POINT);
    }
    pen.stroke();
    this.drawPercentiles(pen, scale, colors);
  }

  scale(width, height) {
    const times = this.points.map(({ summary }) => summary.endMs);
    const [first, last] = [times[0], Math.max(times.at(-1), times[0] + 1000)];
    const low = Math.log10(this.sorted[0]);
    const high = Math.max(Math.log10(this.sorted.at(-1)), low + 0.1);
    const pad = (high - low) * 0.04;
    const right = width - MARGIN.right;
    const bottom = height - MARGIN.bottom;
    return {
      width, height, first, last, right, bottom, low: low - pad, high: high + pad,
      x: (ms) => MARGIN.left + ((ms - first) / (last - first)) * (right - MARGIN.left),
      y: (ns) => bottom - ((Math.log10(ns) - low + pad) / (high - low + 2 * pad)) * (bottom - MARGIN.top),
    };
  }

  drawPercentiles(pen, scale, colors) {
    pen.setLineDash([4, 3]);
    pen.lineWidth = 1;
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    let lowest = MARGIN.top;
    for (const [name, share] of [...PERCENTILES].reverse()) {
      const y = scale.y(quantile(this.sorted, share));
      pen.strokeStyle = colors["ink-soft"];
      line(pen, MARGIN.left, y, scale.right, y);
      // Labels of lines that lie close keep apart.
      const at = Math.max(y, lowest);
      lowest = at + 12;
      pen.fillStyle = colors.ink;
      pen.fillText(name, scale.right + 6, at);
    }
    pen.setLineDash([]);
  }

  nearest(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, distance] = [null, REACH * REACH];
    for (const point of this.points) {
      const far = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (far < distance) [best, distance] = [point, far];
    }
    return best;
  }

  select(point) {
    if (point === this.active) return;
    this.active = point;
    this.canvas.classList.toggle("on-point", point !== null);
    this.paint();
    this.tip.hidden = point === null;
    if (point === null) return;
    setText(this.tip, this.options.describe(point.summary));
    const onRight = point.x > this.canvas.clientWidth / 2;
    this.tip.classList.toggle("left", onRight);
    this.tip.style.setProperty("left", `${point.x}px`);
    this.tip.style.setProperty("top", `${point.y}px`);
  }
}

function grouped(points) {
  const groups = new Map();
  for (const point of points) {
    const key = bucketOf(point.summary.main).key;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(point);
  }
  return groups;
}

function drawAxes(pen, scale, colors) {
  pen.strokeStyle = colors.line;
  pen.fillStyle = colors["ink-soft"];
  pen.lineWidth = 1;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  const decades = scale.high - scale.low;
  const factors = decades > 3 ? [1] : decades > 1 ? [1, 3] : [1, 2, 3, 5, 7];
  for (let power = Math.floor(scale.low); power <= scale.high; power += 1) {
    for (const factor of factors) {
      const value = factor * 10 ** power;
      const log = Math.log10(value);
      if (log < scale.low || log > scale.high) continue;
      const y = Math.round(scale.y(value)) + 0.5;
      line(pen, MARGIN.left, y, scale.right, y);
      pen.fillText(duration(value), MARGIN.left - 6, y);
    }
  }
  pen.textAlign = "center";
  pen.textBaseline = "top";
  const step = timeStep((scale.last - scale.first) / Math.max((scale.right - MARGIN.left) / 110, 1));
  for (let at = Math.ceil(scale.first / step) * step; at <= scale.last; at += step) {
    const x = Math.round(scale.x(at)) + 0.5;
    line(pen, x, scale.bottom, x, scale.bottom + 4);
    pen.fillText(clock(at, step < 1000), x, scale.bottom + 7);
  }
}

function line(pen, x1, y1, x2, y2) {
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}

/** A round number of milliseconds, seconds, minutes or hours that is at least `ms`. */
function timeStep(ms) {
  const steps = [1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000, 10_800_000, 21_600_000, 86_400_000];
  return ms < 1000 ? roundStep(Math.max(ms, 1), 1) : (steps.find((step) => step >= ms) ?? roundStep(ms, 1));
}
