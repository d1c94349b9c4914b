// The page: puts the parts together and says what a tap does.

import { Bubbles, element } from "./bubbles.js";
import { Call } from "./call.js";
import { Devices } from "./devices.js";
import { ask } from "./dialog.js";
import { Dock } from "./dock.js";
import { Drawer } from "./drawer.js";
import { Latency } from "./latency.js";
import { Offline } from "./offline.js";
import { hasOpus } from "./opus.js";
import { Pending } from "./pending.js";
import { Rest } from "./rest.js";
import { FULL } from "./session.js";
import { Settings } from "./settings.js";
import { recall, remember } from "./storage.js";
import { Transcript } from "./transcript.js";
import { describe, describeCopy } from "./words.js";

const NAME = "Voice";
const SEEN = new Set(["ConversationText", "RelayMessageSaved", "RelayIntent"]);
const LATE = [1000, 2000, 4000, 8000]; // milliseconds: what a card knows is stored a moment later

const $ = (id) => document.getElementById(id);
const rest = new Rest({
  getToken: async () => recall("relay.token", "sessionStorage"),
  onSignedOut: (problem) => {
    offline.signedOut();
    tell(problem, load);
  },
  onCopy: (moment) => {
    if (looking) return; // it is not what is shown
    $("copy").hidden = false;
    $("copy-text").textContent = describeCopy(moment);
  },
});
const transcript = new Transcript();
const offline = new Offline(rest, transcript);
const bubbles = new Bubbles($("transcript"), $("main"), {
  onRetry: retry, onDecide: decide, onCopy: copy,
});
const pending = new Pending(lookAtCalls);
const call = new Call({ rest, opus: await wantsOpus() });
const drawer = new Drawer(rest, {
  drawer: $("drawer"), shade: $("shade"), menu: $("menu"), close: $("drawer-close"), page: $("page"),
  search: $("search"), list: $("list"), note: $("list-note"), more: $("more"),
});
const dock = new Dock(
  {
    mic: $("mic"), mute: $("mute"), hush: $("hush"), typing: $("typing"), text: $("text"),
    word: $("word"), count: $("count"), away: $("away"), alert: $("alert"), notice: $("notice"),
    meterUser: $("meter-user"), meterAgent: $("meter-agent"), title: $("notice-title"),
    detail: $("notice-text"), action: $("notice-action"), close: $("notice-close"),
  },
  {
    onTalk: () => talk(), onMute: () => call.toggleMute(), onHush: () => call.hush(), onText: type,
    onLong,
  },
);
const latency = new Latency();
let shown = null; // what is known of the conversation that is shown
let open = null; // the id of the conversation that is shown; null: a new one
let looking = false; // at calls that are not over
const devices = new Devices(
  { microphone: $("microphone"), speaker: $("speaker"), note: $("devices-note") },
  (chosen) => call.use(chosen).catch(tell),
);
const settings = new Settings(
  {
    volume: $("volume"), captions: $("captions"), times: $("times"), latency: $("latency"),
    voice: $("voice"), language: $("language"),
  },
  { volume: (volume) => (call.volume = volume), choice: (chosen) => call.session.prefer(chosen) },
);
let again = () => talk(); // what "Try again" does when a session has ended

// --- talking -------------------------------------------------------------------------------------

async function talk({ steal = false } = {}) {
  if (call.talking && !steal) return call.stop();
  again = () => talk();
  dock.notice(null);
  try {
    await call.talk(open, { steal });
  } catch (error) {
    tell(error, again);
  }
}

async function type(text) {
  again = () => type(text);
  dock.notice(null);
  dock.take(text);
  transcript.typed(text, new Date().toISOString());
  latency.typed(seconds());
  bubbles.toEnd();
  try {
    await call.type(text, open);
  } catch (error) {
    transcript.untyped(text);
    dock.giveBack(text);
    tell(error, () => type(text));
  }
}

function onLong() {
  tell({ code: "too_long" });
}

/** @param {() => void} [retry] how it is tried again; without it there is no button for that */
function tell(error, retry) {
  if (error.code === undefined) throw error; // a defect belongs into the console
  const words = describe(error);
  if (!words) return;
  const actions = {
    retry,
    steal: () => talk({ steal: true }),
    sound: () => call.wake(),
    devices: openSettings,
    load: () => location.reload(),
  };
  dock.notice(words, actions, { about: error.code, wait: error.retryAfter ?? 0 });
}

function seconds() {
  return performance.now() / 1000;
}

function show() {
  const { word, live, talking, muted } = call;
  dock.show({ word, live, talking, muted });
}

