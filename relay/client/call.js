// One live session as a person has it: the microphone, the voice and the connection together.

import { Screen, Turnstile } from "./awake.js";
import { Emitter } from "./emitter.js";
import { Microphone, MicrophoneError } from "./microphone.js";
import { OpusEncoder } from "./opus.js";
import { Playout } from "./playout.js";
import { Session } from "./session.js";
import { Sound, Speaker } from "./speaker.js";

const INPUT = { encoding: "linear16", sample_rate: 16_000 };
const OUTPUT = { encoding: "linear16", sample_rate: 24_000 };
const QUIET = 120_000; // milliseconds: a session without microphone is ended; typing begins another
const ASKED = 700; // milliseconds: a microphone that is not there by then waits for the user

/**
 * @typedef {import("./rest.js").Problem | MicrophoneError} Trouble
 * @typedef {"ready" | "connecting" | "listening" | "muted" | "thinking" | "speaking"
 *   | "reconnecting" | "paused" | "offline"} Word
 *
 * @typedef {object} CallEvents
 * @property {{problem?: Trouble | null, solved?: string[]}} change something is to be shown anew: a
 *   `problem` that has come up, the codes of those that are `solved`
 * @property {{side: "user" | "agent", level: number}} level how loud, 0 to 1
 * @property {import("./session.js").Begun} begun
 * @property {import("./session.js").SessionEvent} event
 * @property {undefined} gap something may have been missed: ask REST
 */

/**
 * Hands on `begun`, `event` and `gap` of its Session. Its errors are Problem and MicrophoneError.
 * @extends {Emitter<CallEvents>}
 */
