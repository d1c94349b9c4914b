// The page of administrators: one part at a time, shown anew every few seconds.

import { ask, load, use } from "./ask.js";
import { ask as askFirst } from "./dialog.js";
import { SHORT, showPairs, showTable, when } from "./tables.js";

const PAUSE = 5000; // milliseconds between two looks
const MOST = 200; // lines of a table

const $ = (id) => document.getElementById(id);
const place = (name) => document.querySelector(`[data-for=${name}]`);
const parts = { sessions, nodes, state, intents, person: () => {}, costs, audit };
let user = ""; // whose part is shown
let names = new Map(); // of nodes, by id

const short = (id) => (id ? id.slice(-SHORT) : "–");
const many = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const sum = (counts) => Object.values(counts).reduce((all, one) => all + one, 0);
const counted = (counts) =>
  Object.entries(counts).filter(([, count]) => count).map(([name, count]) => `${count} ${name}`).join(", ") || "none";

function current() {
  const name = location.hash.slice(1);
  return name in parts ? name : "sessions";
}

// --- what is shown ------------------------------------------------------------------------------

async function sessions() {
  const [{ items }, known] = await Promise.all([
    ask("GET", "/sessions", { query: { limit: MOST } }),
    ask("GET", "/nodes"),
  ]);
  names = new Map(known.items.map(({ id, name }) => [id, name]));
  showTable(
    place("sessions"),
    [
      ["Session", ({ id }) => short(id), "id"],
      ["User", (one) => one.user_id, "long"],
      ["Node", (one) => names.get(one.node_id) ?? short(one.node_id)],
      ["State", (one) => (one.end_asked ? "ending" : one.state)],
      ["Since", (one) => when(one.started_at ?? one.created_at)],
      ["Audio frames", (one) => `${one.browser_frames} ↑ ${one.agent_frames} ↓`],
    ],
    items,
    (one) => (one.end_asked ? [] : [["Hang up", () => hangUp(one), "danger"], ["Timeline", () => showTimeline(one.id)]]),
  );
}

async function nodes() {
  const { items } = await ask("GET", "/nodes");
  showTable(
    place("nodes"),
    [
      ["Node", ({ id }) => short(id), "id"],
      ["Name", (one) => one.name ?? "–"],
      ["Heartbeat", (one) => (one.alive ? "well" : `none since ${when(one.seen_at)}`)],
      ["Sessions", (one) => String(one.sessions)],
      ["Agents", (one) => String(one.agents ?? "no limit")],
      ["Takes sessions", (one) => (one.drained ? "no: drained" : "yes")],
      ["Started", (one) => when(one.started_at)],
    ],
    items,
    (one) => [one.drained ? ["Undrain", () => drain(one, "undrain")] : ["Drain", () => drain(one, "drain")]],
  );
}

async function state() {
  const now = await ask("GET", "/state");
  const { journal, condemned, outbox, governor } = now;
  showPairs($("state-list"), [
    ["Node", now.node_id],
    ["Takes sessions", now.stopping ? "no: it stops" : now.drained ? "no: drained" : "yes", now.stopping || now.drained],
    ["Sessions", now.sessions],
    ["Background tasks that fail", now.failing.join(", ") || "none", now.failing.length],
    ["Journal", `${many(journal.waiting, "record")} not in Postgres, the oldest for ${Math.round(journal.oldest_seconds)} s; ${journal.bytes} bytes on disk`],
    ["Journal fails for", journal.failing_seconds ? `${Math.round(journal.failing_seconds)} s` : "it does not", journal.failing_seconds],
    ["Disk", journal.disk_error || "takes records", journal.disk_error],
    ["Condemned records", condemned.records ? `${condemned.records}, since ${when(condemned.oldest)}` : "none", condemned.records],
    ["Outbox of all nodes", `${many(outbox.waiting, "call")} without an outcome, the oldest for ${Math.round(outbox.oldest_seconds)} s`],
    ["Agents", governor.limit ? `${governor.used} of our part of ${governor.size}, of ${governor.limit} in all` : `${governor.used}, no limit`],
  ]);
  $("restore").hidden = condemned.records === 0;
}

