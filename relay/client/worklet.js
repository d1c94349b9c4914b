// The AudioWorklet: the microphone as frames at the session's rate, the agent's linear16 without gaps.
//
// One file that imports nothing: bundlers copy a worklet as it is, and what it imports would be
// missing. The filter and the buffer in it are pure, and run in a test as well.

const FRAME = 0.02; // seconds
const REPORT = 0.04; // seconds between two levels

// Of the resampler: what lies above the lower of the two Nyquist frequencies is taken out before it
// could fold back as noise.
const CROSSINGS = 32; // of the sinc on each side: the steepness of the filter, and 1 ms of delay
const KAISER = 8; // beta of the window: what is taken out is some 80 dB down
const PASS = 0.92; // of the lower Nyquist frequency: where the filter is half way down

// Of the jitter buffer.
const START = 0.06; // seconds that are collected before the first sample is heard
const MOST_START = 0.24; // and no more than this, however often it ran dry
const PATIENCE = 0.12; // a short reply may have less than that: it is heard after this long anyway
const LONGEST = 180; // seconds that are kept; the relay holds less than that
const FADE = 0.003; // seconds: silence that begins in the middle of a wave clicks

// In Node.js, where tests run the pure parts, there is no audio thread.
const Processor = globalThis.AudioWorkletProcessor ?? class {};

class Capture extends Processor {
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

globalThis.registerProcessor?.("capture", Capture);

class Playback extends Processor {
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

globalThis.registerProcessor?.("playback", Playback);

/**
 * Samples from one rate to another, as a stream: a polyphase windowed-sinc filter.
 * Feed it mono samples (-1 to 1) of any length; it gives back what is complete at the new rate.
 */
export class Resampler {
  /**
   * @param {number} source samples a second that come in, a whole number
   * @param {number} target samples a second that go out, a whole number
   */
  constructor(source, target) {
    const common = gcd(source, target);
    this.up = target / common;
    this.down = source / common;
    const cutoff = (PASS * Math.min(1, target / source)) / 2; // cycles a source sample
    this.half = Math.ceil(CROSSINGS / (2 * cutoff));
    this.taps = 2 * this.half;
    this.filter = source === target ? null : makeFilter(this.up, this.half, cutoff);
    this.kept = new Float32Array(this.taps - 1); // the past that the filter still looks at
    this.phase = 0; // of `up`: where between two source samples the next one is taken
    this.skip = 0; // source samples to pass over before the next one
  }

  /** @param {Float32Array} samples @returns {Float32Array} */
  feed(samples) {
    if (!this.filter) return samples;
    const { up, down, taps, filter } = this;
    const line = new Float32Array(this.kept.length + samples.length);
    line.set(this.kept);
    line.set(samples, this.kept.length);
    const out = new Float32Array(Math.ceil((samples.length * up) / down) + 1);
    let at = this.skip;
    let phase = this.phase;
    let count = 0;
    while (at + taps <= line.length) {
      const row = phase * taps;
      let sum = 0;
      for (let tap = 0; tap < taps; tap++) sum += filter[row + tap] * line[at + tap];
      out[count++] = sum;
      phase += down;
      at += Math.floor(phase / up);
      phase %= up;
    }
    const start = Math.min(at, line.length);
    this.kept = line.slice(start);
    this.skip = at - start;
    this.phase = phase;
    return out.subarray(0, count);
  }

  /** Forget the past: what comes next has nothing to do with what came. */
  reset() {
    this.kept = new Float32Array(this.taps - 1);
    this.phase = 0;
    this.skip = 0;
  }
}

/** One row of `2 * half` taps for each of `up` places between two samples; each sums up to 1. */
function makeFilter(up, half, cutoff) {
  const taps = 2 * half;
  const filter = new Float32Array(up * taps);
  for (let phase = 0; phase < up; phase++) {
    const row = new Float64Array(taps);
    let sum = 0;
    for (let tap = 0; tap < taps; tap++) {
      const distance = tap - (half - 1) - phase / up;
      row[tap] = sinc(2 * cutoff * distance) * kaiser(distance / half);
      sum += row[tap];
    }
    for (let tap = 0; tap < taps; tap++) filter[phase * taps + tap] = row[tap] / sum;
  }
  return filter;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

function kaiser(x) {
  return Math.abs(x) > 1 ? 0 : bessel(KAISER * Math.sqrt(1 - x * x)) / bessel(KAISER);
}

/** The modified Bessel function of the first kind, order 0, as its power series. */
function bessel(x) {
  let sum = 1;
  let term = 1;
  for (let n = 1; term > 1e-12 * sum; n++) {
    term *= (x / (2 * n)) ** 2;
    sum += term;
  }
  return sum;
}

function gcd(a, b) {
  return b === 0 ? a : gcd(b, a % b);
}

/** `write` what came, `read` what is to be heard now; silence where there is nothing. */
export class JitterBuffer {
  /** @param {number} rate samples a second */
  constructor(rate) {
    this.rate = rate;
    this.pieces = [];
    this.offset = 0; // into the first piece
    this.length = 0; // samples in all
    this.start = START;
    this.playing = false;
    this.waited = 0; // samples that were silent although something is here
    this.last = 0; // the sample heard last
    this.fading = 0; // samples left of the fade
  }

  /** @param {Float32Array} samples */
  write(samples) {
    if (!samples.length || this.length > LONGEST * this.rate) return;
    this.pieces.push(samples);
    this.length += samples.length;
  }

  /** Fills all of `out`. @param {Float32Array} out */
  read(out) {
    if (!this.playing && this.length) {
      this.waited += out.length;
      this.playing =
        this.length >= this.start * this.rate || this.waited >= PATIENCE * this.rate;
    }
    const count = this.playing ? this.take(out) : 0;
    if (this.playing && count < out.length) this.runDry();
    this.silence(out, count);
  }

  /** What is not heard yet never will be. */
  flush() {
    if (this.playing) this.fading = Math.round(FADE * this.rate);
    this.pieces = [];
    this.offset = this.length = this.waited = 0;
    this.playing = false;
    this.start = START;
  }

  take(out) {
    let count = 0;
    while (count < out.length && this.pieces.length) {
      const piece = this.pieces[0];
      const some = piece.subarray(this.offset, this.offset + out.length - count);
      out.set(some, count);
      count += some.length;
      this.offset += some.length;
      if (this.offset === piece.length) {
        this.pieces.shift();
        this.offset = 0;
      }
    }
    this.length -= count;
    if (count) this.last = out[count - 1];
    return count;
  }

  /** More came too late, or it is the end: the next time more is collected first. */
  runDry() {
    this.playing = false;
    this.waited = 0;
    this.start = Math.min(2 * this.start, MOST_START);
    this.fading = Math.round(FADE * this.rate);
  }

  silence(out, from) {
    const whole = FADE * this.rate;
    for (let at = from; at < out.length; at++) {
      out[at] = this.fading > 0 ? (this.last * this.fading--) / whole : 0;
    }
    if (this.fading <= 0) this.last = 0;
  }
}
