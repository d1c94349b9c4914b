// Runs in each page before its own scripts, in both arms alike: when what happened after a tap, as
// milliseconds since it. Only the first of each name counts.
(() => {
  const marks = {};
  let tap = null;
  const mark = (name) => {
    if (tap !== null) marks[name] ??= performance.now() - tap;
  };
  window.marks = marks;
  addEventListener("pointerdown", () => (tap ??= performance.now()), { capture: true });

  const { mediaDevices } = navigator;
  const ask = mediaDevices.getUserMedia.bind(mediaDevices);
  mediaDevices.getUserMedia = async (wanted) => {
    mark("microphone asked for");
    const stream = await ask(wanted);
    mark("microphone there");
    return stream;
  };
  const real = window.fetch;
  window.fetch = async (...request) => {
    if (request[1]?.method !== "POST") return real(...request);
    mark("POST");
    const answer = await real(...request);
    mark("POST answered");
    return answer;
  };
  const addModule = AudioWorklet.prototype.addModule;
  AudioWorklet.prototype.addModule = async function (url) {
    await addModule.call(this, url);
    mark("worklet loaded"); // there is none where it was loaded before the tap
  };
  window.AudioContext = class extends AudioContext {
    constructor(...options) {
      super(...options);
      this.addEventListener("statechange", () => this.state === "running" && mark("sound on"));
    }
  };
  window.AudioWorkletNode = class extends AudioWorkletNode {
    constructor(...options) {
      super(...options);
      this.port.addEventListener("message", ({ data }) => data.playing && mark("heard"));
    }
  };
  window.WebSocket = class extends WebSocket {
    constructor(...options) {
      super(...options);
      mark("WebSocket");
      this.addEventListener("open", () => mark("WebSocket open"));
      this.addEventListener("message", ({ data }) => {
        mark(typeof data === "string" ? JSON.parse(data).type : "audio");
      });
    }
  };
  addEventListener("DOMContentLoaded", () => {
    const look = () => document.body.dataset.word === "listening" && mark("listening");
    new MutationObserver(look).observe(document.body, { attributeFilter: ["data-word"] });
  });
})();
