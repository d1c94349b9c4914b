// What was said and asked for in one conversation, as it is shown. Pure: no DOM, no clock.
//
// It is fed from two sides that may overlap, the events of a live session (`handle`) and what is
// stored (`merge`), and shows everything once.

/**
 * @typedef {object} Line one sentence; `seq` is its number in the conversation, null: not stored
 *   yet; `number` is the one that it will have, where known; `pending`: typed, and the agent has
 *   not taken it yet; `at`: when it was said, as an ISO date, where known
 * @property {"line"} kind @property {string} key @property {"user" | "assistant"} role
 * @property {string} text @property {number | null} seq @property {number | null} number
 * @property {boolean} pending @property {string | null} at
 *
 * @typedef {object} Card one function call
 * @property {"card"} kind @property {string} key the call's `id`; a `call_id` may be that of several
 * @property {string | null} intent @property {import("./rest.js").IntentStatus} status
 * @property {any} arguments
 * @property {any} result `{saved: true, because}` while it is submitting: it is tried again
 * @property {string | null} until while it is awaiting, the end of the wait; saved: the next attempt
 * @property {boolean} takenBack it is not wanted any more; with `submitted` it was carried out
 *
 * @typedef {{kind: "bubble", key: string, role: Line["role"], lines: Line[]}} Bubble one turn
 */

// What changes by itself comes before what it changes to.
const RANK = { awaiting: 0, submitting: 1, failed: 1 };
const LAST = 2; // the others

export class Transcript extends EventTarget {
  /** @type {any[]} */
  #entries = []; // Lines and Cards, in the order of the conversation
  #count = 0;
  /** @type {number | null} */
  #told = null; // the number of the last ConversationText; null: this relay does not say

  /** The highest number that is here. */
  get seq() {
    return Math.max(0, ...this.#lines().map((line) => line.seq ?? 0));
  }

  get isEmpty() {
    return this.#entries.length === 0;
  }

  /**
   * Sentences of one side that follow each other are one bubble.
   * @returns {(Bubble | Card)[]}
   */
  items() {
    /** @type {any[]} */
    const items = [];
    for (const entry of this.#entries) {
      const last = items.at(-1);
      if (entry.kind === "card") items.push(entry);
      else if (last?.kind === "bubble" && last.role === entry.role) last.lines.push(entry);
      else items.push({ kind: "bubble", key: entry.key, role: entry.role, lines: [entry] });
    }
    return items;
  }

  clear() {
    this.#entries = [];
    this.#told = null;
    this.#changed();
  }

  /**
   * An event of a live session, which came `at` this time.
   * @param {import("./events.js").SessionEvent} event
   * @param {string | null} [at]
   */
  handle(event, at = null) {
    if (event.type === "ConversationText") this.#said(event, at);
    else if (event.type === "RelayMessageSaved") this.#saved(event);
    else if (event.type === "RelayIntent") this.#called(event);
    else if (event.type === "RelaySession") return this.#began(event);
    else return;
    this.#changed();
  }

  /**
   * Typed, and on its way; it is confirmed by the agent's ConversationText.
   * @param {string} text
   * @param {string | null} [at]
   */
  typed(text, at = null) {
    this.#entries.push({ ...this.#line("user", text, null, at), pending: true });
    this.#changed();
  }

  /** The agent will never hear it. @param {string} text */
  untyped(text) {
    const index = this.#entries.findIndex((entry) => entry.pending && entry.text === text);
    if (index >= 0) this.#entries.splice(index, 1);
    this.#changed();
  }

  /**
   * What REST says: messages and calls, in order; what is here already is not doubled.
   * @param {(Pick<import("./rest.js").StoredMessage, "seq" | "role" | "content"> &
   *   {created_at?: string | null})[]} messages
   * @param {import("./rest.js").StoredCall[]} [calls]
   */
  merge(messages, calls = []) {
    for (const message of messages) this.#stored(message);
    for (const call of calls) this.#storedCall(call);
    this.#changed();
  }

  /**
   * Another relay may have the session now, and tells what was said meanwhile.
   * @param {any} event
   */
  #began({ last_seq: last, messages = [] }) {
    if (last !== undefined) this.#told = last;
    this.merge(messages);
  }

  /** @param {any} event @param {string | null} at */
  #said({ role, content }, at) {
    const number = this.#told === null ? null : ++this.#told;
    const typed = this.#lines().find((line) => line.pending && line.text === content);
    if (role === "user" && typed) {
      Object.assign(typed, { pending: false, number, at });
      // It is said now, whatever was said since it was typed.
      this.#entries.push(...this.#entries.splice(this.#entries.indexOf(typed), 1));
    } else {
      this.#entries.push({ ...this.#line(role, content, null, at), number });
    }
  }

  #saved({ seq, role }) {
    if (this.#lines().some((line) => line.seq === seq)) return;
    const waits = (line) => line.role === role && !line.pending && line.seq === null;
    const line =
      this.#lines().find((one) => one.number === seq) ??
      this.#lines().find((one) => waits(one) && one.number === null); // they come in order
    if (line) line.seq = seq;
  }

  #called(event) {
    const { id: key, intent = null, status, arguments: given, result = null } = event;
    const card = this.#card(key);
    const now = { status, result, ...wait(event) };
    if (card) Object.assign(card, now, { arguments: given ?? card.arguments });
    else this.#entries.push({ kind: "card", key, intent, arguments: given, ...now });
  }

  /** @param {any} message */
  #stored({ seq, role, content, created_at: at = null }) {
    const known =
      this.#lines().find((line) => line.seq === seq || line.number === seq) ??
      this.#lines().find((line) => line.seq === null && line.role === role && line.text === content);
    if (known) Object.assign(known, { seq, text: content, pending: false, at: at ?? known.at });
    else this.#entries.splice(this.#after(seq), 0, this.#line(role, content, seq, at));
  }

  #storedCall(call) {
    const { id: key, intent, status, arguments: given, after_seq } = call;
    const fresh = { intent, status, arguments: given, result: told(call), ...wait(call) };
    const card = this.#card(key);
    if (card && rank(status) < rank(card.status)) return; // what was told is not stored yet
    if (card) Object.assign(card, fresh);
    else {
      let at = this.#after(after_seq + 1);
      while (this.#entries[at]?.kind === "card") at++;
      this.#entries.splice(at, 0, { kind: "card", key, ...fresh });
    }
  }

  /** Where a line with this number belongs. */
  #after(seq) {
    return 1 + this.#entries.findLastIndex((entry) => entry.seq != null && entry.seq < seq);
  }

  #lines() {
    return this.#entries.filter((entry) => entry.kind === "line");
  }

  #card(key) {
    return this.#entries.find((entry) => entry.kind === "card" && entry.key === key);
  }

  #line(role, text, seq, at) {
    const key = `line-${++this.#count}`;
    return { kind: "line", key, role, text, seq, at, pending: false, number: null };
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

function wait({ next_attempt_at: until = null, taken_back: takenBack = false }) {
  return { until, takenBack };
}

function rank(status) {
  return RANK[status] ?? LAST;
}

/** The result; without one, what went wrong last (its technical cause stands in brackets). */
function told({ result, status, last_error: error }) {
  if (result || !error) return result;
  return status === "submitting" ? { saved: true, because: error.replace(/ \(.*/s, "") } : { error };
}
