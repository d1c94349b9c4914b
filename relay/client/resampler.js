// Samples from one rate to another, as a stream: a polyphase windowed-sinc filter.
//
// Pure: no audio API, so that it runs in a worklet, in a page and in a test alike. What lies above
// the lower of the two Nyquist frequencies is taken out before it could fold back as noise.

const CROSSINGS = 32; // of the sinc on each side: the steepness of the filter, and 1 ms of delay
const KAISER = 8; // beta of the window: what is taken out is some 80 dB down
const PASS = 0.92; // of the lower Nyquist frequency: where the filter is half way down

/** Feed it mono samples (-1 to 1) of any length; it gives back what is complete at the new rate. */
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
