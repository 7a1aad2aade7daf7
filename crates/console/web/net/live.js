// The requests in flight: read once, then kept up to date by the stream of changes. EventSource cannot send an API key,
// so the stream is read by fetch.

const AGAIN_MS = 1000;
/** Ten minutes, one each second. */
const MOST_SAMPLES = 600;

export class LiveRequests {
  constructor(client) {
    this.client = client;
    this.watchers = new Set();
    this.stopping = null;
    /** By key. */
    this.requests = new Map();
    this.samples = [];
    this.inFlight = 0;
    this.instance = null;
    /** When what is here is what the server says. */
    this.isLoaded = false;
  }

  /** Calls `watcher({ changed, ended, problem })` whenever something is different, until the function that is returned
   *  is called. The connection is there while somebody watches. */
  watch(watcher) {
    this.watchers.add(watcher);
    if (!this.stopping) {
      this.stopping = new AbortController();
      this.run(this.stopping.signal);
    }
    return () => {
      this.watchers.delete(watcher);
      if (this.watchers.size === 0) {
        this.stopping?.abort();
        this.stopping = null;
        this.isLoaded = false;
      }
    };
  }

  tell(news) {
    for (const watcher of this.watchers) watcher(news);
  }

  async run(signal) {
    while (!signal.aborted) {
      try {
        const last = await this.load(signal);
        await this.follow(last, signal);
      } catch (error) {
        if (signal.aborted) return;
        this.tell({ problem: error });
      }
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }

  /** @returns the last event that is in what was read */
  async load(signal) {
    const [live, gauges] = await Promise.all([this.client.get("live?limit=10000&sort=age", signal), this.client.get("gauges", signal)]);
    this.instance = live.instance;
    this.inFlight = live.in_flight;
    this.requests = new Map(live.requests.map((one) => [one.key, seen(one)]));
    this.samples = gauges.samples.map(readSample);
    this.isLoaded = true;
    this.tell({ changed: true });
    return live.last_event_id;
  }

  async follow(last, signal) {
    const response = await this.client.open(`events?last_event_id=${encodeURIComponent(last)}`, { signal, headers: { accept: "text/event-stream" } });
    for await (const { event, data } of serverSentEvents(response.body)) {
      if (signal.aborted) return;
      const body = JSON.parse(data);
      switch (event) {
        case "hello":
          if (body.instance !== this.instance) return;
          break;
        case "change":
          this.requests.set(body.key, seen(body));
          this.tell({ changed: true });
          break;
        case "end":
          this.requests.delete(body.key);
          this.tell({ changed: true, ended: body });
          break;
        case "gauges":
          this.samples.push(readSample(body));
          if (this.samples.length > MOST_SAMPLES) this.samples.shift();
          this.inFlight = body.in_flight;
          this.tell({ changed: true });
          break;
        case "missed":
          return;
      }
    }
  }

  /** The request of any of its ids, or null. */
  find(id, span) {
    for (const one of this.requests.values()) {
      const isIt = one.request_id === id || one.client_request_id === id || one.trace_id === id;
      if (isIt && (!span || one.span_id === span)) return one;
    }
    return null;
  }
}

/** Remembers when a request was told of, so that its age can go on without asking. */
function seen(request) {
  return { ...request, seenAt: performance.now() };
}

/** Nanoseconds since a request was told of. */
export function sinceSeen(request) {
  return (performance.now() - request.seenAt) * 1e6;
}

function readSample(raw) {
  return { ...raw, atMs: Number(BigInt(raw.unix_ns) / 1_000_000n) };
}

/** The events of a `text/event-stream`, as the HTML standard defines it, but for `retry`. */
export async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, event, data, id] = ["", "message", [], null];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length > 0) yield { event, id, data: data.join("\n") };
          [event, data] = ["message", []];
          continue;
        }
        const colon = line.indexOf(":");
        const field = colon === -1 ? line : line.slice(0, colon);
        const text = colon === -1 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (field === "event") event = text;
        else if (field === "data") data.push(text);
        else if (field === "id") id = text;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
