// Calls that are not over: looked at until they are, with a session or without one.

const FIRST = 2000; // milliseconds: what a session tells is stored by then
const LONGEST = 30_000;
const OPEN = new Set(["awaiting", "submitting", "cancelling"]);

export class Pending {
  #look;
  #open = "[]"; // those that are shown, as text
  #pause = FIRST;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {() => Promise<void>} look asks how they stand, and has it shown */
  constructor(look) {
    this.#look = look;
  }

  /** @param {ReturnType<import("./transcript.js").Transcript["items"]>} items what is shown now */
  show(items) {
    const cards = items.filter((item) => item.kind === "card").filter(({ status }) => OPEN.has(status));
    const open = JSON.stringify(cards.map(({ key, status, until }) => [key, status, until]));
    if (open === this.#open) return;
    this.#open = open;
    this.#pause = FIRST;
    this.#wait();
  }

  #wait() {
    clearTimeout(this.#timer);
    if (this.#open !== "[]") this.#timer = setTimeout(() => this.#again(), this.#pause);
  }

  async #again() {
    this.#pause = Math.min(2 * this.#pause, LONGEST);
    if (document.visibilityState === "visible") await this.#look();
    this.#wait();
  }
}
