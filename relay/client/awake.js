// What a page may hold while somebody talks: the screen, and the right to the microphone.

const LOCK = "voice-relay-microphone";

/** Keeps the screen on while it is `on`, where the browser can. */
export class Screen {
  #on = false;
  /** @type {WakeLockSentinel | null} */
  #lock = null;
  #look = () => this.#ask(); // a page that was out of sight has lost it

  set on(on) {
    this.#on = on;
    if (on) document.addEventListener("visibilitychange", this.#look);
    else document.removeEventListener("visibilitychange", this.#look);
    this.#ask();
  }

  async #ask() {
    if (!this.#on) {
      await this.#lock?.release();
      this.#lock = null;
    } else if (document.visibilityState === "visible") {
      try {
        this.#lock = (await navigator.wakeLock?.request("screen")) ?? null;
      } catch {
        this.#lock = null; // the battery is low, or the page out of sight: talking works all the same
      }
    }
  }
}

/** One tab of this browser has the microphone. */
export class Turnstile {
  /** @type {((value?: unknown) => void) | null} */
  #release = null;
  #turn = 0; // which `take` counts

  /**
   * @param {boolean} steal take it from the tab that has it
   * @param {() => void} onStolen another tab took it from us
   * @returns {Promise<boolean>} whether it is ours
   */
  take(steal, onStolen) {
    if (this.#release || !navigator.locks) return Promise.resolve(true);
    const turn = ++this.#turn;
    return new Promise((resolve) => {
      const options = steal ? { steal: true } : { ifAvailable: true };
      const held = navigator.locks.request(LOCK, options, (lock) => {
        resolve(lock !== null);
        if (!lock || turn !== this.#turn) return null; // it was left meanwhile
        return new Promise((release) => (this.#release = release));
      });
      held.catch(() => {
        if (!this.#release) return resolve(true); // cookies are blocked: no lock is to be had
        this.#release = null;
        onStolen();
      });
    });
  }

  leave() {
    this.#turn += 1;
    this.#release?.();
    this.#release = null;
  }
}
