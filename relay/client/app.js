// The page: puts the parts together and says what a tap does.

import { Bubbles, element } from "./bubbles.js";
import { Conversation } from "./conversation.js";
import { Devices } from "./devices.js";
import { ask } from "./dialog.js";
import { Dock } from "./dock.js";
import { Drawer } from "./drawer.js";
import { Latency } from "./latency.js";
import { Offline } from "./offline.js";
import { hasOpus } from "./opus.js";
import { Rest } from "./rest.js";
import { Settings } from "./settings.js";
import { recall, remember } from "./storage.js";
import { RECORDED, describe, describeCopy } from "./words.js";

const NAME = "Voice";
const SEEN = new Set(["ConversationText", "RelayMessageSaved", "RelayIntent"]);

const $ = (id) => document.getElementById(id);
const rest = new Rest({
  getToken: async () => recall("relay.token", "sessionStorage"),
  onSignedOut: (problem) => {
    offline.signedOut();
    tell(problem, load);
  },
  onCopy: (moment) => {
    const { id, loading } = conversation.view;
    if (id !== null && !loading) return; // it is not what is shown
    $("copy").hidden = false;
    $("copy-text").textContent = describeCopy(moment);
  },
});
const conversation = new Conversation({ rest, opus: await wantsOpus() });
const offline = new Offline(rest);
const bubbles = new Bubbles($("transcript"), $("main"), {
  onRetry: ({ key }) => attempt(() => conversation.retry(key)),
  onDecide: ({ key }, wanted) => attempt(() => conversation.decide(key, wanted)),
  onCopy: copy,
});
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
    onTalk: talk, onMute: () => conversation.toggleMute(), onHush: () => conversation.hush(),
    onText: type, onLong: () => tell({ code: "too_long" }),
  },
);
const devices = new Devices(
  { microphone: $("microphone"), speaker: $("speaker"), note: $("devices-note") },
  (chosen) => conversation.choose(chosen),
);
const settings = new Settings(
  {
    volume: $("volume"), captions: $("captions"), times: $("times"), latency: $("latency"),
    voice: $("voice"), language: $("language"), record: $("record"),
  },
  { volume: (volume) => conversation.setVolume(volume), choice: (chosen) => conversation.prefer(chosen) },
);
const latency = new Latency((spent) => settings.showLatency(spent));
let shown = null; // what is stored of the conversation: its title
let view = null; // what is drawn
let again = talk; // what "Try again" does

// --- talking -------------------------------------------------------------------------------------

/** What the user wants, and may want again when it has failed. */
function attempt(work) {
  again = () => attempt(work);
  dock.notice(null);
  return work();
}

function talk() {
  if (conversation.view.talking) conversation.stop();
  else attempt(() => conversation.talk());
}

function type(text) {
  attempt(async () => {
    dock.take(text);
    latency.typed(seconds());
    const typing = conversation.type(text);
    bubbles.toEnd();
    if (!(await typing)) dock.giveBack(text);
  });
}

/** @param {() => void} [retry] how it is tried again; without it there is no button for that */
function tell(error, retry) {
  if (error.code === undefined) throw error; // a defect belongs into the console
  const words = describe(error);
  if (!words) return;
  const actions = {
    retry,
    steal: () => attempt(() => conversation.talkHere()),
    sound: () => conversation.wake(),
    devices: openSettings,
    load: () => location.reload(),
    new: begin,
  };
  dock.notice(words, actions, { about: error.code, wait: error.retryAfter ?? 0 });
}

function seconds() {
  return performance.now() / 1000;
}

/** Draws what is another now. */
function show() {
  const before = view;
  view = conversation.view;
  const { id, items, problem, live, loading } = view;
  dock.show(view);
  devices.show(view.devices);
  $("welcome").hidden = items.length > 0 || id !== null;
  const recorded = view.recorded ? RECORDED : "";
  if ($("recorded").textContent !== recorded) $("recorded").textContent = recorded; // said once
  $("recorded").className = recorded ? "recorded" : "unseen";
  $("transcript").setAttribute("aria-busy", String(loading)); // not all of it is news to be read out
  if (items !== before?.items) bubbles.show(items);
  if (problem === before?.problem) return;
  if (before?.problem) dock.solved([before.problem.code]);
  if (problem) tell(problem, live ? undefined : again);
}

