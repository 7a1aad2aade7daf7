// A table of any length, of which only the rows in sight are elements. Rows have one height. It is one stop of the Tab
// key; arrows, Page Up and Down, Home and End go through the rows, Enter opens one.

import { h, replace } from "../lib/dom.js";

const ROW_HEIGHT = 32;
/** Rows beyond the edge that are there already when they come into sight. */
const SPARE = 6;
let tables = 0;

export class WindowedTable {
  /** @param columns `[{ key, label, number, sort, cell(row), update(element, row) }]`: `cell` makes what is in it once,
   *  `update` brings it up to date whenever the table is drawn; `sort` makes the head a button
   *  @param options `{ name, label, keyOf(row), open(row), onSort(key, isDown), empty }` */
  constructor(columns, options) {
    this.columns = columns;
    this.options = options;
    this.rows = [];
    /** The rows in sight, by key. They stay the same elements, so that a click hits what it was aimed at. */
    this.drawn = new Map();
    this.activeKey = null;
    this.sortKey = null;
    this.isDown = true;
    this.prefix = `table${(tables += 1)}`;
    this.head = h("div", { class: "grid-row grid-head", role: "row" });
    this.body = h("div", { class: "grid-window", role: "rowgroup" });
    this.scroller = h("div", { class: "grid-scroller", role: "presentation" }, h("div", { class: "grid-top", role: "rowgroup" }, this.head), this.body);
    this.element = h("div", { class: `grid ${options.name}`, role: "grid", tabindex: "0", "aria-label": options.label, on: {
      keydown: (event) => this.key(event),
      click: (event) => this.click(event),
    } }, this.scroller);
    this.scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.scroller);
    this.drawHead();
  }

  stop() {
    this.resized.disconnect();
  }

  sortBy(key, isDown) {
    this.sortKey = key;
    this.isDown = isDown;
    this.drawHead();
  }

  show(rows) {
    this.rows = rows;
    this.element.setAttribute("aria-rowcount", String(rows.length + 1));
    this.body.style.setProperty("height", `${Math.max(rows.length, 1) * ROW_HEIGHT}px`);
    this.draw();
  }

  drawHead() {
    const sorting = `${this.sortKey} ${this.isDown}`;
    if (this.head.dataset.sorting === sorting) return;
    this.head.dataset.sorting = sorting;
    const focused = this.head.querySelector(":focus")?.dataset.sort;
    replace(this.head, this.columns.map((column) => {
      const isSorted = column.key === this.sortKey;
      const sorted = isSorted ? (this.isDown ? "descending" : "ascending") : "none";
      const label = column.sort
        ? h("button", { type: "button", class: "sort", "data-sort": column.key, on: { click: () => this.options.onSort(column.key, isSorted ? !this.isDown : true) } }, column.label, h("span", { "aria-hidden": "true" }, isSorted ? (this.isDown ? " ↓" : " ↑") : ""))
        : column.label;
      return h("span", { class: cellClass(column), role: "columnheader", "aria-sort": column.sort ? sorted : null }, label);
    }));
    if (focused) this.head.querySelector(`[data-sort="${focused}"]`)?.focus();
  }

  draw() {
    const { clientHeight, scrollTop } = this.scroller;
    if (this.rows.length === 0) {
      this.drawn.clear();
      if (!this.body.querySelector(".notice")) replace(this.body, h("p", { class: "notice", role: "presentation" }, this.options.empty));
      return;
    }
    this.body.querySelector(".notice")?.remove();
    const first = Math.max(Math.floor(scrollTop / ROW_HEIGHT) - SPARE, 0);
    const last = Math.min(Math.ceil((scrollTop + clientHeight) / ROW_HEIGHT) + SPARE, this.rows.length);
    const shown = new Map();
    for (let index = first; index < last; index += 1) {
      const row = this.rows[index];
      const key = this.options.keyOf(row);
      const element = this.drawn.get(key) ?? this.makeRow(row);
      this.drawn.delete(key);
      shown.set(key, element);
      this.updateRow(element, row, index);
    }
    for (const element of this.drawn.values()) element.remove();
    this.drawn = shown;
    this.mark();
  }

  makeRow(row) {
    const element = h("div", { class: "grid-row", role: "row" }, this.columns.map((column) => h("span", { class: cellClass(column), role: "gridcell" }, column.cell?.(row))));
    this.body.append(element);
    return element;
  }

  updateRow(element, row, index) {
    if (element.dataset.index !== String(index)) {
      element.dataset.index = String(index);
      element.id = `${this.prefix}-${index}`;
      element.setAttribute("aria-rowindex", String(index + 2));
      element.style.setProperty("transform", `translateY(${index * ROW_HEIGHT}px)`);
    }
    this.columns.forEach((column, place) => column.update?.(element.children[place], row));
  }

  /** Shows which row is the active one. */
  mark() {
    const index = this.activeIndex();
    for (const row of this.body.querySelectorAll(".grid-row")) {
      row.setAttribute("aria-selected", String(Number(row.dataset.index) === index));
    }
    const id = `${this.prefix}-${index}`;
    if (index >= 0 && this.body.querySelector(`#${id}`)) this.element.setAttribute("aria-activedescendant", id);
    else this.element.removeAttribute("aria-activedescendant");
  }

  activeIndex() {
    return this.activeKey === null ? -1 : this.rows.findIndex((row) => this.options.keyOf(row) === this.activeKey);
  }

  key(event) {
    if (event.target !== this.element || this.rows.length === 0) return;
    const at = this.activeIndex();
    const page = Math.max(Math.floor(this.scroller.clientHeight / ROW_HEIGHT) - 2, 1);
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: this.rows.length - 1 };
    if (event.key in moves) {
      event.preventDefault();
      this.activate(Math.min(Math.max(moves[event.key], 0), this.rows.length - 1));
    } else if (event.key === "Enter" && at >= 0) {
      this.options.open(this.rows[at]);
    }
  }

  activate(index) {
    this.activeKey = this.options.keyOf(this.rows[index]);
    const top = index * ROW_HEIGHT;
    // The head takes the place of one row.
    const inSight = this.scroller.clientHeight - ROW_HEIGHT;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    else if (top + ROW_HEIGHT > this.scroller.scrollTop + inSight) this.scroller.scrollTop = top + ROW_HEIGHT - inSight;
    this.draw();
  }

  click(event) {
    // A link does by itself what links do.
    if (event.target.closest("a, button")) return;
    const row = event.target.closest(".grid-window .grid-row");
    if (row && String(globalThis.getSelection() ?? "") === "") this.options.open(this.rows[Number(row.dataset.index)]);
  }
}

function cellClass(column) {
  return `cell cell-${column.key}${column.number ? " number" : ""}`;
}