call.addEventListener("change", ({ detail }) => {
  show();
  if (detail.solved) dock.solved(detail.solved);
  if (call.session.state === "open") dock.solved(FULL);
  if (detail.problem) tell(detail.problem, call.live ? undefined : again);
});
call.addEventListener("level", ({ detail: { side, level } }) => {
  if (side === "user") dock.userLevel(level);
  else dock.agentLevel(level);
  latency.level(side, level, seconds());
});
call.addEventListener("begun", ({ detail: { conversationId, messages, again } }) => {
  $("copy").hidden = true;
  offline.began();
  if (again) update(); // the relay may be another one
  if (open !== conversationId) {
    open = conversationId;
    history.replaceState(history.state, "", `#${conversationId}`);
    frame(null);
    drawer.mark(open);
  }
  transcript.merge(messages);
});
call.addEventListener("event", ({ detail: event }) => {
  transcript.handle(event, new Date().toISOString());
  latency.handle(event, seconds());
  if (SEEN.has(event.type)) offline.saw({ id: open, title: null, ...shown });
  if (event.type === "ConversationText" && event.role === "user") bubbles.toEnd();
  if (event.type === "RelayNotice") tell({ code: `ends-${event.code}` });
  if (event.type === "UserStartedSpeaking") dock.solved(["ends-idle"]);
  // The first words of the user are the title.
  if (event.type === "RelayMessageSaved" && event.role === "user") refresh();
});
call.addEventListener("gap", () => catchUp(open));

// --- what is stored ------------------------------------------------------------------------------

async function turnTo(id) {
  if (id === open) return;
  if (call.live) call.stop();
  open = id;
  dock.notice(null);
  transcript.clear();
  $("newer").hidden = true;
  frame(null);
  drawer.mark(id);
  if (id === null) return;
  await read(id);
}

async function read(id) {
  $("copy").hidden = true;
  $("transcript").setAttribute("aria-busy", "true"); // not all of it is news to be read out
  try {
    const [conversation] = await Promise.all([rest.conversation(id), fetchAll(id, 0)]);
    if (open !== id) return;
    frame(conversation);
    $("main").scrollTop = $("main").scrollHeight;
  } catch (error) {
    if (open === id) tell(error, () => read(id));
  } finally {
    $("transcript").removeAttribute("aria-busy");
  }
}

async function fetchAll(id, afterSeq) {
  const [messages, calls] = await Promise.all([rest.messages(id, afterSeq), rest.calls(id)]);
  if (open === id) transcript.merge(messages, calls);
}

/** What was said while we were away. It comes again with the next gap if this fails. */
async function catchUp(id) {
  try {
    await fetchAll(id, transcript.seq);
  } catch (error) {
    if (error.code === undefined) throw error;
  }
}

async function refresh() {
  const id = open;
  drawer.load();
  try {
    const conversation = await rest.conversation(id);
    if (open === id) frame(conversation);
  } catch (error) {
    if (error.code === undefined) throw error; // the title can wait
  }
}

async function lookAtCalls() {
  const id = open;
  looking = true;
  try {
    const calls = await rest.calls(id);
    if (open === id) transcript.merge([], calls);
  } catch (error) {
    if (error.code === undefined) throw error; // the next time
  } finally {
    looking = false;
  }
}