export class Call extends Emitter {
  #sound = new Sound();
  #turnstile = new Turnstile();
  #screen = new Screen();
  #microphone = new Microphone(
    (audio, level) => this.#frame(audio, level),
    () => this.#lost(),
    (silent) => this.tell("change", silent ? trouble("mic-silent") : { solved: ["mic-silent"] }),
  );
  #speaker = new Speaker((level, playing) => this.#level("agent", level, playing));
  #playout = new Playout();
  /** @type {OpusEncoder | null} */
  #encoder = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #quiet;
  #talking = false;
  #heard = false; // the agent's voice
  #device = ""; // the microphone that is liked best
  #expect = () => this.session.expect();

  /** @param {{rest?: import("./rest.js").Rest, opus?: boolean}} [options] */
  constructor({ rest, opus = false } = {}) {
    super();
    const input = opus ? { encoding: "opus", sample_rate: INPUT.sample_rate } : INPUT;
    const timezone = Intl.DateTimeFormat().resolvedOptions().timeZone;
    this.session = new Session({ rest, timezone, audio: { input, output: OUTPUT } });
    const { session } = this;
    this.#sound.addEventListener("change", () => this.#soundChanged());
    session.on("audio", (audio) => {
      // What nobody can hear is not played later.
      if (this.#sound.state === "off") return;
      this.#playout.audio(this.#speaker.playing, seconds());
      this.#speaker.play(audio);
    });
    session.on("silence", () => {
      this.#playout.cut();
      this.#speaker.flush();
    });
    session.on("begun", (begun) => this.#begun(begun));
    session.on("gap", () => this.tell("gap"));
    session.on("event", (event) => {
      this.#postpone();
      this.#playout.handle(event);
      this.tell("event", event);
      this.tell("change", {});
    });
    session.on("state", ({ state, problem }) => {
      if (state === "closed") this.#release();
      this.tell("change", { problem });
    });
  }

  /** The microphone is on, or about to be. */
  get talking() {
    return this.#talking;
  }

  get live() {
    return this.session.state !== "closed";
  }

  get muted() {
    return this.#microphone.muted;
  }

  toggleMute() {
    this.#microphone.muted = !this.muted;
    this.tell("change", {});
  }

  /** From 0 to 1. @param {number} volume */
  set volume(volume) {
    this.#speaker.volume = volume;
  }

  /** The agent is to be silent, without being talked over. */
  hush() {
    this.session.hush();
    this.tell("change", {});
  }

  /** For what happens now. @returns {Word} */
  get word() {
    const { state, turn } = this.session;
    if (state === "closed") return globalThis.navigator?.onLine === false ? "offline" : "ready";
    if (state !== "open") return state;
    const sound = this.#sound.state;
    if (this.#talking && sound === "off") return "paused";
    if (this.#talking && !(sound === "on" && this.#microphone.isOn)) return "connecting";
    // Also while the network owes the next piece: that reply can be stopped, too.
    if ((this.#speaker.playing || turn === "speaking") && sound === "on") return "speaking";
    if (turn === "thinking") return "thinking";
    if (!this.#talking) return "ready";
    return this.muted ? "muted" : "listening";
  }

  /** Have ready what a tap will need, as far as nobody is asked and no session is begun for it. */
  prepare() {
    this.#sound.prepare();
    this.#microphone.prepare();
    document.addEventListener("pointerdown", this.#expect); // some 100 ms before it is a tap
  }

  /**
   * Ask for the microphone and talk. Raises MicrophoneError or Problem.
   * @param {string | null} [conversationId] null: a new one
   * @param {{steal?: boolean}} [how] take the microphone from the tab that has it
   */
  async talk(conversationId = null, { steal = false } = {}) {
    const wasTalking = this.#talking;
    /** @type {Promise<void> | null} */
    let opened = null;
    const sound = this.#sound.open(); // now: later it is no tap any more
    const asked = this.#ask();
    try {
      // A session, and an agent that costs money, are for who will talk: where the user has to be
      // asked first they wait for the answer. Where not, nothing waits for anything.
      if (!this.#microphone.isAllowed) await asked;
      // Only now: a tab that still asks the user is not talking.
      const free = this.#turnstile.take(steal, () => this.#stolen());
      this.#talking = true;
      this.#screen.on = true;
      this.tell("change", {});
      if (!this.live) opened = this.session.open(conversationId);
      await Promise.all([opened, this.#mustBe(free), asked.then(() => this.#hearUser(sound))]);
    } catch (error) {
      if (error.code !== "superseded") { // else a later tap has taken care of everything
        if (opened) this.session.close();
        if (!this.live) this.#release();
        else if (!wasTalking) this.#quieten();
      }
      throw error;
    }
  }

  /** This tab's turn. @param {Promise<boolean>} free */
  async #mustBe(free) {
    if (!(await free)) throw new MicrophoneError("mic-elsewhere");
  }

  /** The microphone is there. @param {Promise<AudioContext | null>} sound */
  async #hearUser(sound) {
    const context = await sound;
    if (!context) throw new MicrophoneError("sound-none");
    this.tell("change", {});
    if (this.#talking && this.session.audio) this.#listen(context); // else `begun` is still to come
  }

  async #ask() {
    const asked = setTimeout(() => this.tell("change", trouble("mic-asked")), ASKED);
    try {
      await this.#microphone.ask(this.#device);
    } finally {
      clearTimeout(asked);
      this.tell("change", { solved: ["mic-asked"] });
    }
  }

  /**
   * Which devices are liked best; "" is the browser's choice. Raises MicrophoneError.
   * @param {{microphone: string, speaker: string}} wanted their ids
   */
  async use({ microphone, speaker }) {
    this.#sound.playOn(speaker);
    if (microphone === this.#device) return;
    this.#device = microphone;
    if (!this.#talking) return;
    const { muted } = this;
    this.#microphone.stop();
    try {
      await this.#ask();
    } catch (error) {
      this.#quieten();
      throw error;
    }
    this.#microphone.muted = muted;
    this.#listen(this.#sound.context);
  }

  /** The user has tapped somewhere: sound that has stopped may go on. */
  wake() {
    if (this.live && this.#sound.state === "off") this.#sound.open();
  }

  /**
   * A typed turn. Raises Problem when it did not arrive.
   * @param {string} text @param {string | null} [conversationId]
   */
  async type(text, conversationId = null) {
    this.#sound.open(); // who types does not wait for it
    if (!this.live) this.session.open(conversationId).catch(() => {}); // `type` tells it, too
    this.#postpone();
    await this.session.type(text);
  }

  /**
   * The user's word on a call that waits for it. Raises Problem when it did not go out.
   * @param {string} id @param {boolean} wanted @param {string | null} [conversationId]
   */
  async decide(id, wanted, conversationId = null) {
    await this.#sound.open(); // the agent of a new session may speak
    if (!this.live) await this.session.open(conversationId);
    this.#postpone();
    this.session.decide(id, wanted);
  }

  stop() {
    this.session.close();
    this.#release();
  }

  /** It is not needed any more: the audio context goes, too. `talk` and `type` begin anew. */
  close() {
    this.stop();
    this.#sound.close();
    document.removeEventListener("pointerdown", this.#expect);
  }

  #begun(begun) {
    this.#sound.open().then((context) => {
      if (!context || !this.live || this.session.audio !== begun.audio) return;
      this.#speaker.start(context, begun.audio.output.sample_rate);
      if (this.#talking) this.#listen(context);
    });
    this.tell("begun", begun);
  }

  #soundChanged() {
    const { state, ran } = this.#sound;
    if (state === "on") this.tell("change", { solved: ["sound-none", "sound-stopped"] });
    else if (this.live) this.tell("change", trouble(ran ? "sound-stopped" : "sound-none"));
  }

  /** Unplugged, or not allowed any more: the session goes on as a typed one. */
  #lost() {
    this.#quieten();
    this.tell("change", trouble("mic-lost"));
  }

  #listen(context) {
    if (!this.#microphone.isOn) return; // it is still asked for
    const audio = /** @type {import("./session.js").Audio} */ (this.session.audio);
    const { encoding, sample_rate: rate } = audio.input;
    this.#encoder?.close();
    this.#encoder =
      encoding === "opus" ? new OpusEncoder(rate, (packet) => this.session.sendAudio(packet)) : null;
    this.#microphone.start(context, rate);
  }

  #frame(audio, level) {
    if (this.#encoder) this.#encoder.feed(audio);
    else this.session.sendAudio(audio);
    this.#level("user", level);
  }

  #level(side, level, playing) {
    this.tell("level", { side, level });
    if (side === "user" || playing === this.#heard) return;
    this.#heard = playing;
    const waited = playing ? this.#playout.heard(seconds()) : null;
    // Without the way from the player to the ear: Firefox hangs when it is asked for
    // `outputLatency` and has no sound output.
    if (waited !== null) this.session.playedOut(waited);
    this.tell("change", {});
  }

  #stolen() {
    this.stop();
    this.tell("change", trouble("mic-taken"));
  }

  #postpone() {
    clearTimeout(this.#quiet);
    if (!this.#talking) this.#quiet = setTimeout(() => this.#talking || this.stop(), QUIET);
  }

  #release() {
    this.#quieten();
    clearTimeout(this.#quiet);
    this.#speaker.stop();
    this.tell("change", {});
  }

  /** No microphone any more. */
  #quieten() {
    this.#talking = false;
    this.#microphone.stop();
    this.#encoder?.close();
    this.#encoder = null;
    this.#turnstile.leave();
    this.#screen.on = false;
    this.#postpone();
  }
}

function seconds() {
  return performance.now() / 1000;
}

function trouble(code) {
  return { problem: new MicrophoneError(code) };
}
