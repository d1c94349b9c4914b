// Runs in a page before its own scripts: `hostile.name()` takes something away from its browser.
window.hostile = {
  silence() { // no output device: resume() never settles
    Object.defineProperty(AudioContext.prototype, "state", { get: () => "suspended" });
    AudioContext.prototype.resume = () => new Promise(() => {});
  },
  noStorage() { // cookies are blocked
    const refuse = () => { throw new DOMException("denied", "SecurityError"); };
    const reject = async () => refuse();
    for (const name of ["localStorage", "sessionStorage", "caches"]) {
      Object.defineProperty(window, name, { get: refuse });
    }
    LockManager.prototype.request = LockManager.prototype.query = reject;
    ServiceWorkerContainer.prototype.register = reject;
  },
  ask(answer) { // the microphone waits for the user; `answer(allowed)` is what that says
    // The page has looked already: what it holds says so from now on.
    Object.defineProperty(PermissionStatus.prototype, "state", { get: () => "prompt" });
    const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = (wanted) => new Promise((resolve, reject) => {
      window.answer = (allowed) => {
        if (allowed) resolve(real(wanted));
        else reject(new DOMException("Permission denied", "NotAllowedError"));
      };
    });
  },
  slowLocks() { // the right to something is given when `grant()` is called; `left`: given back
    const real = LockManager.prototype.request;
    LockManager.prototype.request = async function (...request) {
      await new Promise((resolve) => (window.grant = resolve));
      const held = await real.apply(this, request);
      window.left = true;
      return held;
    };
  },
  refuse(name) {
    navigator.mediaDevices.getUserMedia = async () => { throw new DOMException(name, name); };
  },
  keepStream() { // the page's stream is at hand
    const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wanted) => {
      window.wanted = wanted;
      return (window.stream = await real(wanted));
    };
  },
  unplug() {
    const [track] = window.stream.getAudioTracks();
    track.stop();
    track.dispatchEvent(new Event("ended"));
  },
};
