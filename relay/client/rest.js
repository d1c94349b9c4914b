// The REST side of the relay: begin sessions, read and tidy up the history.

const PATIENCE = 15_000; // milliseconds for an answer

/** An answer that is an error, or none: `status` 0 and `code` "network". */
export class Problem extends Error {
  /**
   * @param {number} status @param {string} code a word for programs @param {string} [detail]
   * @param {number | null} [retryAfter] seconds, where the server says so
   */
  constructor(status, code, detail, retryAfter = null) {
    super(detail);
    this.name = "Problem";
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/**
 * @typedef {object} RestOptions
 * @property {string} [url] where the API is, without a slash at the end: "/api/v1/voice"
 * @property {() => Promise<string | null | undefined> | string | null | undefined} [getToken]
 *   asked before each request; what it gives goes out as a bearer token
 * @property {(problem: Problem) => void} [onSignedOut] the relay takes that token no more (401)
 * @property {(moment: Date) => void} [onCopy] an answer is what the service worker has kept
 * @property {typeof fetch} [fetch]
 *
 * @typedef {object} StoredMessage
 * @property {string} id @property {number} seq its number in the conversation
 * @property {number} turn @property {"user" | "assistant"} role @property {string} content
 * @property {string} session_id @property {string} created_at
 *
 * @typedef {object} StoredCall a function call
 * @property {string} id @property {string | null} intent @property {IntentStatus} status
 * @property {any} arguments @property {any} result @property {string | null} last_error
 * @property {string | null} next_attempt_at @property {boolean} taken_back
 * @property {number} after_seq the message that it followed
 *
 * @typedef {object} StoredConversation
 * @property {string} id @property {string | null} title @property {"open" | "closed"} status
 * @property {string} created_at @property {string} updated_at
 *
 * @typedef {import("./events.js").RelayIntent["status"]} IntentStatus
 */

/** @template Item @typedef {{items: Item[], next_cursor: string | null}} Paged */

/** Every method raises Problem. */
export class Rest {
  /** @param {RestOptions} [options] */
  constructor({
    url = "api/v1/voice", getToken, onSignedOut, onCopy, fetch = globalThis.fetch.bind(globalThis),
  } = {}) {
    this.url = url;
    this.getToken = getToken;
    this.onSignedOut = onSignedOut;
    this.onCopy = onCopy;
    this.fetch = fetch;
  }

  /** A request will come in a moment: have a connection, where the browser has let the last go. */
  expect() {
    const link = document.createElement("link");
    link.rel = "preconnect";
    link.crossOrigin = "anonymous"; // as that of fetch: cookies go to our own origin only
    link.href = new URL(this.url, document.baseURI).href;
    document.head.append(link);
    link.remove();
  }

  /** @param {Record<string, unknown>} wanted @returns {Promise<any>} */
  beginSession(wanted) {
    return this.#ask("POST", "/session", wanted);
  }

  /**
   * The names of voices and languages that a session may be begun with, and whether it may be
   * recorded. @returns {Promise<{voices: string[], languages: string[], record?: boolean}>}
   */
  choices() {
    return this.#ask("GET", "/choices");
  }

  /** @param {string} id @returns {Promise<{state: "new" | "live" | "ended"} & Record<string, any>>} */
  session(id) {
    return this.#ask("GET", `/session/${id}`);
  }

  /**
   * One page, newest first.
   * @param {{q?: string, cursor?: string | null, limit?: number}} [query]
   * @returns {Promise<Paged<StoredConversation>>}
   */
  conversations({ q = "", cursor = null, limit = 30 } = {}) {
    const query = new URLSearchParams({ said: "true", limit: String(limit) });
    if (q) query.set("q", q);
    if (cursor) query.set("cursor", cursor);
    return this.#ask("GET", `/conversations?${query}`);
  }

  /** @param {string} id @returns {Promise<StoredConversation>} */
  conversation(id) {
    return this.#ask("GET", `/conversations/${id}`);
  }

  /**
   * Every message after `afterSeq`, in order.
   * @param {string} id @returns {Promise<StoredMessage[]>}
   */
  messages(id, afterSeq = 0) {
    return this.#all(`/conversations/${id}/messages`, afterSeq ? { after_seq: afterSeq } : {});
  }

  /**
   * Every function call of a conversation, in order.
   * @param {string} id @returns {Promise<StoredCall[]>}
   */
  calls(id) {
    return this.#all(`/conversations/${id}/intents`, {});
  }

  /** @param {string} id @param {string} callId @returns {Promise<StoredCall>} */
  retry(id, callId) {
    return this.#ask("POST", `/conversations/${id}/intents/${callId}/retry`);
  }

  /** @param {string} id @param {string} title @returns {Promise<StoredConversation>} */
  rename(id, title) {
    return this.#ask("PATCH", `/conversations/${id}`, { title });
  }

  /** @param {string} id @returns {Promise<null>} */
  erase(id) {
    return this.#ask("DELETE", `/conversations/${id}`);
  }

  /**
   * The whole conversation as a file.
   * @param {string} id @param {"json" | "text" | "vcon"} format @returns {Promise<File>}
   */
  async export(id, format) {
    const path = `/conversations/${id}/export?format=${format}`;
    return this.#ask("GET", path, undefined, async (answer) => {
      const named = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "");
      return new File([await answer.blob()], named?.[1] ?? `conversation.${format}`);
    });
  }

  /** What can be asked for. @returns {Promise<{id: string, name: string, title: string}[]>} */
  async intents() {
    return (await this.#ask("GET", "/intents")).items;
  }

  async #all(path, query) {
    const items = [];
    /** @type {string | null} */
    let cursor = null;
    do {
      const asked = new URLSearchParams({ limit: "200", ...query, ...(cursor !== null && { cursor }) });
      /** @type {any} */
      const page = await this.#ask("GET", `${path}?${asked}`);
      items.push(...page.items);
      cursor = page.next_cursor;
    } while (cursor);
    return items;
  }

  /** `read` makes of an answer what is given; without it JSON is read. */
  async #ask(method, path, body, read) {
    /** @type {Record<string, string>} */
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
