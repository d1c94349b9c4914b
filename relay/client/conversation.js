// One conversation as an application shows it: what was said, what happens now, what can be done.

import { Call } from "./call.js";
import { Emitter } from "./emitter.js";
import { canChooseSpeaker, listDevices } from "./media_devices.js";
import { Pending } from "./pending.js";
import { FULL, Problem, Rest } from "./session.js";
import { Transcript } from "./transcript.js";

const LATE = [1000, 2000, 4000, 8000]; // milliseconds: what a card knows is stored a moment later
const NO_PROBLEM = new Set(["ended", "closed", "superseded"]); // it just ended

/**
 * @typedef {import("./transcript.js").Bubble} Bubble
 * @typedef {import("./transcript.js").Card} Card
 *
 * @typedef {object} Devices those with a name: before the microphone was allowed there are none
 * @property {{id: string, name: string}[]} microphones
 * @property {{id: string, name: string}[]} speakers none where a page may not choose
 * @property {string} microphone the chosen one; "" is the browser's choice, as it is while the
 *   chosen one is not connected
 * @property {string} speaker
 *
 * @typedef {object} View what is to be shown; another object whenever anything in it is another
 * @property {string | null} id of the conversation; null: it is a new one
 * @property {import("./session.js").State} state of the connection
 * @property {import("./call.js").Word} word for what happens now
 * @property {boolean} live there is a session
 * @property {boolean} talking the microphone is on
 * @property {boolean} muted
 * @property {boolean} recorded what both sides say is recorded now: tell the user
 * @property {boolean} loading what is stored is being read
 * @property {(Bubble | Card)[]} items in the order of the conversation; the same array until one of
 *   them is another
 * @property {Card[]} cards those of the items that are function calls
 * @property {{code: string, status?: number, retryAfter?: number | null} | null} problem the one
 *   that counts now; `describe` of words.js puts it into words
 * @property {Devices} devices
 * @property {number} volume of the agent's voice, 0 to 1
 *
 * @typedef {object} ConversationOptions
 * @property {string} [url] where the API is: "/api/v1/voice", or that of a relay elsewhere
 * @property {import("./rest.js").RestOptions["getToken"]} [getToken] a bearer token, asked for
 *   before each request
 * @property {(problem: Problem) => void} [onSignedOut] that token is taken no more (401)
 * @property {Rest} [rest] instead of the three above
 * @property {boolean} [opus] speak Opus, where `hasOpus` says that the browser can
 *
 * @typedef {object} ConversationEvents
 * @property {undefined} change `view` is another one
 * @property {{side: "user" | "agent", level: number}} level how loud, 0 to 1, 25 times a second
 * @property {import("./session.js").Begun} begun a session began; `view.id` is its conversation
 * @property {import("./events.js").SessionEvent} event every event of a live session
 */

/**
 * What is done here never rejects for what may happen in the world: it resolves to whether it went
 * well, and `view.problem` says what did not.
 * @extends {Emitter<ConversationEvents>}
 */
export class Conversation extends Emitter {
  /**
   * REST, for what is around a conversation: the list of them, renaming, erasing, export.
   * @type {Rest}
   */
  rest;
  #call;
  #transcript = new Transcript();
  #pending = new Pending(() => this.#lookAtCalls());
  /** @type {View["items"]} */
  #items = [];
  /** @type {string | null} */
  #id = null;
  #turns = 0; // to another conversation
  /** @type {View["problem"]} */
  #problem = null;
  #loading = false;
  /** @type {Devices} */
  #devices = { microphones: [], speakers: [], microphone: "", speaker: "" };
  #recorded = false; // the session, or the last one
  #volume = 1;
  /** @type {View | null} */
  #view = null; // null: to be made
  /** @type {(() => void) | null} */
  #leave = null; // stop to listen to the page
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #closing;