conversation.on("change", show);
conversation.on("level", ({ side, level }) => {
  if (side === "user") dock.userLevel(level);
  else dock.agentLevel(level);
  latency.level(side, level, seconds());
});
conversation.on("begun", ({ conversationId, again: anew }) => {
  $("copy").hidden = true;
  offline.began();
  if (anew) update(); // the relay may be another one
  if (location.hash.slice(1) === conversationId) return;
  history.replaceState(history.state, "", `#${conversationId}`);
  frame(null);
});
conversation.on("event", (event) => {
  latency.handle(event, seconds());
  const { id, items } = conversation.view;
  if (SEEN.has(event.type)) offline.saw({ id, title: null, ...shown }, items);
  if (event.type === "ConversationText" && event.role === "user") bubbles.toEnd();
  // The first words of the user are the title.
  if (event.type === "RelayMessageSaved" && event.role === "user") {
    drawer.load();
    entitle();
  }
});

// --- what is stored ------------------------------------------------------------------------------

async function turnTo(id) {
  if (id === conversation.view.id) return;
  dock.notice(null);
  again = look;
  const opened = conversation.open(id);
  $("newer").hidden = true;
  frame(null);
  bubbles.toEnd();
  await Promise.all([opened, entitle()]);
}

/** Read once more what is stored of what is shown. */
function look() {
  return attempt(() => Promise.all([conversation.look(), entitle()]));
}

async function entitle() {
  const { id } = conversation.view;
  if (id === null) return;
  $("copy").hidden = true;
  try {
    const stored = await rest.conversation(id);
    if (conversation.view.id === id) frame(stored);
  } catch (error) {
    if (error.code === undefined) throw error; // the title can wait
  }
}

/** The conversation's name and what can be done with it. */
function frame(stored) {
  shown = stored;
  const { id } = conversation.view;
  drawer.mark(id);
  const title = stored?.title ?? NAME;
  $("title").textContent = title;
  document.title = title === NAME ? NAME : `${title} · ${NAME}`;
  $("rename").hidden = $("export").hidden = $("erase").hidden = id === null;
}

$("rename").onclick = async () => {
  const { id } = conversation.view;
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
  const { id } = conversation.view;
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
  const { id } = conversation.view;
  if (!(await ask($("erase-dialog")))) return;
  conversation.stop();
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
  ask($("settings-dialog"));
}

$("settings").onclick = () => {
  drawer.toggle(false);
  openSettings();
};

$("skip").onclick = () => $("mic").focus();

function begin() {
  drawer.go(location.pathname + location.search);
  $("mic").focus();
}

$("new").onclick = $("new-here").onclick = begin;

// --- the page ------------------------------------------------------------------------------------

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
addEventListener("online", () => {
  if (!$("copy").hidden && !conversation.view.live) load();
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") update();
});
$("copy-again").onclick = () => load();

async function greet() {
  try {
    const intents = await rest.intents();
    bubbles.name(intents);
    $("topics").replaceChildren(...intents.map(({ title }) => topic(title)));
    bubbles.show(conversation.view.items);
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
  try {
    const registration = await navigator.serviceWorker?.register("worker.js");
    registration?.addEventListener("updatefound", () => {
      const { active, installing } = registration;
      if (!active) return; // this is the first
      // Not when it is at work: for that it waits until the one before has nothing to do.
      installing.addEventListener("statechange", () => {
        if (installing.state === "installed") tell({ code: "updated" });
      });
    });
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
  const { id } = conversation.view;
  return Promise.all([greet(), offer(), drawer.load(), id === null ? follow() : look()]);
}

show();
conversation.mount();
install();
await load();
