// The connection to the relay: one voice session, kept alive over breaks of the network.
//
// There is no DOM and no audio API in here: a page of any framework feeds it microphone frames and
// plays what it hands out. docs/client.md shows how. It follows docs/protocol.md: re-attach with
// the newest resume ticket and the number of text messages received; when that session is over,
// another one in the same conversation.

import { pause, whatNext } from "./comeback.js";
import { Emitter } from "./emitter.js";
import { Floor } from "./floor.js";
import { Problem, Rest } from "./rest.js";
import { Typed } from "./typed.js";
import { Watchdog } from "./watchdog.js";

export { Problem, Rest };

const PROTOCOL = "relay.v1";
const HELD_BYTES = 256 * 1024; // microphone audio kept while there is no connection: 8 s at 16 kHz
const OPEN = 1; // of a WebSocket
const CLOSED = new Problem(0, "closed", "the session was closed");
const READY = new Set(["SettingsApplied", "RelayReconnected"]); // the agent listens
const REFUSED = new Set(["too_long", "too_often"]); // a typed turn that went nowhere
const RETURNS = 1; // refused returns until we no longer believe that the session lives
const FIRST_TRIES = 4; // to open the first WebSocket; after that we never give up on a network

/** Codes of limits: there are as many sessions as may be, and a person decides whether to wait. */
export const FULL = ["sessions", "user_sessions", "address_sessions", "agent_sessions"];

/**
 * @typedef {"closed" | "connecting" | "open" | "reconnecting" | "offline"} State
 * @typedef {import("./rest.js").StoredMessage} StoredMessage
 * @typedef {import("./events.js").SessionEvent} SessionEvent
 *
 * @typedef {object} Format
 * @property {string} encoding @property {number} sample_rate @property {string} [container]
 *
 * @typedef {{input: Format, output: Format}} Audio
 *
 * @typedef {object} Begun a session began: from now on its audio formats are known
 * @property {string} conversationId @property {Audio} audio
 * @property {StoredMessage[]} messages the newest stored ones of a resumed conversation, in order
 * @property {boolean} again the session before was lost, this one takes its place
 * @property {boolean} recorded what both sides say is recorded: the user has to be told
 *
 * @typedef {object} SessionEvents
 * @property {{state: State, problem: Problem | null}} state `problem` says why it closed, where
 *   something went wrong, or why a lost session waits
 * @property {Begun} begun
 * @property {SessionEvent} event every JSON event of docs/protocol.md, and of Deepgram
 * @property {ArrayBuffer} audio to be played: audio of a reply that was cut is left out
 * @property {undefined} silence stop playing, now: the user speaks
 * @property {undefined} gap something may have been missed: ask REST for messages and calls
 *
 * @typedef {object} Place the session that we are in
 * @property {string | null} conversationId
 * @property {string} id @property {string} url @property {string} ticket @property {Audio} audio
 * @property {number | null} received text messages; null: no WebSocket of it was open yet
 * @property {number} seq the highest that we know
 * @property {boolean} applied
 */

/** Before one is begun. */
const NOWHERE = /** @type {Place} */ ({ conversationId: null });

/** @extends {Emitter<SessionEvents>} */
export class Session extends Emitter {
  #rest;
  #wish;
  #WebSocket;
  #online;
  /** @type {State} */
  #state = "closed";
  /** @type {AbortController | null} */
  #run = null; // of the current opening
  /** @type {WebSocket | null} */
  #socket = null; // the one that counts; what older ones say is ignored
  /** @type {WebSocket[]} */
  #stale = []; // they may not be closed by us: that would say goodbye for the session
  #reports = true; // as long as the relay does not refuse it: an older one, or its policy
  #greeted = false; // RelaySession came over the current one
  #place = NOWHERE;
  #floor = new Floor();
  /** @type {ArrayBuffer[]} */
  #held = [];
  #heldBytes = 0;
  #typed = new Typed((text) => this.#send({ type: "InjectUserMessage", content: text }));
  #wake = () => {};
  #drop = () => {};
  #watchdog;