  /** Nothing of a browser is touched until `mount`. @param {ConversationOptions} [options] */
  constructor({ rest, url, getToken, onSignedOut, opus } = {}) {
    super();
    this.rest = rest ?? new Rest({ url, getToken, onSignedOut });
    this.#call = new Call({ rest: this.rest, opus });
    this.#transcript.addEventListener("change", () => {
      this.#items = this.#transcript.items().map(copy);
      this.#pending.show(this.#items);
      this.#changed();
    });
    this.#call.on("change", ({ problem, solved = [] }) => this.#told(problem ?? null, solved));
    this.#call.on("level", (level) => this.tell("level", level));
    this.#call.on("gap", () => this.#catchUp());
    this.#call.on("begun", (begun) => {
      this.#id = begun.conversationId;
      this.#recorded = begun.recorded;
      this.#changed();
      this.#transcript.merge(begun.messages);
      this.#lookForDevices(); // they have names now
      this.tell("begun", begun);
    });
    this.#call.on("event", (event) => {
      this.#transcript.handle(event, new Date().toISOString());
      if (event.type === "RelayNotice") this.#told(new Problem(0, `ends-${event.code}`), []);
      if (event.type === "UserStartedSpeaking") this.#told(null, ["ends-idle"]);
      this.tell("event", event);
    });
  }

  /** @returns {View} */
  get view() {
    if (this.#view) return this.#view;
    const { word, live, talking, muted, session } = this.#call;
    this.#view = {
      id: this.#id,
      state: session.state,
      word,
      live,
      talking,
      muted,
      recorded: live && this.#recorded,
      loading: this.#loading,
      items: this.#items,
      cards: this.#items.filter((item) => item.kind === "card"),
      problem: this.#problem,
      devices: this.#devices,
      volume: this.#volume,
    };
    return this.#view;
  }

  /**
   * The page is there: from now on it is told of the network, of taps and of devices. What comes
   * back hangs up, a moment later: a page that is mounted again at once, as React's StrictMode and
   * hot reload do it, keeps its session.
   * @returns {() => void}
   */
  mount() {
    clearTimeout(this.#closing);
    this.#leave ??= this.#hear();
    this.#call.prepare();
    this.#pending.show(this.#items);
    this.#lookForDevices();
    return () => {
      this.#closing = setTimeout(() => {
        this.#leave?.();
        this.#leave = null;
        this.#pending.show([]);
        this.#call.close();
      });
    };
  }

  /** Show a stored conversation, or a new one (null). @param {string | null} [id] */
  async open(id = null) {
    if (id === this.#id) return true;
    if (this.#call.live) this.#call.stop();
    this.#id = id;
    this.#turns += 1;
    this.#transcript.clear();
    return this.look();
  }

  /** Read once more what is stored of it. */
  async look() {
    const id = this.#id;
    this.#loading = id !== null;
    const read = await this.#attempt(async () => {
      if (id !== null) await this.#read(id, 0);
    });
    if (id === this.#id) {
      this.#loading = false;
      this.#changed();
    }
    return read;
  }

  /** The microphone on; to be called in the handler of a tap. */
  talk() {
    return this.#attempt(() => this.#call.talk(this.#id));
  }

  /** The same, taken from the tab or the device that has it: after "mic-elsewhere", "elsewhere". */
  talkHere() {
    return this.#attempt(() => this.#call.talk(this.#id, { steal: true }));
  }

  /** Hang up. The conversation stays, and `talk` and `type` go on in it. */
  stop() {
    this.#call.stop();
  }

  /** A typed turn; false: it did not arrive, and is not shown any more. @param {string} text */
  type(text) {
    this.#transcript.typed(text, new Date().toISOString());
    return this.#attempt(async () => {
      try {
        await this.#call.type(text, this.#id);
      } catch (error) {
        this.#transcript.untyped(text);
        throw error;
      }
    });
  }

  toggleMute() {
    this.#call.toggleMute();
  }

  /** The agent is to be silent, without being talked over. */
  hush() {
    this.#call.hush();
  }

  /** The user's word on a card that is `awaiting`. @param {string} key @param {boolean} wanted */
  async decide(key, wanted) {
    const went = await this.#attempt(() => this.#call.decide(key, wanted, this.#id));
    if (!went) await this.#catchUp(); // it may be over already
    return went;
  }

  /** Submit a card that `failed` once more. @param {string} key */
  retry(key) {
    const id = this.#id;
    return this.#attempt(async () => {
      if (id === null) return;
      for (const pause of LATE) {
        const found = (await this.rest.calls(id)).find((call) => call.id === key);
        if (found?.status === "failed") {
          const submitted = await this.rest.retry(id, key);
          if (id === this.#id) this.#transcript.merge([], [submitted]);
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, pause));
      }
    });
  }

  /** Talk into and hear from these, by their ids. @param {Partial<Devices>} wanted */
  choose(wanted) {
    this.#devices = { ...this.#devices, ...wanted };
    return this.#attempt(() => this.#use());
  }

  /** Of the agent's voice. @param {number} volume from 0 to 1 */
  setVolume(volume) {
    this.#call.volume = this.#volume = volume;
    this.#changed();
  }

  /**
   * Begin sessions with these from now on, by names that `rest.choices()` gives; "": the agent's
   * own. `record`: have what both sides say recorded, if the relay does that.
   * @param {{voice?: string, language?: string, record?: boolean}} wanted
   */
  prefer(wanted) {
    this.#call.session.prefer(wanted);
  }

  /** The user has tapped somewhere: sound that has stopped may go on. */
  wake() {
    this.#call.wake();
  }

  /** Whether it went well. A defect of ours is thrown. @param {() => Promise<void>} work */
  async #attempt(work) {
    const turns = this.#turns;
    this.#problem = null;
    this.#changed();
    try {
      await work();
      return true;
    } catch (error) {
      const { code } = /** @type {{code?: string}} */ (error);
      if (code === undefined) throw error;
      // Of a conversation that is not shown any more nobody wants to know.
      if (turns === this.#turns || this.#call.live) this.#told(/** @type {Problem} */ (error), []);
      return false;
    }
  }

  /** @param {import("./call.js").Trouble | null} problem @param {string[]} solved codes */
  #told(problem, solved) {
    const over = this.#call.session.state === "open" ? [...solved, ...FULL] : solved;
    if (this.#problem && over.includes(this.#problem.code)) this.#problem = null;
    if (problem && !NO_PROBLEM.has(problem.code)) this.#problem = problem;
    this.#changed();
  }

  /** @param {string} id @param {number} afterSeq */
  async #read(id, afterSeq) {
    const { rest } = this;
    const [messages, calls] = await Promise.all([rest.messages(id, afterSeq), rest.calls(id)]);
    if (id === this.#id) this.#transcript.merge(messages, calls);
  }

  /** What was said while we were away. It comes again with the next gap if this fails. */
  async #catchUp() {
    if (this.#id !== null) await quietly(this.#read(this.#id, this.#transcript.seq));
  }

  async #lookAtCalls() {
    const id = this.#id;
    if (id === null) return;
    const calls = await quietly(this.rest.calls(id));
    if (id === this.#id && calls) this.#transcript.merge([], calls);
  }

  async #lookForDevices() {
    const found = await listDevices();
    /** @param {string} kind */
    const those = (kind) =>
      found
        .filter((device) => device.kind === kind)
        .map(({ deviceId, label }) => ({ id: deviceId, name: label }));
    this.#devices = {
      ...this.#devices,
      microphones: those("audioinput"),
      speakers: canChooseSpeaker ? those("audiooutput") : [],
    };
    this.#changed();
    this.#use();
  }

  /** The chosen ones, as far as they are there: what is gone may come back. */
  #use() {
    const { microphone, speaker, speakers } = this.#devices;
    const here = speakers.some(({ id }) => id === speaker);
    return this.#call.use({ microphone, speaker: here ? speaker : "" });
  }

  #hear() {
    const away = new AbortController();
    const { signal } = away;
    const nudge = () => {
      this.#call.session.nudge();
      this.#changed();
    };
    for (const type of ["online", "offline"]) addEventListener(type, nudge, { signal });
    addEventListener("online", () => this.#told(null, ["network"]), { signal });
    document.addEventListener("visibilitychange", nudge, { signal });
    for (const type of ["click", "keydown"]) {
      document.addEventListener(type, () => this.wake(), { signal });
    }
    const look = () => this.#lookForDevices();
    navigator.mediaDevices?.addEventListener("devicechange", look, { signal });
    return () => away.abort();
  }

  #changed() {
    this.#view = null;
    this.tell("change");
  }
}

/** Nothing where the world is in the way: it is asked again. @template T @param {Promise<T>} asked */
async function quietly(asked) {
  try {
    return await asked;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
  }
}

/** The transcript goes on to change its own. @param {Bubble | Card} item */
function copy(item) {
  return item.kind === "card" ? { ...item } : { ...item, lines: item.lines.map((one) => ({ ...one })) };
}
