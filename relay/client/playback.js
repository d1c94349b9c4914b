// AudioWorklet: the agent's linear16, played without gaps.

import { JitterBuffer } from "./jitter.js";
import { Resampler } from "./resampler.js";

const REPORT = 0.04; // seconds between two levels

class Playback extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.resampler = new Resampler(processorOptions.rate, sampleRate);
    this.buffer = new JitterBuffer(sampleRate);
    this.sum = 0;
    this.count = 0;
    this.playing = false;
    this.live = true;
    this.port.onmessage = ({ data }) => this.handle(data);
  }

  handle(data) {
    if (data instanceof ArrayBuffer) {
      const whole = new Int16Array(data, 0, data.byteLength >> 1);
      this.buffer.write(this.resampler.feed(Float32Array.from(whole, (value) => value / 32768)));
    } else if (data === "flush") {
      this.buffer.flush();
      this.resampler.reset();
    } else if (data === "stop") {
      this.live = false;
    }
  }

  process(_, [output]) {
    const out = output[0];
    this.buffer.read(out);
    for (let channel = 1; channel < output.length; channel++) output[channel].set(out);
    this.measure(out);
    return this.live;
  }

  measure(out) {
    for (const sample of out) this.sum += sample * sample;
    this.count += out.length;
    const changed = this.buffer.playing !== this.playing;
    if (!changed && (!this.playing || this.count < REPORT * sampleRate)) return;
    this.playing = this.buffer.playing;
    const level = this.playing ? Math.sqrt(this.sum / this.count) : 0;
    this.port.postMessage({ level, playing: this.playing });
    this.sum = this.count = 0;
  }
}

registerProcessor("playback", Playback);