  /**
   * @param {object} [options]
   * @param {Rest} [options.rest]
   * @param {Partial<Audio>} [options.audio] what is wanted; what is left out is as in agent.yaml
   * @param {string} [options.timezone] an IANA name: which day it is for the user
   * @param {typeof globalThis.WebSocket} [options.WebSocket] for tests and for Node.js
   * @param {() => boolean} [options.online]
   */
  constructor({ rest, audio, timezone, WebSocket, online } = {}) {
    super();
    this.#rest = rest ?? new Rest();
    /** @type {Record<string, unknown>} */
    this.#wish = { audio, timezone };
    this.#WebSocket = WebSocket ?? globalThis.WebSocket;
    this.#online = online ?? (() => globalThis.navigator?.onLine !== false);
    this.#watchdog = new Watchdog(this.#rest, () => this.#drop());
  }

  get state() {
    return this.#state;
  }

  get turn() {
    return this.#floor.turn;
  }

  get conversationId() {
    return this.#place.conversationId;
  }

  get sessionId() {
    return this.#place.id ?? null;
  }

  get audio() {
    return this.#place.audio ?? null;
  }

  /** It may be opened in a moment. */
  expect() {
    if (!this.#run) this.#rest.expect();
  }

  /**
   * Talk, in a new conversation (null) or in a stored one. Resolves when the agent listens; rejects
   * with Problem.
   * @param {string | null} [conversationId] @returns {Promise<void>}
   */
  open(conversationId = null) {
    if (this.#run) throw new Error("the session is open: close it first");
    const { signal } = (this.#run = new AbortController());
    this.#place = { ...NOWHERE, conversationId };
    this.#floor.reset();
    this.#become("connecting");
    return new Promise((resolve, reject) => {
      this.#keep(signal, { resolve, reject });
    });
  }

  /** Hang up. The conversation stays. */
  close() {
    this.#stop("closed");
  }

  /**
   * One frame of the microphone, some 20 ms in the format of `audio.input`. Kept while the network
   * is gone, the newest 8 s.
   * @param {ArrayBuffer} frame
   */
  sendAudio(frame) {
    if (!this.#run) return;
    const socket = this.#open;
    if (socket) {
      if (socket.bufferedAmount < HELD_BYTES) socket.send(frame);
      return;
    }
    this.#held.push(frame);
    this.#heldBytes += frame.byteLength;
    while (this.#heldBytes > HELD_BYTES) this.#heldBytes -= this.#held.shift()?.byteLength ?? 0;
  }

  /**
   * A typed turn. Resolves when the agent has taken it; rejects with Problem.
   * @param {string} text @returns {Promise<void>}
   */
  type(text) {
    if (!this.#run) return Promise.reject(new Error("the session is not open"));
    return this.#typed.add(text, this.#open !== null);
  }

  /**
   * What the user says to a call that is `awaiting`. Raises Problem when there is no connection.
   * @param {string} id @param {boolean} wanted
   */
  decide(id, wanted) {
    if (!this.#open) throw new Problem(0, "network", "there is no connection");
    this.#send({ type: wanted ? "RelayConfirm" : "RelayCancel", id });
  }

  /**
   * How long the first audio of a reply took to be heard: for the figures of the relay, once a turn.
   * @param {number} seconds
   */
  playedOut(seconds) {
    if (this.#reports) this.#send({ type: "RelayPlayout", seconds: Number(seconds.toFixed(3)) });
  }

  /** The agent is to be silent until it has something new to say: the rest of its reply is dropped. */
  hush() {
    this.#floor.hush();
    this.tell("silence");
  }

  /**
   * Begin sessions with these from now on, by names that `Rest.choices` gives; "": the agent's own.
   * `record`: have what both sides say recorded, if the relay does that.
   * @param {{voice?: string, language?: string, record?: boolean}} wanted
   */
  prefer(wanted) {
    this.#wish = { ...this.#wish, ...wanted };
  }

  /** To be called on `online`, `offline` and `visibilitychange`: look at once what that means. */
  nudge() {
    if (!this.#run) return;
    if (!this.#online()) {
      if (this.#state === "open" || this.#state === "reconnecting") this.#become("offline");
      return;
    }
    // An address may have changed: the old connection can be dead without a word.
    if (this.#state === "offline") this.#drop();
    this.#wake();
  }

  /** The WebSocket; null also while it is closing: what is sent then would be lost. */
  get #open() {
    return this.#greeted && this.#socket?.readyState === OPEN ? this.#socket : null;
  }

  // --- one session after another, one WebSocket after another ------------------------------------

  async #keep(signal, opened) {
    let step = "begin";
    let failures = 0;
    let returns = 0;
    let once = false; // it has been open: from now on only the user or the relay ends it
    for (;;) {
      await this.#sleep(pause(failures));
      if (signal.aborted) return opened.reject(CLOSED);
      /** @type {Begun | null} */
      let begun = null;
      try {
        if (step === "ask") step = await this.#ask(returns);
        if (step === "begin") {
          begun = await this.#begin(signal);
          returns = 0;
        }
      } catch (error) {
        if (!(error instanceof Problem)) throw error; // a defect: not to be tried again
        failures += 1;
        const tomorrow = error.code === "daily_minutes";
        const hopeless =
          tomorrow || (error.status >= 400 && error.status < 500 && error.status !== 429);
        const lost = error.status === 0;
        const full = error.status === 429 || FULL.includes(error.code);
        if (hopeless || (!once && (lost || full || failures >= FIRST_TRIES))) {
          opened.reject(error);
          return this.#stop(error.code, error);
        }
        this.#becomeAway(once, full ? error : null);
        await this.#sleep((error.retryAfter ?? 0) * 1000);
        continue;
      }
      if (signal.aborted) continue;
      const ended = this.#connect(() => {
        failures = returns = 0;
        opened.resolve();
      });
      if (begun) this.tell("begun", begun); // what that takes, it takes while the WebSocket opens
      const end = await ended;
      once ||= end.greeted;
      if (signal.aborted) return opened.reject(CLOSED);
      const next = whatNext(end, failures);
      if (next.step === "stop" || (!once && failures + 1 >= FIRST_TRIES)) {
        const problem = new Problem(0, next.problem ?? "network", end.reason || `code ${end.code}`);
        opened.reject(problem);
        return this.#stop(problem.code, problem);
      }
      step = next.step;
      if (!end.greeted) {
        failures += 1;
        returns += 1;
      } else if (step === "begin") {
        failures += 1;
      }
      this.#becomeAway(once);
    }
  }

  /** @returns {Promise<Begun | null>} null: it was closed meanwhile */
  async #begin(signal) {
    const before = this.#place;
    const begun = await this.#rest.beginSession({
      ...(before.conversationId && { conversation_id: before.conversationId }),
      ...Object.fromEntries(Object.entries(this.#wish).filter(([, wanted]) => wanted)),
    });
    if (signal.aborted) return null;
    this.#place = {
      id: begun.session_id,
      conversationId: begun.conversation_id,
      url: begun.websocket_url,
      ticket: begun.ticket,
      audio: begun.audio,
      received: null, // no WebSocket of this session was open yet
      seq: begun.messages.at(-1)?.seq ?? 0, // the highest that we know
      applied: false,
    };
    this.#typed.settle(begun.messages);
    const again = before.id !== undefined;
    return { conversationId: begun.conversation_id, audio: begun.audio,
      messages: begun.messages, again, recorded: begun.recorded === true };
  }

  /** Does the session that would not take us back still live? A browser is not told why. */
  async #ask(returns) {
    if (this.#place.received === null || returns > RETURNS) return "begin";
    try {
      const { state } = await this.#rest.session(this.#place.id);
      return state === "live" ? "return" : "begin";
    } catch (error) {
      if (error.status === 404) return "begin";
      if (error.status >= 500) return "return"; // the database is away; a return needs none
      throw error;
    }
  }

  /** Open a WebSocket and serve it until it ends. `onWell` is called when the agent is there. */
  #connect(onWell) {
    const place = this.#place;
    const again = `?received=${place.received}&seq=${place.seq}`;
    const url = place.received === null ? place.url : place.url + again;
    return new Promise((resolve) => {
      const socket = new this.#WebSocket(url, [PROTOCOL, place.ticket]);
      let greeted = false;
      socket.binaryType = "arraybuffer";
      const end = (code, reason) => {
        if (this.#socket !== socket) return;
        this.#socket = null;
        this.#greeted = false;
        this.#watchdog.rest();
        resolve({ code, reason, greeted });
      };
      socket.onmessage = ({ data }) => {
        if (this.#socket !== socket) return;
        this.#watchdog.heard();
        if (typeof data !== "string") {
          if (this.#floor.audio()) this.tell("audio", data);
          return;
        }
        const event = JSON.parse(data);
        if (event.type === "RelaySession") {
          greeted = true;
          this.#greet(socket, event);
        } else {
          place.received = (place.received ?? 0) + 1;
        }
        if (!place.applied && READY.has(event.type)) {
          place.applied = true;
          this.#become("open");
        }
        if (place.applied) onWell();
        this.#hear(event);
      };
      socket.onclose = ({ code, reason }) => end(code, reason);
      this.#socket = socket;
      this.#drop = () => {
        if (this.#socket === socket) this.#stale.push(socket);
        end(1006, "given up");
      };
    });
  }

  #greet(socket, { resume_ticket: ticket, taken_over: takenOver = false }) {
    const place = this.#place;
    const first = place.received === null;
    if (first || takenOver) place.received = 0; // another relay counts anew
    place.ticket = ticket;
    this.#greeted = true;
    for (const old of this.#stale.splice(0)) old.close();
    // A ticket is used up, and the next one ours, when something arrives over this WebSocket.
    this.#send({ type: "KeepAlive" });
    for (const frame of this.#held.splice(0)) socket.send(frame);
    this.#heldBytes = 0;
    this.#typed.flush({ soon: !first });
    this.#watchdog.watch(socket);
    if (place.applied) this.#become("open");
    // What an earlier session said last may be stored only now; calls are told by REST alone.
    if (first || takenOver) this.tell("gap");
  }

  #hear(event) {
    if (event.type === "RelayMessageSaved") this.#place.seq = Math.max(this.#place.seq, event.seq);
    if (event.type === "RelayGoAway") this.#place.ticket = event.resume_ticket;
    if (event.type === "RelayReconnecting") this.#become("reconnecting");
    if (event.type === "RelayReconnected") this.#become("open");
    if (event.type === "RelayError" && event.code === "events_missed") this.tell("gap");
    if (event.type === "RelayError" && event.code === "not_allowed") this.#reports = false;
    if (event.type === "RelayError" && REFUSED.has(event.code)) {
      this.#typed.refuse(new Problem(0, event.code, event.detail));
    }
    if (event.type === "ConversationText" && event.role === "user") this.#typed.heard(event.content);
    if (this.#floor.handle(event)) this.tell("silence");
    this.tell("event", event);
  }

  #send(message) {
    this.#open?.send(JSON.stringify(message));
  }

  /** @param {string} why @param {Problem | null} [problem] */
  #stop(why, problem = null) {
    if (!this.#run) return;
    this.#run.abort();
    this.#run = null;
    const socket = this.#socket;
    socket?.close(1000);
    this.#drop();
    this.#held = [];
    this.#heldBytes = 0;
    for (const old of this.#stale.splice(0)) old.close();
    this.#typed.reject(problem ?? new Problem(0, why, "the session has ended"));
    this.#floor.reset();
    this.#become("closed", problem);
    this.#wake();
  }

  async #sleep(milliseconds) {
    if (!milliseconds) return;
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#wake = () => {
        clearTimeout(timer);
        resolve(null);
      };
    });
    this.#wake = () => {};
  }

  /** @param {boolean} once @param {Problem | null} [problem] */
  #becomeAway(once, problem = null) {
    this.#become(this.#online() ? (once ? "reconnecting" : "connecting") : "offline", problem);
  }

  /** @param {State} state @param {Problem | null} [problem] */
  #become(state, problem = null) {
    if (state === this.#state && !problem) return;
    this.#state = state;
    this.tell("state", { state, problem });
  }
}
