// How long the first audio of a reply takes to be heard, once it has come. Pure: seconds are an
// argument.

const LONGEST = 60; // docs/protocol.md; a machine that slept in between says nothing of play-out

export class Playout {
  #due = false; // the user's words are there, and no audio since
  /** @type {number | null} */
  #came = null; // the first audio since, and it is not heard yet

  /** An event of the session. @param {any} event */
  handle({ type, role, conversational_behavior: manner = "default" }) {
    if (type !== "ConversationText" || role !== "user" || manner !== "default") return;
    this.#due = true;
    this.#came = null;
  }

  /**
   * Audio came, and is about to be played; `playing`: other audio still is.
   * @param {boolean} playing @param {number} now
   */
  audio(playing, now) {
    // Behind other audio nobody can tell when it is heard.
    if (this.#due && !playing) this.#came = now;
    this.#due = false;
  }

  /** Sound comes out of the player. @param {number} now @returns {number | null} seconds, once */
  heard(now) {
    if (this.#came === null) return null;
    const seconds = now - this.#came;
    this.#came = null;
    return seconds <= LONGEST ? seconds : null;
  }

  /** What came will not be heard. */
  cut() {
    this.#came = null;
  }
}
