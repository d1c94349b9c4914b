// Runs in each page before its own scripts: listens to what leaves the page's output, and notes
// when events came, both on the clock of the audio context.
(() => {
  const heard = { ranges: [], events: [], sockets: [] };
  window.heard = heard;
  heard.last = (type) => heard.events.findLast((event) => event.type === type);
  document.addEventListener("securitypolicyviolation", (event) => {
    console.error(`CSP: ${event.violatedDirective} ${event.blockedURI}`);
  });
  const connect = AudioNode.prototype.connect;
  AudioNode.prototype.connect = function (target, ...rest) {
    if (target instanceof AudioDestinationNode) listen(this);
    return connect.call(this, target, ...rest);
  };
  function listen(node) {
    const { context } = node;
    heard.context = context;
    const tap = context.createScriptProcessor(256, 1, 1); // an old node, but it needs no module
    tap.onaudioprocess = ({ inputBuffer, playbackTime }) => {
      const samples = inputBuffer.getChannelData(0);
      let peak = 0;
      for (const sample of samples) peak = Math.max(peak, Math.abs(sample));
      if (peak < 0.001) return;
      const start = playbackTime;
      const end = start + samples.length / context.sampleRate;
      const last = heard.ranges.at(-1);
      if (last && start - last.end < 0.001) Object.assign(last, { end, peak: Math.max(peak, last.peak) });
      else heard.ranges.push({ start, end, peak });
    };
    connect.call(node, tap);
    connect.call(tap, context.destination);
  }
  const Real = WebSocket;
  window.WebSocket = class extends Real {
    constructor(...args) {
      super(...args);
      heard.sockets.push(this);
      this.sizes = {}; // of binary messages sent, and how often
      this.addEventListener("message", ({ data }) => {
        if (typeof data !== "string") return;
        heard.events.push({ at: heard.context?.currentTime ?? 0, ...JSON.parse(data) });
      });
    }
    send(data) {
      if (typeof data !== "string") {
        this.sizes[data.byteLength] = (this.sizes[data.byteLength] ?? 0) + 1;
      }
      super.send(data);
    }
  };
})();
