// The microphone: asked for when needed, handed out as 20 ms frames of the session's format.

const WANTED = {
  channelCount: 1,
  echoCancellation: true, // or the agent hears itself and is interrupted by itself
  noiseSuppression: true,
  autoGainControl: true,
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
  /** @param {string} code @param {unknown} [cause] */
  constructor(code, cause) {
    super(code, { cause });
    this.code = code;
  }
}

export class Microphone {
  /** @type {MediaStream | null} */
  #stream = null;
  /** @type {MediaStreamAudioSourceNode | null} */
  #source = null;
  /** @type {AudioWorkletNode | null} */
  #node = null;
  #muted = false;
  #asks = 0;
  /** @type {PermissionStatus | null} */
  #permission = null;

  /**
   * @param {(audio: ArrayBuffer, level: number) => void} onFrame
   * @param {() => void} onLost unplugged, or not allowed any more
   * @param {(silent: boolean) => void} onSilent the system gives silence, or sound again
   */
  constructor(onFrame, onLost, onSilent) {
    this.onFrame = onFrame;
    this.onLost = onLost;
    this.onSilent = onSilent;
  }

  /** Look whether the user has allowed it; that asks nobody. */
  async prepare() {
    const microphone = /** @type {PermissionDescriptor} */ ({ name: "microphone" });
    try {
      this.#permission = await navigator.permissions.query(microphone);
    } catch {
      // This browser does not tell.
    }
  }

  /** `ask` asks nobody: the user has allowed it before. False where that is not known. */
  get isAllowed() {
    return this.#permission?.state === "granted";
  }

  /** There is one: `ask` went well. */
  get isOn() {
    return this.#stream !== null;
  }

  /**
   * Ask for it, now: the user has just tapped. Raises MicrophoneError, "superseded" when `stop` or
   * another `ask` came before the user's answer.
   * @param {string} [device] the id of the one that is liked best
   */
  async ask(device = "") {
    if (this.#stream) return;
    if (!navigator.mediaDevices?.getUserMedia) throw new MicrophoneError("mic-insecure");
    const asked = ++this.#asks;
    let stream;
    try {
      stream = await open(device);
    } catch (error) {
      if (asked !== this.#asks) throw new MicrophoneError("superseded");
      throw new MicrophoneError(REFUSALS[error.name] ?? "mic-missing", error);
    }
    if (asked !== this.#asks) {
      for (const track of stream.getTracks()) track.stop();
      throw new MicrophoneError("superseded");
    }
    this.#stream = stream;
    for (const track of stream.getAudioTracks()) {
      track.onended = () => this.onLost();
      track.onmute = () => this.onSilent(true);
      track.onunmute = () => this.onSilent(false);
    }
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
    this.#asks += 1;
    this.#source?.disconnect();
    this.#node?.port.postMessage({ stop: true });
    for (const track of this.#stream?.getTracks() ?? []) {
      track.onended = track.onmute = track.onunmute = null;
      track.stop();
    }
    this.#stream = this.#source = this.#node = null;
    this.#muted = false;
  }
}

async function open(device) {
  const ask = (more) => navigator.mediaDevices.getUserMedia({ audio: { ...WANTED, ...more } });
  if (!device) return ask();
  try {
    return await ask({ deviceId: { exact: device } }); // "ideal" is no wish that Chromium hears
  } catch (error) {
    if (error.name !== "OverconstrainedError" && error.name !== "NotFoundError") throw error;
    return ask(); // it is not connected: any other
  }
}
