// The service worker: without a network the page opens and shows the conversations it has seen.
//
// The network is asked first, always: what is shown is old only when there is nothing newer, and a
// copy says that it is one. Each user has a store of their own; it is emptied when they sign out.

const SHELL = "shell";
const HISTORY = "history-"; // and a mark of the user
const KEPT = "Relay-Kept"; // a header of a copy: when it was kept
const PATIENCE = 4000; // milliseconds: after that a copy is better than to wait
const FILES = [
  "./", "app.js", "awake.js", "bubbles.js", "call.js", "comeback.js", "conversation.js", "devices.js",
  "dialog.js", "dock.js", "drawer.js", "emitter.js", "floor.js", "icon-192.png", "icon-512.png",
  "icon-maskable-512.png", "icon.svg", "latency.js", "manifest.webmanifest", "media_devices.js",
  "microphone.js", "offline.js", "opus.js", "pending.js", "playout.js", "rest.js", "session.js",
  "settings.js", "speaker.js", "storage.js", "style.css", "tokens.css", "transcript.js", "typed.js",
  "watchdog.js", "words.js", "worklet.js",
];
const base = new URL("./", self.location).pathname;
const conversations = `${base}api/v1/voice/conversations`;

// Whose store is in use; another object after each change of user and each erasure. An answer that
// was asked for under an earlier one comes too late to be kept. `undefined` until somebody asks,
// `null` after a sign-out.
let user = { store: undefined };

self.addEventListener("install", (event) => {
  event.waitUntil(keepShell());
  // A tap need not wait until a worker that sleeps is awake.
  const posts = { condition: { requestMethod: "POST" }, source: "network" };
  if (event.addRoutes) event.waitUntil(event.addRoutes(posts));
  self.skipWaiting();
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== self.location.origin) return;
  const { pathname } = url;
  if (pathname.endsWith("/export")) return; // a file is for who asked, now
  if (pathname.startsWith(conversations) || pathname === `${base}api/v1/voice/intents`) {
    event.respondWith(storeOf(request).then((name) => networkFirst(event, here(name))));
  } else if (FILES.includes(pathname.slice(base.length) || "./")) {
    event.respondWith(networkFirst(event, SHELL));
  }
});

self.addEventListener("message", (event) => {
  const { forget, signedOut: left, keep: seen } = event.data ?? {};
  if (forget) event.waitUntil(forgetOne(forget));
  if (left) event.waitUntil(signedOut());
  if (seen) event.waitUntil(keepSeen(seen));
});

async function networkFirst(event, name) {
  const fresh = ask(event, name);
  const slow = new Promise((resolve) => setTimeout(resolve, PATIENCE))
    .then(() => copy(event.request, name))
    .then((kept) => kept ?? fresh);
  slow.catch(() => {}); // it is `fresh` that is told
  try {
    return await Promise.race([fresh, slow]);
  } catch (error) {
    const kept = await copy(event.request, name);
    if (kept) return kept;
    if (error instanceof Response) return error;
    throw error;
  }
}

/** The relay's answer; a Response is thrown when it is too busy, or somebody else has answered. */
async function ask(event, name) {
  const { request } = event;
  const asker = user;
  const answer = await fetch(request);
  // Nobody may read what belongs to somebody who is signed out.
  if (answer.status === 401) lasting(event, signedOut());
  if (answer.status >= 500 || answer.status === 429) throw answer;
  if (!answer.ok) return answer;
  if (!(await isOurs(request.url, answer))) throw answer;
  lasting(event, keep(name, request, answer.clone(), asker));
  return answer;
}

/** A network that wants a sign-in or money first answers for us, and with 200. */
async function isOurs(url, answer) {
  const type = answer.headers.get("Content-Type") ?? "";
  if (answer.redirected) return false;
  if (new URL(url, self.location).pathname.startsWith(`${base}api/`)) return type.includes("json");
  if (!type.startsWith("text/html")) return true;
  return (await answer.clone().text()).includes('src="app.js"');
}

async function keepShell() {
  const cache = await caches.open(SHELL);
  const keepOne = async (name) => {
    const answer = await fetch(name, { cache: "no-cache" });
    if (!answer.ok || !(await isOurs(name, answer))) throw new Error(`${name} is not ours`);
    await cache.put(name, answer);
  };
  await Promise.all(FILES.map(keepOne));
}

async function keep(name, request, answer, asker) {
  try {
    const headers = new Headers(answer.headers);
    headers.set(KEPT, new Date().toISOString());
    const kept = new Response(await answer.blob(), { headers });
    if (name !== SHELL) {
      if (asker !== user) return;
      await forgetAll({ but: name }); // another user was here before
    }
    const cache = await caches.open(name);
    await cache.put(request, kept);
  } catch {
    // The disk is full, or nothing may be kept: there is no copy, and the answer is as good.
  }
}

async function copy(request, name) {
  try {
    const cache = await caches.open(name);
    return await cache.match(request, { ignoreSearch: name === SHELL });
  } catch {
    return undefined;
  }
}

/** What was seen live, as REST would have said it: `[{url, body}]`, and whose it is. */
async function keepSeen({ answers, authorization }) {
  const headers = { Authorization: authorization };
  for (const { url, body } of answers) {
    const name = await storeOf(new Request(url, { headers }));
    if (user.store !== undefined && user.store !== name) return;
    await keep(name, new Request(url), Response.json(body), user);
  }
}

/** The user's store: by the subject of the token, or by the whole one if it is not a JWT. */
async function storeOf(request) {
  const bytes = new TextEncoder().encode(subject(request.headers.get("Authorization") ?? ""));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return HISTORY + [...digest.slice(0, 16)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Somebody asks, whose store this is. */
function here(name) {
  if (name !== user.store) user = { store: name };
  return name;
}

function signedOut() {
  user = { store: null };
  return forgetAll();
}

function subject(authorization) {
  try {
    const payload = authorization.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const { iss, sub } = JSON.parse(atob(payload));
    return sub === undefined ? authorization : JSON.stringify([iss, sub]);
  } catch {
    return authorization;
  }
}

async function stores() {
  return (await caches.keys()).filter((name) => name.startsWith(HISTORY) || name === "history");
}

async function forgetAll({ but = null } = {}) {
  for (const name of await stores()) if (name !== but) await caches.delete(name);
}

/** A conversation was erased: here, too; and the lists that name it. */
async function forgetOne(id) {
  user = { ...user };
  for (const name of await stores()) {
    const cache = await caches.open(name);
    for (const request of await cache.keys()) {
      const { pathname } = new URL(request.url);
      if (pathname === conversations || pathname.includes(id)) await cache.delete(request);
    }
  }
}

/** The answer does not wait for it. */
function lasting(event, work) {
  const quiet = work.catch(() => {}); // nothing may be kept here
  try {
    event.waitUntil(quiet);
  } catch {
    // A copy was quicker, and the event is over.
  }
}
