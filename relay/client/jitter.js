// The jitter buffer: agent audio comes in bursts and is taken evenly. Pure.

const START = 0.06; // seconds that are collected before the first sample is heard
const MOST_START = 0.24; // and no more than this, however often it ran dry
const PATIENCE = 0.12; // a short reply may have less than that: it is heard after this long anyway
const LONGEST = 180; // seconds that are kept; the relay holds less than that
const FADE = 0.003; // seconds: silence that begins in the middle of a wave clicks

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
