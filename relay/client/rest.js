// The REST side of the relay: begin sessions, read and tidy up the history.

const PATIENCE = 15_000; // milliseconds for an answer

/** An answer that is an error, or none: `status` 0 and `code` "network". */
export class Problem extends Error {
  constructor(status, code, detail, retryAfter = null) {
    super(detail);
    this.name = "Problem";
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter; // seconds, where the server says so
  }
}

export class Rest {
  /**
   * @param {object} [options]
   * @param {string} [options.url] where the API is, without a slash at the end
   * @param {() => Promise<string | null>} [options.getToken] gives a bearer token for each request
   * @param {(problem: Problem) => void} [options.onSignedOut] the relay takes that token no more (401)
   * @param {(moment: Date) => void} [options.onCopy] an answer is what the service worker has kept
   * @param {typeof fetch} [options.fetch]
   */
  constructor({
    url = "api/v1/voice", getToken, onSignedOut, onCopy, fetch = globalThis.fetch.bind(globalThis),
  } = {}) {
    this.url = url;
    this.getToken = getToken;
    this.onSignedOut = onSignedOut;
    this.onCopy = onCopy;
    this.fetch = fetch;
  }

  beginSession(wanted) {
    return this.#ask("POST", "/session", wanted);
  }

  session(id) {
    return this.#ask("GET", `/session/${id}`);
  }

  /** One page, newest first: `{items, next_cursor}`. */
  conversations({ q = "", cursor = null, limit = 30 } = {}) {
    const query = new URLSearchParams({ limit: String(limit) });
    if (q) query.set("q", q);
    if (cursor) query.set("cursor", cursor);
    return this.#ask("GET", `/conversations?${query}`);
  }

  conversation(id) {
    return this.#ask("GET", `/conversations/${id}`);
  }

  /** Every message after `afterSeq`, in order. */
  messages(id, afterSeq = 0) {
    return this.#all(`/conversations/${id}/messages`, afterSeq ? { after_seq: afterSeq } : {});
  }

  /** Every function call of a conversation, in order. */
  calls(id) {
    return this.#all(`/conversations/${id}/intents`, {});
  }

  retry(id, intentId) {
    return this.#ask("POST", `/conversations/${id}/intents/${intentId}/retry`);
  }

  rename(id, title) {
    return this.#ask("PATCH", `/conversations/${id}`, { title });
  }

  erase(id) {
    return this.#ask("DELETE", `/conversations/${id}`);
  }

  /** The whole conversation as a file: "json", "text" or "vcon". @returns {Promise<File>} */
  async export(id, format) {
    const path = `/conversations/${id}/export?format=${format}`;
    return this.#ask("GET", path, undefined, async (answer) => {
      const named = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "");
      return new File([await answer.blob()], named?.[1] ?? `conversation.${format}`);
    });
  }

  /** The registry: `[{name, title}]`. */
  async intents() {
    return (await this.#ask("GET", "/intents")).items;
  }

  async #all(path, query) {
    const items = [];
    let cursor = null;
    do {
      const asked = new URLSearchParams({ limit: "200", ...query, ...(cursor && { cursor }) });
      const page = await this.#ask("GET", `${path}?${asked}`);
      items.push(...page.items);
      cursor = page.next_cursor;
    } while (cursor);
    return items;
  }

  /** `read` makes of an answer what is given; without it JSON is read. */
  async #ask(method, path, body, read) {
    const headers = read ? {} : { Accept: "application/json" };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const token = await this.#token();
    if (token) headers.Authorization = `Bearer ${token}`;
    let answer;
    let said;
    try {
      answer = await this.fetch(this.url + path, {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: AbortSignal.timeout(PATIENCE),
      });
      if (answer.ok && read) return await read(answer);
      said = await answer.text();
    } catch (error) {
      throw new Problem(0, "network", `the relay does not answer: ${error.message}`);
    }
    if (answer.ok) return this.#read(answer, said);
    const problem = readProblem(answer, said);
    if (problem.status === 401) this.onSignedOut?.(problem);
    throw problem;
  }

  async #token() {
    try {
      return await this.getToken?.();
    } catch (error) {
      throw new Problem(0, "network", `there is no token: ${error.message}`);
    }
  }

  #read(answer, said) {
    const kept = answer.headers.get("Relay-Kept");
    if (kept) this.onCopy?.(new Date(kept));
    if (answer.status === 204) return null;
    try {
      return JSON.parse(said);
    } catch {
      throw new Problem(0, "portal", "somebody else answers for the relay");
    }
  }
}

function readProblem(answer, said) {
  const seconds = Number(answer.headers.get("Retry-After")) || null;
  try {
    const { code, detail } = JSON.parse(said);
    return new Problem(answer.status, code, detail, seconds);
  } catch {
    // A proxy's page, not an answer of ours.
    return new Problem(answer.status, "unexpected", `status ${answer.status}`, seconds);
  }
}
