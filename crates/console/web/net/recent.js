// The finished journeys that the server keeps, as summaries, newest first. Fetched once, page by page, then only what
// is new.

import { readSummary } from "../data/summary.js";

const PAGE = 1000;
/** More are not held, however many the server has. */
const MOST = 200_000;

export class RecentJourneys {
  constructor(client) {
    this.client = client;
    this.journeys = [];
    this.store = null;
    this.running = null;
  }

  /** Brings the list up to date. `progress(journeys)` is called after each page. Calls at once share one run. */
  refresh(progress) {
    this.running ??= this.load(progress).finally(() => {
      this.running = null;
    });
    return this.running;
  }

  async load(progress) {
    const newest = this.journeys[0]?.serial ?? 0;
    let fresh = [];
    for (let before = null; ;) {
      const range = before === null ? `after=${newest}` : `after=${newest}&before=${before}`;
      const page = await this.client.get(`recent?fields=summary&limit=${PAGE}&${range}`);
      this.store = page.store;
      if (before === null && newest > (page.store.newest_serial ?? newest)) return this.restart(progress);
      fresh = fresh.concat(page.journeys.map(readSummary));
      const isLast = page.journeys.length < PAGE || fresh.length >= MOST;
      if (!isLast) before = page.journeys.at(-1).serial;
      if (newest === 0 && !isLast) progress?.(fresh);
      if (isLast) break;
    }
    const oldestKept = (this.store.newest_serial ?? Infinity) - this.store.journeys;
    if (fresh.length > 0) {
      this.journeys = fresh.concat(this.journeys).filter((one) => one.serial > oldestKept).slice(0, MOST);
    }
    return this.journeys;
  }

  /** The server is another one than before: its serials begin anew. */
  restart(progress) {
    this.journeys = [];
    return this.load(progress);
  }
}