async function intents() {
  const query = { limit: MOST, intent: $("intent").value.trim(), reason: $("reason").value.trim() };
  const { items } = await ask("GET", "/intents", { query });
  showTable(
    place("intents"),
    [
      ["Call", ({ id }) => short(id), "id"],
      ["Intent", (one) => one.intent ?? one.function],
      ["User", (one) => one.user_id, "long"],
      ["Attempts", (one) => String(one.attempts)],
      ["Failed", (one) => when(one.updated_at)],
      ["Last error", (one) => one.last_error ?? "–", "long"],
    ],
    items,
    (one) => [["Submit again", () => change("retry", { ids: [one.id] })], ["Give up", () => change("discard", { ids: [one.id] }), "danger"]],
  );
  $("retry").disabled = $("discard").disabled = items.length === 0;
}

async function costs() {
  const [days, users] = await Promise.all(["day", "user"].map((by) => ask("GET", "/costs", { query: { by } })));
  const minutes = ({ agent_seconds }) => (agent_seconds / 60).toFixed(1);
  const money = ({ cost }) => (cost === null ? "–" : `$${cost.toFixed(2)}`);
  $("costs-sum").textContent = `Since ${days.since}, in UTC: ${minutes(days)} minutes of agents, ${days.cost === null ? "no price is set" : money(days)}.`;
  const rest = [
    ["Sessions", (one) => String(one.sessions)],
    ["Agent minutes", minutes],
    ["Cost", money],
  ];
  showTable(place("days"), [["Day", ({ day }) => day], ...rest], days.items);
  showTable(place("users"), [["User", (one) => one.user_id ?? "erased", "long"], ...rest], users.items.slice(0, MOST));
}

async function audit() {
  const { items } = await ask("GET", "/audit", { query: { limit: MOST } });
  showTable(
    place("audit"),
    [
      ["When", (one) => when(one.at)],
      ["Who", (one) => one.who, "long"],
      ["Act", (one) => one.act],
      ["About", (one) => one.target ?? "–", "long"],
      ["Outcome", (one) => (one.outcome ? JSON.stringify(one.outcome) : "not done"), "long"],
    ],
    items,
  );
}

async function look() {
  user = $("user").value.trim();
  const query = { id: user };
  const stored = await ask("GET", "/user", { query });
  const { items } = await ask("GET", "/user/conversations", { query: { ...query, limit: MOST } });
  $("stored").textContent = `${many(sum(stored.rows), "row")}: ${counted(stored.rows)}. ${many(stored.live, "live session")}.`;
  showTable(
    place("conversations"),
    [
      ["Conversation", ({ id }) => short(id), "id"],
      ["Title", (one) => one.title ?? "–", "long"],
      ["Status", (one) => one.status],
      ["Changed", (one) => when(one.updated_at)],
    ],
    items,
  );
  $("found").hidden = false;
}

// --- what is done -------------------------------------------------------------------------------

function sure(title, text, yes) {
  $("sure-title").textContent = title;
  $("sure-text").textContent = text;
  $("sure-yes").textContent = yes;
  return askFirst($("sure"));
}

const hangUp = (one) =>
  act(async () => {
    if (!(await sure("Hang up?", `The session of ${one.user_id} ends at once.`, "Hang up"))) return;
    await ask("POST", `/sessions/${one.id}/hang-up`);
    say("The session is asked to end.");
  });

const drain = (one, how) =>
  act(async () => {
    await ask("POST", `/nodes/${one.id}/${how}`);
    say(how === "drain" ? "The node takes no new sessions." : "The node takes sessions again.");
  });

const change = (how, chosen) =>
  act(async () => {
    const { matched } = await ask("POST", `/intents/${how}`, { body: chosen });
    const which = many(matched, "failed intent");
    const [title, yes] = how === "retry" ? [`Submit ${which} again?`, "Submit again"] : [`Give ${which} up?`, "Give up"];
    if (!(await sure(title, "It is in the audit log that you did.", yes))) return;
    const { done } = await ask("POST", `/intents/${how}`, { body: { ...chosen, confirm: matched } });
    say(`${many(done, "intent")}: done.`);
  });

