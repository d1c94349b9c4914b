// Opus instead of linear16, where the browser has WebCodecs: a tenth of the bytes. Off by default.
//
// One packet of 20 ms is one WebSocket message, without container (`opus` in Deepgram's list): a
// new agent in the middle of a session could not be given the head of an Ogg stream once more.

const BITRATE = 24_000; // bits a second: transparent for a voice

export async function hasOpus() {
  if (typeof AudioEncoder === "undefined") return false;
  const config = { codec: "opus", sampleRate: 16_000, numberOfChannels: 1, bitrate: BITRATE };
  return (await AudioEncoder.isConfigSupported(config)).supported;
}

export class OpusEncoder {
  #encoder;
  #rate;
  #time = 0; // microseconds

  /** @param {number} rate samples a second @param {(packet: ArrayBuffer) => void} onPacket */
  constructor(rate, onPacket) {
    this.#rate = rate;
    this.#encoder = new AudioEncoder({
      output: (chunk) => {
        const packet = new ArrayBuffer(chunk.byteLength);
        chunk.copyTo(packet);
        onPacket(packet);
      },
      error: () => {}, // it is closed then, and `feed` says so
    });
    this.#encoder.configure({
      codec: "opus",
      sampleRate: rate,
      numberOfChannels: 1,
      bitrate: BITRATE,
      opus: { application: "voip", frameDuration: 20_000 },
    });
  }

  /** @param {ArrayBuffer} frame 20 ms of linear16 */
  feed(frame) {
    if (this.#encoder.state === "closed") return;
    const count = frame.byteLength / 2;
    const data = new AudioData({
      format: "s16",
      sampleRate: this.#rate,
      numberOfFrames: count,
      numberOfChannels: 1,
      timestamp: this.#time,
      data: frame,
    });
    this.#time += Math.round((count / this.#rate) * 1e6);
    this.#encoder.encode(data);
    data.close();
  }

  close() {
    if (this.#encoder.state !== "closed") this.#encoder.close();
  }
}
