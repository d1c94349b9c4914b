// Notices a connection that is dead without a word: a browser is not told of missing pings.

const TICK = 1000; // milliseconds
const SLEPT = 8000; // a tick that comes so late: the page or the machine was asleep
const STUCK_BYTES = 64 * 1024; // 2 s of microphone that the network does not take
const STUCK = 4000; // milliseconds for which it does not
const QUIET = 15_000; // nothing came for so long: ask over HTTP whether there is a network

export class Watchdog {
  #rest;
  #onDead;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #timer;
  #last = 0; // when something came
  #tick = 0; // when we looked
  #stuck = 0; // when the network began to take nothing; 0: it takes it
  #hidden = false; // nobody saw the page at the last tick
  #asking = false;

  /** @param {import("./rest.js").Rest} rest @param {() => void} onDead */
  constructor(rest, onDead) {
    this.#rest = rest;
    this.#onDead = onDead;
  }

  watch(socket) {
    this.rest();
    this.#last = this.#tick = performance.now();
    this.#stuck = 0;
    this.#timer = setInterval(() => this.#look(socket), TICK);
  }

  heard() {
    this.#last = performance.now();
  }

  rest() {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #look(socket) {
    const now = performance.now();
    // In a page that nobody sees timers may come once a minute: that is no sleep.
    const hidden = globalThis.document?.visibilityState === "hidden";
    const slept = now - this.#tick > SLEPT && !hidden && !this.#hidden;
    this.#hidden = hidden;
    this.#tick = now;
    this.#stuck = socket.bufferedAmount > STUCK_BYTES ? this.#stuck || now : 0;
    if (slept || (this.#stuck && now - this.#stuck >= STUCK)) return this.#dead();
    if (now - this.#last > QUIET && !this.#asking) this.#ask();
  }

  async #ask() {
    const timer = this.#timer;
    this.#asking = true;
    try {
      await this.#rest.intents(); // the lightest call: no database
      this.#last = performance.now();
    } catch (error) {
      if (error.status === 0 && timer === this.#timer) this.#dead();
    } finally {
      this.#asking = false;
    }
  }

  #dead() {
    this.rest();
    this.#onDead();
  }
}
