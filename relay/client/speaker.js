// The agent's voice: one audio context for the page, and the playback worklet in it.

/** The page's audio context with both worklets; to be asked for in the handler of a tap. */
export class Sound {
  #ready = null;
  context = null;

  /** @returns {Promise<AudioContext>} */
  open() {
    if (!this.#ready) {
      this.context = new AudioContext({ latencyHint: "interactive" });
      const add = (name) => this.context.audioWorklet.addModule(new URL(name, import.meta.url));
      this.#ready = Promise.all([add("capture.js"), add("playback.js")]);
    }
    // Browsers start it only on a tap, and phones stop it when a call comes in.
    const running = this.context.resume();
    return Promise.all([this.#ready, running]).then(() => this.context);
  }
}

export class Speaker {
  #node = null;
  playing = false;

  /** @param {(level: number, playing: boolean) => void} onLevel */
  constructor(onLevel) {
    this.onLevel = onLevel;
  }

  /** @param {AudioContext} context @param {number} rate samples a second of what will be played */
  start(context, rate) {
    this.stop();
    this.#node = new AudioWorkletNode(context, "playback", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { rate },
    });
    this.#node.port.onmessage = ({ data }) => {
      this.playing = data.playing;
      this.onLevel(data.level, data.playing);
    };
    this.#node.connect(context.destination);
  }

  /** @param {ArrayBuffer} audio linear16 at the rate of `start`; it is taken, not copied */
  play(audio) {
    this.#node?.port.postMessage(audio, [audio]);
  }

  /** Stop within a frame: the user speaks. */
  flush() {
    this.#node?.port.postMessage("flush");
  }

  stop() {
    this.#node?.port.postMessage("stop");
    this.#node?.disconnect();
    this.#node = null;
    this.playing = false;
  }
}
