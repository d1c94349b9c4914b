// The agent's voice: one audio context for the page, and the playback worklet in it.

const PATIENCE = 2000; // milliseconds: an output that has not started by then is none
const LEAD = 0.08; // seconds kept ahead where there is no worklet

/**
 * The page's audio context with the worklet. It tells `change`. `state` is "starting", "on", or
 * "off": nothing is heard, and nothing recorded. A browser without an output device never starts
 * it, and a call that comes in on a phone stops it.
 */
export class Sound extends EventTarget {
  /** @type {Promise<AudioContext | null> | null} */
  #ready = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #sink = "";
  #watch = () => this.#look();
  /** @type {AudioContext | null} */
  context = null;
  /** @type {"starting" | "on" | "off"} */
  state = "starting";
  ran = false; // it was on before

  /** Have the worklet loaded before it is needed. Nothing is heard of it, and nobody is asked. */
  prepare() {
    if (this.context) return;
    try {
      this.context = this.#make();
      // A browser that lets this page begin by itself would keep the device busy for nobody.
      this.context.suspend().catch(() => {});
      this.#ready ??= this.#load();
    } catch {
      this.context = null; // there is no sound: `open` says so
    }
  }

  /**
   * Begin; to be called in the handler of a tap: later it is none any more. Nobody waits for the
   * sound itself, only for the worklet.
   * @returns {Promise<AudioContext | null>} null: this browser has no sound for us
   */
  open() {
    if (this.context?.state !== "running") {
      this.state = "starting";
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#look(true), PATIENCE);
    }
    try {
      this.context ??= this.#make();
      this.context.addEventListener("statechange", this.#watch);
      this.context.resume().catch(() => {}); // it stays off: that is told
    } catch {
      this.context = null;
    }
    if (this.context) this.#look();
    return (this.#ready ??= this.#load());
  }

  /** Where it is heard, where a browser lets us choose: "" is its own choice. */
  async playOn(sink) {
    this.#sink = sink;
    try {
      await playOn(this.context, sink);
    } catch {
      if (sink) await this.playOn(""); // that one has gone
    }
  }

  /** It is not needed any more; `open` makes another one. */
  close() {
    clearTimeout(this.#timer);
    const { context } = this;
    this.context = this.#ready = null;
    this.state = "starting";
    this.ran = false;
    context?.removeEventListener("statechange", this.#watch);
    context?.close().catch(() => {});
  }

  #make() {
    const context = new AudioContext({ latencyHint: "interactive" });
    if (this.#sink) playOn(context, this.#sink)?.catch(() => {});
    return context;
  }

  async #load() {
    const context = /** @type {AudioContext} */ (this.context);
    try {
      // Written like this, bundlers find the file.
      await context.audioWorklet?.addModule(new URL("./worklet.js", import.meta.url));
      return context;
    } catch {
      // The next one who asks tries again, with another: this one remembers that it failed.
      this.context = this.#ready = null;
      context.close().catch(() => {});
      return null;
    }
  }

  #look(late = false) {
    const running = this.context?.state === "running";
    this.ran ||= running;
    const state = running ? "on" : this.ran || late ? "off" : "starting";
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }
}

/** Not every browser has it. @param {any} context @param {string} sink */
function playOn(context, sink) {
  return context?.setSinkId?.(sink);
}

export class Speaker {
  /** @type {Worklet | Pieces | null} */
  #player = null;
  /** @type {ArrayBuffer[]} */
  #early = []; // what came before the worklet was there
  /** @type {GainNode | null} */
  #output = null;
  #volume = 1;
  playing = false;

  /** @param {(level: number, playing: boolean) => void} onLevel */
  constructor(onLevel) {
    this.onLevel = onLevel;
  }

  /** @param {AudioContext} context @param {number} rate samples a second of what will be played */
  start(context, rate) {
    this.stop({ early: false });
    const output = new GainNode(context, { gain: this.#volume });
    output.connect(context.destination);
    this.#output = output;
    const Player = context.audioWorklet ? Worklet : Pieces;
    this.#player = new Player(output, rate, (level, playing) => {
      this.playing = playing;
      this.onLevel(level, playing);
    });
    for (const audio of this.#early.splice(0)) this.#player.play(audio);
  }

  /** @param {ArrayBuffer} audio linear16 at the rate of `start`; it is taken, not copied */
  play(audio) {
    if (this.#player) this.#player.play(audio);
    else this.#early.push(audio);
  }

  set volume(volume) {
    this.#volume = volume;
    if (this.#output) this.#output.gain.value = volume;
  }

  /** Stop within a frame: the user speaks. */
  flush() {
    this.#early = [];
    this.#player?.flush();
  }

  stop({ early = true } = {}) {
    if (early) this.#early = [];
    this.#player?.stop();
    this.#output?.disconnect();
    this.#player = this.#output = null;
    this.playing = false;
  }
}

class Worklet {
  #node;

  constructor(output, rate, onLevel) {
    this.#node = new AudioWorkletNode(output.context, "playback", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { rate },
    });
    this.#node.port.onmessage = ({ data }) => onLevel(data.level, data.playing);
    this.#node.connect(output);
  }

  play(audio) {
    this.#node.port.postMessage(audio, [audio]);
  }

  flush() {
    this.#node.port.postMessage("flush");
  }

  stop() {
    this.#node.port.onmessage = null;
    this.#node.port.postMessage("stop");
    this.#node.disconnect();
  }
}

/** Browsers have worklets only over https; over plain http each piece is played by itself. */
class Pieces {
  #output;
  #rate;
  #onLevel;
  #sources = new Set();
  #end = 0;

  constructor(output, rate, onLevel) {
    this.#output = output;
    this.#rate = rate;
    this.#onLevel = onLevel;
  }

  play(audio) {
    const whole = new Int16Array(audio, 0, audio.byteLength >> 1);
    if (!whole.length) return;
    const samples = Float32Array.from(whole, (value) => value / 32768);
    const { context } = this.#output;
    const buffer = context.createBuffer(1, samples.length, this.#rate);
    buffer.copyToChannel(samples, 0);
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.#output);
    source.onended = () => this.#over(source);
    this.#end = Math.max(this.#end, context.currentTime + LEAD);
    source.start(this.#end);
    this.#end += buffer.duration;
    this.#sources.add(source);
    const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
    this.#onLevel(Math.sqrt(power), true);
  }

  flush() {
    for (const source of this.#sources) source.stop();
    this.#end = 0;
  }

  stop() {
    this.#onLevel = () => {};
    this.flush();
  }

  #over(source) {
    this.#sources.delete(source);
    if (!this.#sources.size) this.#onLevel(0, false);
  }
}
