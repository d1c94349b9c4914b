// The microphone: asked for when needed, handed out as 20 ms frames of the session's format.

const WANTED = {
  audio: {
    channelCount: 1,
    echoCancellation: true, // or the agent hears itself and is interrupted by itself
    noiseSuppression: true,
    autoGainControl: true,
  },
};

// What a browser says when there is no microphone for us, as words of words.js.
const REFUSALS = {
  NotAllowedError: "mic-refused",
  SecurityError: "mic-refused",
  NotFoundError: "mic-missing",
  OverconstrainedError: "mic-missing",
  NotReadableError: "mic-busy",
  AbortError: "mic-busy",
};

/** `code` is a word of words.js. */
export class MicrophoneError extends Error {
  constructor(code, cause) {
    super(code, { cause });
    this.code = code;
  }
}

export class Microphone {
  #stream = null;
  #source = null;
  #node = null;
  #muted = false;

  /** @param {(audio: ArrayBuffer, level: number) => void} onFrame @param {() => void} onLost */
  constructor(onFrame, onLost) {
    this.onFrame = onFrame;
    this.onLost = onLost;
  }

  /** Ask for it, now: the user has just tapped. Raises MicrophoneError. */
  async ask() {
    if (this.#stream) return;
    if (!navigator.mediaDevices?.getUserMedia) throw new MicrophoneError("mic-insecure");
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia(WANTED);
    } catch (error) {
      throw new MicrophoneError(REFUSALS[error.name] ?? "mic-missing", error);
    }
    for (const track of this.#stream.getAudioTracks()) track.onended = () => this.onLost();
  }

  /** Frames from now on. @param {AudioContext} context @param {number} rate samples a second */
  start(context, rate) {
    if (!this.#stream) return;
    this.#node?.port.postMessage({ stop: true });
    this.#source?.disconnect();
    this.#source = context.createMediaStreamSource(this.#stream);
    this.#node = new AudioWorkletNode(context, "capture", {
      numberOfOutputs: 0,
      channelCount: 1,
      channelCountMode: "explicit",
      processorOptions: { rate },
    });
    this.#node.port.onmessage = ({ data }) => this.onFrame(data.audio, data.level);
    this.#node.port.postMessage({ muted: this.#muted });
    this.#source.connect(this.#node);
  }

  get muted() {
    return this.#muted;
  }

  /** Silence instead of sound: the frames go on, so that the agent notices the end of a turn. */
  set muted(muted) {
    this.#muted = muted;
    this.#node?.port.postMessage({ muted });
  }

  stop() {
    this.#source?.disconnect();
    this.#node?.port.postMessage({ stop: true });
    for (const track of this.#stream?.getTracks() ?? []) {
      track.onended = null;
      track.stop();
    }
    this.#stream = this.#source = this.#node = null;
    this.#muted = false;
  }
}