async function retry({ key }) {
  const id = open;
  try {
    for (const pause of LATE) {
      const found = (await rest.calls(id)).find((one) => one.id === key);
      if (found?.status === "failed") {
        const submitted = await rest.retry(id, key);
        if (open === id) transcript.merge([], [submitted]);
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  } catch (error) {
    tell(error);
  }
}

/** The user's word on a card; resolves to whether it went out. */
async function decide({ key }, wanted) {
  const id = open;
  dock.notice(null);
  try {
    await call.decide(key, wanted, id);
    return true;
  } catch (error) {
    await catchUp(id); // it may be over already
    tell(error);
    return false;
  }
}

/** The conversation's name and what can be done with it. */
function frame(conversation) {
  shown = conversation;
  const title = conversation?.title ?? NAME;
  $("title").textContent = title;
  document.title = title === NAME ? NAME : `${title} · ${NAME}`;
  $("rename").hidden = $("export").hidden = $("erase").hidden = open === null;
}

$("rename").onclick = async () => {
  const id = open;
  $("rename-text").value = $("title").textContent === NAME ? "" : $("title").textContent;
  if (!(await ask($("rename-dialog")))) return;
  try {
    frame(await rest.rename(id, $("rename-text").value));
    drawer.load();
  } catch (error) {
    tell(error);
  }
};

$("export").onclick = async () => {
  const id = open;
  const format = await ask($("export-dialog"));
  if (!format) return;
  try {
    if (format === "copy") return await copy(rest.export(id, "text").then((file) => file.text()));
    const file = await rest.export(id, format);
    const link = element("a");
    link.href = URL.createObjectURL(file);
    link.download = file.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser may still read it
  } catch (error) {
    tell(error);
  }
};

/** @param {string | Promise<string>} text some browsers take a promise only, in a tap */
async function copy(text) {
  try {
    const wanted = Promise.resolve(text).then((it) => new Blob([it], { type: "text/plain" }));
    await navigator.clipboard.write([new ClipboardItem({ "text/plain": wanted })]);
    tell({ code: "copied" });
  } catch {
    await text; // when that failed, it is told by its own name
    tell({ code: "not-copied" });
  }
}

$("erase").onclick = async () => {
  const id = open;
  if (!(await ask($("erase-dialog")))) return;
  if (call.live) call.stop();
  try {
    await rest.erase(id);
    offline.forget(id);
    history.replaceState(null, "", location.pathname + location.search);
    await follow();
    drawer.load();
    $("mic").focus();
  } catch (error) {
    tell(error);
  }
};

function openSettings() {
  devices.look();
  settings.showLatency(latency.spent);
  ask($("settings-dialog"));
}

$("settings").onclick = () => {
  drawer.toggle(false);
  openSettings();
};

$("skip").onclick = () => $("mic").focus();

$("new").onclick = $("new-here").onclick = () => {
  drawer.go(location.pathname + location.search);
  $("mic").focus();
};

// --- the page ------------------------------------------------------------------------------------

transcript.addEventListener("change", () => {
  const items = transcript.items();
  $("welcome").hidden = !transcript.isEmpty || open !== null;
  bubbles.show(items);
  pending.show(items);
});

bubbles.onBehind = () => ($("newer").hidden = false);
$("main").addEventListener("scroll", () => {
  if (bubbles.atEnd) $("newer").hidden = true;
});
$("newer").onclick = () => {
  $("newer").hidden = true;
  bubbles.toEnd();
};

function follow() {
  return turnTo(location.hash.slice(1) || null);
}

for (const type of ["hashchange", "popstate"]) addEventListener(type, () => follow());
for (const type of ["online", "offline"]) {
  addEventListener(type, () => {
    call.session.nudge();
    show();
    if (type === "online" && !$("copy").hidden && !call.live) load();
  });
}
document.addEventListener("visibilitychange", () => {
  call.session.nudge();
  if (document.visibilityState === "visible") update();
});
$("copy-again").onclick = () => load();
for (const type of ["click", "keydown"]) document.addEventListener(type, () => call.wake());

async function greet() {
  try {
    const intents = await rest.intents();
    bubbles.name(intents);
    $("topics").replaceChildren(...intents.map(({ title }) => topic(title)));
    bubbles.show(transcript.items());
  } catch (error) {
    if (error.code === undefined) throw error; // the page is usable without
  }
}

async function offer() {
  try {
    settings.offer(await rest.choices());
  } catch (error) {
    if (error.code === undefined) throw error; // the agent's own do
  }
}

/** What can be asked for, with a tap. */
function topic(title) {
  const button = element("button", "", title);
  button.type = "button";
  button.onclick = () => {
    $("mic").focus(); // this button goes
    type(title);
  };
  const item = element("li");
  item.append(button);
  return item;
}

/** `?codec=opus` asks for it from now on, `?codec=linear16` no more. */
async function wantsOpus() {
  const wish = new URLSearchParams(location.search).get("codec");
  if (wish) remember("relay.codec", wish);
  return recall("relay.codec") === "opus" && (await hasOpus());
}

async function install() {
  const workers = navigator.serviceWorker;
  let installed = Boolean(workers?.controller);
  workers?.addEventListener("controllerchange", () => {
    if (installed) tell({ code: "updated" }); // else this is the first
    installed = true;
  });
  try {
    await workers?.register("worker.js");
  } catch {
    // Cookies are blocked: nothing is shown without a network, and all else works.
  }
}

/** Is there another version of the page? */
async function update() {
  try {
    await (await navigator.serviceWorker?.getRegistration())?.update();
  } catch {
    // there is no network: the next time
  }
}

function load() {
  $("copy").hidden = true;
  return Promise.all([greet(), offer(), drawer.load(), open === null ? follow() : read(open)]);
}

show();
install();
call.prepare();
await Promise.all([devices.look(), load()]);
