// The service worker: without a network the page opens and shows the conversations it has seen.
//
// The network is asked first, always: what is shown is old only when there is nothing newer.

const SHELL = "shell";
const HISTORY = "history";
const PATIENCE = 4000; // milliseconds: a network that is slower than that is none
const FILES = [
  "./", "app.js", "awake.js", "bubbles.js", "call.js", "capture.js", "comeback.js", "devices.js",
  "dialog.js", "dock.js", "drawer.js", "floor.js", "icon-192.png", "icon-512.png", "icon-maskable-512.png",
  "icon.svg", "jitter.js", "manifest.webmanifest", "microphone.js", "opus.js", "playback.js",
  "resampler.js", "rest.js", "session.js", "speaker.js", "storage.js", "style.css", "tokens.css",
  "transcript.js", "typed.js", "watchdog.js", "words.js",
];
const base = new URL("./", self.location).pathname;
const conversations = `${base}api/v1/voice/conversations`;

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(SHELL).then((cache) => cache.addAll(FILES)));
  self.skipWaiting();
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== self.location.origin) return;
  const { pathname } = url;
  if (pathname.startsWith(conversations) || pathname === `${base}api/v1/voice/intents`) {
    event.respondWith(networkFirst(request, HISTORY));
  } else if (FILES.includes(pathname.slice(base.length) || "./")) {
    event.respondWith(networkFirst(request, SHELL));
  }
});

self.addEventListener("message", (event) => {
  if (event.data?.forget) event.waitUntil(forget(event.data.forget));
});

async function networkFirst(request, name) {
  const cache = await caches.open(name);
  const options = { ignoreSearch: name === SHELL };
  try {
    const answer = await fetch(request, { signal: AbortSignal.timeout(PATIENCE) });
    // Nobody may read what belongs to somebody who is signed out.
    if (answer.status === 401) await caches.delete(HISTORY);
    if (answer.ok) await cache.put(request, answer.clone());
    if (answer.status < 500) return answer;
    return (await cache.match(request, options)) ?? answer;
  } catch (error) {
    const kept = await cache.match(request, options);
    if (kept) return kept;
    throw error;
  }
}

/** A conversation was erased: here, too; and the lists that name it. */
async function forget(id) {
  const cache = await caches.open(HISTORY);
  for (const request of await cache.keys()) {
    const { pathname } = new URL(request.url);
    if (pathname === conversations || pathname.includes(id)) await cache.delete(request);
  }
}
