// Asking the server. The API key is asked for once, when the server first wants one, and kept for this tab alone.

const ROOT = new URL("../../", import.meta.url);
const KEY_PLACE = "wayfare-api-key";

/** What the server answered instead of what was asked for. */
export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export class Client {
  /** @param askForKey shows a reason and resolves to the key that somebody typed */
  constructor(askForKey) {
    this.askForKey = askForKey;
    this.asking = null;
    this.key = sessionStorage.getItem(KEY_PLACE);
  }

  /** The JSON at `/journeys/{path}`. */
  async get(path, signal) {
    const response = await this.open(path, { signal });
    return response.json();
  }

  /** The response at `/journeys/{path}`, once the server lets us have it.
   *  @throws ServerError for any answer that is not a success */
  async open(path, { signal, headers = {} } = {}) {
    for (;;) {
      const used = this.key;
      const authorization = used === null ? {} : { authorization: `Bearer ${used}` };
      const response = await fetch(new URL(path, ROOT), { signal, cache: "no-store", headers: { ...headers, ...authorization } });
      if (response.ok) return response;
      const message = await messageOf(response);
      if (response.status !== 401) throw new ServerError(response.status, message);
      // Somebody else may have got a new key while this request was on its way.
      if (this.key === used) await this.getKey(used === null ? null : message);
    }
  }

  /** All that need the key wait for the same question. */
  async getKey(problem) {
    this.asking ??= this.askForKey(problem).then((key) => {
      this.key = key;
      sessionStorage.setItem(KEY_PLACE, key);
      this.asking = null;
    });
    await this.asking;
  }
}

async function messageOf(response) {
  try {
    const body = await response.json();
    return body.error?.message ?? `the server answered ${response.status}`;
  } catch {
    return `the server answered ${response.status}`;
  }
}
