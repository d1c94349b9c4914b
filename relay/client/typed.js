// Typed turns on their way: each reaches the agent once, over however many WebSockets.

const REPLAY = 1500; // milliseconds after a return: what was heard before it has been told by then

export class Typed {
  #send;
  /** @type {{text: string, sent: boolean, resolve: () => void, reject: (error: Error) => void}[]} */
  #waiting = []; // oldest first
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {(text: string) => void} send */
  constructor(send) {
    this.#send = send;
  }

  /** @param {string} text @param {boolean} now there is a connection @returns {Promise<void>} */
  add(text, now) {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ text, sent: now, resolve, reject });
      if (now) this.#send(text);
    });
  }

  /** The agent says what the user said: with a typed turn that is its echo. */
  heard(content) {
    const index = this.#waiting.findIndex(({ text, sent }) => sent && text === content);
    if (index >= 0) this.#waiting.splice(index, 1)[0].resolve();
  }

  /** The relay did not pass on what was sent last. */
  refuse(problem) {
    const index = this.#waiting.findLastIndex(({ sent }) => sent);
    if (index >= 0) this.#waiting.splice(index, 1)[0].reject(problem);
  }

  /** These are stored. */
  settle(messages) {
    const said = messages.filter(({ role }) => role === "user").slice(-this.#waiting.length || 0);
    for (const { content } of said) if (this.#waiting.length) this.heard(content);
  }

  /** A connection is there. What was sent over one that broke may still be told: wait for it. */
  flush({ soon }) {
    clearTimeout(this.#timer);
    const send = (those) => {
      for (const one of this.#waiting.filter(those)) {
        one.sent = true;
        this.#send(one.text);
      }
    };
    const doubtful = new Set(this.#waiting.filter(({ sent }) => sent));
    send(({ sent }) => !sent);
    if (soon) this.#timer = setTimeout(() => send((one) => doubtful.has(one)), REPLAY);
  }

  reject(error) {
    clearTimeout(this.#timer);
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}