const erase = () =>
  act(async () => {
    const { rows, live } = await ask("GET", "/user", { query: { id: user } });
    const text = `${many(sum(rows), "row")} and ${many(live, "live session")} of ${user}. There is no way back.`;
    if (!(await sure("Erase everything of this person?", text, "Erase for ever"))) return;
    const done = await ask("DELETE", "/user", { query: { id: user } });
    const { files } = done;
    const isLeft = sum(done.left) > 0 || files.naming.length > 0 || !files.journal;
    showPairs($("proof"), [
      ["Receipt", done.receipt],
      ["Erased", counted(done.rows)],
      ["Left", counted(done.left), sum(done.left)],
      ["Sessions that were live", done.ended],
      ["Journal of this node", files.journal ? "has nothing of it" : "has not given up its files yet", !files.journal],
      ["Condemned records, broken files", `${files.removed.condemned} and ${files.removed.broken} removed`],
      ["Broken files that are left", files.removed.broken_left, files.removed.broken_left],
      ["Files that name them", files.naming.join(", ") || "none", files.naming.length],
      ["Other nodes", done.other_nodes.length ? `${many(done.other_nodes.length, "node")} look at their files now` : "none"],
    ]);
    $("found").hidden = true;
    $("user").value = user = "";
    say(isLeft ? "Something is left: do it again." : "Everything of this person is erased.");
  });

function download(file, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), PAUSE);
}

const exportUser = () =>
  act(async () => {
    download(await load("/user/export", { id: user }), "export.json");
    say("The export is with your downloads.");
  });

const showTimeline = (id) =>
  act(async () => {
    download(await load(`/${id}/timeline`, {}, "admin/sessions"), `timeline-${short(id)}.html`);
    say("The timeline is with your downloads.");
  });

const restore = () =>
  act(async () => {
    const { restored } = await ask("POST", "/condemned/restore");
    say(`${many(restored, "record")} back in the journal.`);
  });

// --- the page -----------------------------------------------------------------------------------

function say(text) {
  $("done").textContent = text;
}

function complain(error) {
  if (error.status === 401 || error.status === 403) leave();
  $("notice-text").textContent = error.message;
  $("notice").hidden = false;
}

/** Do it, say what went wrong, and show how things are now. */
async function act(work) {
  $("notice").hidden = true;
  say("");
  try {
    await work();
    await parts[current()]();
  } catch (error) {
    complain(error);
  }
}

function showPart() {
  if ($("nav").hidden) return;
  for (const name of Object.keys(parts)) $(name).hidden = name !== current();
  for (const link of $("nav").querySelectorAll("a")) {
    if (link.hash.slice(1) === current()) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  act(async () => {});
}

async function lookAgain() {
  if (!$("nav").hidden && !document.hidden && !$("sure").open) {
    try {
      await parts[current()]();
    } catch (error) {
      complain(error);
    }
  }
  setTimeout(lookAgain, PAUSE);
}

function leave() {
  use("");
  for (const name of Object.keys(parts)) $(name).hidden = true;
  for (const table of document.querySelectorAll(".table")) table.replaceChildren();
  for (const list of [$("state-list"), $("proof")]) list.replaceChildren();
  $("found").hidden = $("nav").hidden = $("leave").hidden = true;
  $("user").value = user = "";
  $("enter").hidden = false;
  $("key").focus();
}

function on(form, work) {
  $(form).onsubmit = (event) => {
    event.preventDefault();
    work();
  };
}

on("enter", async () => {
  use($("key").value.trim());
  $("key").value = "";
  $("notice").hidden = true;
  try {
    await ask("GET", "/state");
  } catch (error) {
    complain(error);
    return;
  }
  $("enter").hidden = true;
  $("nav").hidden = $("leave").hidden = false;
  showPart();
  $("main").focus();
});
on("intents-form", () => act(intents));
on("person-form", () => act(look));
const filters = () => {
  const given = { intent: $("intent").value.trim(), reason: $("reason").value.trim() };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value));
};
$("retry").onclick = () => change("retry", filters());
$("discard").onclick = () => change("discard", filters());
$("erase").onclick = erase;
$("export").onclick = exportUser;
$("restore").onclick = restore;
$("leave").onclick = leave;
$("notice-close").onclick = () => ($("notice").hidden = true);
window.onhashchange = showPart;
$("key").focus();
setTimeout(lookAgain, PAUSE);
