// AudioWorklet: the microphone, as 20 ms frames of linear16 at the session's rate.

import { Resampler } from "./resampler.js";

const FRAME = 0.02; // seconds

class Capture extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.resampler = new Resampler(sampleRate, processorOptions.rate);
    this.size = Math.round(FRAME * processorOptions.rate);
    this.frame = new Int16Array(this.size);
    this.filled = 0;
    this.sum = 0; // of the squares of the frame
    this.muted = false;
    this.live = true;
    this.port.onmessage = ({ data }) => {
      if ("muted" in data) this.muted = data.muted;
      if (data.stop) this.live = false;
    };
  }

  process([input]) {
    // A track that is muted by the system has no channel: silence keeps the agent's ear running.
    const samples = input[0] && !this.muted ? input[0] : new Float32Array(128);
    for (const sample of this.resampler.feed(samples)) this.take(sample);
    return this.live;
  }

  take(sample) {
    const clipped = Math.max(-1, Math.min(1, sample));
    this.frame[this.filled++] = Math.round(clipped * 32767);
    this.sum += clipped * clipped;
    if (this.filled < this.size) return;
    const level = Math.sqrt(this.sum / this.filled);
    const audio = this.frame.buffer;
    this.port.postMessage({ audio, level }, [audio]);
    this.frame = new Int16Array(this.size); // the old one was handed over
    this.filled = this.sum = 0;
  }
}

registerProcessor("capture", Capture);
