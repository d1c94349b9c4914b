// Where the time of the last turn went, as the user has it. Pure: seconds are an argument.

const LOUD = 0.02; // root mean square: above it somebody speaks into the microphone

/**
 * @typedef {object} Spent seconds: from when the user stopped until the words were there, from then
 *   until the answer was, from then until it was heard; and in all
 * @property {number} words @property {number} answer @property {number} voice @property {number} all
 */

export class Latency {
  #onSpent;
  #stopped = null; // when the user did
  #typed = false;
  #silent = true; // the agent
  #turn = null; // {stopped, words, answer}, as far as it has come

  /** @param {(spent: Spent) => void} onSpent when a turn is answered aloud */
  constructor(onSpent) {
    this.#onSpent = onSpent;
  }

  /** The user has sent a typed turn. */
  typed(now) {
    this.#stopped = now;
    this.#typed = true;
  }

  /** How loud a side is. */
  level(side, level, now) {
    if (side === "user") {
      if (level > LOUD && !this.#typed) this.#stopped = now;
      return;
    }
    if (level && this.#silent && this.#turn?.answer) this.#heard(now);
    this.#silent = !level;
  }

  /** An event of the session. */
  handle({ type, role }, now) {
    if (type === "UserStartedSpeaking") this.#turn = null;
    if (type !== "ConversationText") return;
    if (role === "user") {
      this.#turn = { stopped: this.#stopped ?? now, words: now };
      this.#typed = false;
    } else if (this.#turn) {
      this.#turn.answer ??= now;
    }
  }

  #heard(now) {
    const { stopped, words, answer } = this.#turn;
    this.#turn = null;
    this.#onSpent({ words: words - stopped, answer: answer - words, voice: now - answer, all: now - stopped });
  }
}
