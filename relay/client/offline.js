// What the page tells its service worker: what was seen live can be read without a network, too.

const SOON = 500; // milliseconds: several events come together

export class Offline {
  #rest;
  #timer = null;
  #owner = null; // the token of whose session it is: another may be signed in when we write
  #next = () => {};

  /** @param {import("./rest.js").Rest} rest */
  constructor(rest) {
    this.#rest = rest;
    addEventListener("pagehide", () => this.#now());
  }

  /** A session began. */
  began() {
    this.#now();
    this.#owner = this.#rest.getToken?.();
  }

  /**
   * This was seen.
   * @param {{id: string, title: string | null}} conversation
   * @param {import("./conversation.js").View["items"]} items all that is shown of it
   */
  saw(conversation, items) {
    clearTimeout(this.#timer);
    const owner = this.#owner;
    this.#next = () => this.#keep(conversation, items, owner);
    this.#timer = setTimeout(() => this.#now(), SOON);
  }

  /** It was erased. @param {string} id */
  forget(id) {
    this.#drop();
    post({ forget: id });
  }

  /** What was kept is nobody's business now. */
  signedOut() {
    this.#drop();
    post({ signedOut: true });
  }

  #now() {
    clearTimeout(this.#timer);
    this.#next();
    this.#next = () => {};
  }

  #drop() {
    clearTimeout(this.#timer);
    this.#next = () => {};
  }

  async #keep(conversation, items, owner) {
    const at = `${this.#rest.url}/conversations/${conversation.id}`;
    const url = (path) => new URL(at + path, document.baseURI).href;
    const { messages, calls } = read(items);
    const token = await owner;
    post({
      keep: {
        authorization: token ? `Bearer ${token}` : "",
        answers: [
          { url: url(""), body: conversation },
          { url: url("/messages?limit=200"), body: { items: messages, next_cursor: null } },
          { url: url("/intents?limit=200"), body: { items: calls, next_cursor: null } },
        ],
      },
    });
  }
}

/** What is shown, as REST says it. */
function read(items) {
  const messages = [];
  const calls = [];
  for (const item of items) {
    if (item.kind === "card") {
      const { key, until, takenBack, ...call } = item;
      const after_seq = messages.at(-1)?.seq ?? 0;
      calls.push({ ...call, id: key, next_attempt_at: until, taken_back: takenBack, after_seq });
      continue;
    }
    for (const { role, text, seq, number, at } of item.lines) {
      const known = seq ?? number; // what is not stored yet has its number, too
      if (known !== null) messages.push({ seq: known, role, content: text, created_at: at });
    }
  }
  return { messages, calls };
}

function post(message) {
  navigator.serviceWorker?.controller?.postMessage(message);
}
