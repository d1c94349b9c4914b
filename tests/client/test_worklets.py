"""The exact parts of the client, in plain Node.js."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")
CLIENT = Path(__file__).parents[2] / "relay" / "client"

pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node")


@pytest.fixture
def node(tmp_path):
    """`node(source)` runs a module beside the client's; it returns what `tell` was told."""
    for path in CLIENT.glob("*.js"):
        shutil.copy(path, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')

    def run(source):
        (tmp_path / "test.js").write_text(
            "const tell = (value) => console.log(JSON.stringify(value));\n" + source
        )
        done = subprocess.run(
            [NODE, "test.js"], cwd=tmp_path, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


TONE = """
import { Resampler } from "./worklet.js";
function through(source, target, hertz, piece) {
  const resampler = new Resampler(source, target);
  const out = [];
  for (let at = 0; at < source; at += piece) {
    const size = Math.min(piece, source - at);
    const samples = Float32Array.from({ length: size }, (_, n) =>
      Math.sin((2 * Math.PI * hertz * (at + n)) / source));
    out.push(...resampler.feed(samples));
  }
  return out;
}
function level(samples) { // root mean square without the beginning, in dB of a full sine
  const part = samples.slice(samples.length >> 2);
  const power = part.reduce((sum, sample) => sum + sample * sample, 0) / part.length;
  return 10 * Math.log10(2 * power + 1e-20);
}
"""


@pytest.mark.parametrize(
    ("source", "target"),
    [(48000, 16000), (44100, 16000), (48000, 8000), (24000, 48000), (24000, 44100), (16000, 16000)],
)
def test_a_tone_keeps_its_level_and_its_length(node, source, target):
    found = node(
        TONE + f"const out = through({source}, {target}, 1000, 128);"
        "tell([out.length, level(out), Math.max(...out)]);"
    )

    length, level, peak = found
    assert abs(length - target) <= 0.005 * target  # the filter's delay
    assert abs(level) < 0.02  # dB
    assert peak < 1.01


@pytest.mark.parametrize(
    ("hertz", "target"), [(9000, 16000), (12000, 16000), (20000, 16000), (5000, 8000)]
)
def test_what_would_fold_back_is_taken_out(node, hertz, target):
    level = node(TONE + f"tell(level(through(48000, {target}, {hertz}, 128)));")

    assert level < -70  # dB


def test_speech_up_to_6_5_khz_passes(node):
    assert node(TONE + "tell(level(through(48000, 16000, 6500, 128)));") > -1


def test_pieces_of_any_size_give_the_same_samples(node):
    differences = node(
        TONE
        + """const whole = through(44100, 16000, 440, 44100);
        tell([1, 7, 128, 1000].map((piece) => through(44100, 16000, 440, piece)
            .reduce((most, sample, n) => Math.max(most, Math.abs(sample - whole[n])), 0)));"""
    )

    assert max(differences) == 0


JITTER = """
import { JitterBuffer } from "./worklet.js";
const RATE = 48000, BLOCK = 128;
const buffer = new JitterBuffer(RATE);
let next = 1; // each sample is a number of its own: nothing may be lost, doubled or out of order
const write = (count) => buffer.write(Float32Array.from({ length: count }, () => next++ / 1e6));
const heard = [];
const read = (blocks) => { for (let n = 0; n < blocks; n++) {
  const out = new Float32Array(BLOCK); buffer.read(out); heard.push(...out); } };
const numbers = () => heard.map((sample) => Math.round(sample * 1e6));
"""


def test_playback_waits_for_60_ms_and_then_has_no_gap(node):
    first, gapless = node(
        JITTER
        + """for (let n = 0; n < 50; n++) { write(960); read(7); }
        const played = numbers(); const start = played.findIndex((number) => number > 0);
        tell([start, played.slice(start).every((number, n) => number === n + 1)]);"""
    )

    assert first == 14 * 128  # the blocks before the third frame of 20 ms was there
    assert gapless


def test_a_short_word_is_heard_although_it_never_fills_the_buffer(node):
    heard = node(JITTER + "write(480); read(60); tell(numbers().filter((number) => number > 0));")

    assert heard[:480] == list(range(1, 481))


def test_a_flush_is_silence_within_3_ms_and_what_follows_is_new(node):
    found = node(
        JITTER
        + """write(48000); read(100); const before = heard.length; buffer.flush(); read(10);
        const after = heard.slice(before).map(Math.abs);
        const silent = after.findIndex((sample) => sample === 0);
        next = 500000; write(9600); read(40);
        tell([silent, after.slice(silent).every((sample) => sample === 0),
            numbers().find((number) => number >= 500000)]);"""
    )

    silent, stays, first = found
    assert silent <= 0.003 * 48000 + 1
    assert stays
    assert first == 500000


def test_after_it_ran_dry_more_is_collected_first(node):
    found = node(
        JITTER
        + """write(2880); read(30); const dry = buffer.start; write(2880); read(1);
        const early = buffer.playing; write(2880); read(1); tell([dry, early, buffer.playing]);"""
    )

    assert found == [0.12, False, True]


TRANSCRIPT = """
import { Transcript } from "./transcript.js";
const transcript = new Transcript();
const said = (role, content) => transcript.handle({ type: "ConversationText", role, content });
const saved = (seq, role) => transcript.handle({ type: "RelayMessageSaved", seq, role });
const stored = (seq, role, content) => ({ seq, role, content });
const shown = () => transcript.items().map((item) => item.kind === "card"
  ? [item.key, item.status]
  : [item.role, item.lines.map((line) => line.text).join(" "), item.lines.map((line) => line.seq)]);
"""


def test_what_is_told_twice_is_shown_once_in_its_place(node):
    items = node(
        TRANSCRIPT
        + """said("assistant", "Hi."); saved(1, "assistant");
        said("user", "Yes."); said("assistant", "Good.");
        transcript.merge([stored(1, "assistant", "Hi."), stored(2, "user", "Yes."),
            stored(3, "assistant", "Missed."), stored(4, "assistant", "Good.")],
            [{ call_id: "c", id: "i", intent: "GOAL", status: "submitted", arguments: {},
               after_seq: 2 }]);
        transcript.handle(
            { type: "RelayIntent", id: "i", call_id: "c", status: "submitted" });
        tell(shown());"""
    )

    assert items == [
        ["assistant", "Hi.", [1]],
        ["user", "Yes.", [2]],
        ["i", "submitted"],
        ["assistant", "Missed. Good.", [3, 4]],
    ]


def test_another_relay_tells_what_was_missed_and_ticks_go_to_their_own(node):
    items = node(
        TRANSCRIPT
        + """transcript.handle({ type: "RelaySession", last_seq: 0 });
        said("user", "One."); said("assistant", "Two.");
        transcript.handle({ type: "RelaySession", taken_over: true, last_seq: 1000002,
            messages: [stored(1, "user", "One.")] });
        said("assistant", "Three."); saved(1000003, "assistant");
        transcript.merge([stored(2, "assistant", "Two.")]);
        tell(shown());"""
    )

    assert items == [["user", "One.", [1]], ["assistant", "Two. Three.", [2, 1000003]]]


def test_a_typed_line_becomes_the_one_that_the_agent_heard(node):
    items = node(
        TRANSCRIPT
        + """transcript.typed("Hello"); said("assistant", "Hi."); said("user", "Hello");
        saved(1, "assistant"); saved(2, "user"); tell(shown());"""
    )

    assert items == [["assistant", "Hi.", [1]], ["user", "Hello", [2]]]


def test_the_table_of_close_codes(node):
    steps = node(
        """import { whatNext } from "./comeback.js";
        const end = (code, more) => whatNext({ code, reason: "", greeted: true, ...more }, 0).step;
        const codes = [1000, 1001, 1002, 1006, 1007, 1008, 1009, 1011, 1012, 1014, 4001];
        tell(codes.map((code) => end(code)).concat([end(1006, { greeted: false }),
                whatNext({ code: 1014, reason: "", greeted: true }, 5).step,
                whatNext({ code: 1000, reason: "continued elsewhere" }, 0).problem]));"""
    )

    assert steps == [
        *("stop", "return", "stop", "return", "stop", "return", "stop"),
        *("begin", "return", "begin", "stop"),
        *("ask", "stop", "elsewhere"),
    ]


def test_late_audio_of_a_cut_reply_is_dropped_until_something_new_begins(node):
    heard = node(
        """import { Floor } from "./floor.js";
        const floor = new Floor();
        const after = (...events) => { floor.handle({ type: "UserStartedSpeaking" });
            for (const event of events) floor.handle(event); return floor.audio(); };
        tell([floor.audio(), after(), after({ type: "AgentAudioDone" }),
            after({ type: "ConversationText", role: "assistant" }),
            ...["EndOfTurn", "AgentThinking", "FunctionCallRequest", "RelayIntent",
                "AgentStartedSpeaking", "RelayReconnected"].map((type) => after({ type })),
            after({ type: "ConversationText", role: "user" })]);"""
    )

    assert heard == [True, False, False, False, True, True, True, True, True, True, True]


def test_a_reply_whose_end_does_not_come_is_over_when_its_agent_is_gone_or_its_end_was_missed(node):
    turns = node(
        """import { Floor } from "./floor.js";
        const after = (event, before = "speaking") => { const floor = new Floor();
            if (before === "speaking") floor.audio(); else floor.handle({ type: "AgentThinking" });
            floor.handle(event); return floor.turn; };
        tell([after({ type: "AgentAudioDone" }), after({ type: "RelayReconnecting" }),
            after({ type: "RelayReconnected" }), after({ type: "RelayReconnected" }, "thinking"),
            after({ type: "RelayError", code: "events_missed" }),
            after({ type: "RelayError", code: "too_many_messages" })]);"""
    )

    assert turns == ["listening"] * 3 + ["thinking", "listening", "speaking"]


def test_what_becomes_of_a_call_later_is_no_turn(node):
    heard = node(
        """import { Floor } from "./floor.js";
        const floor = new Floor();
        const call = (id, status) => floor.handle({ type: "RelayIntent", id, status });
        call("a", "awaiting");
        const asked = floor.turn;
        floor.handle({ type: "UserStartedSpeaking" });
        call("a", "submitting"); call("a", "cancelling");
        const cut = floor.audio();
        call("b", "submitting");
        tell([asked, cut, floor.turn, floor.audio()]);"""
    )

    assert heard == ["thinking", False, "thinking", True]


def test_a_card_says_how_long_it_waits_and_that_it_was_taken_back_too_late(node):
    items = node(
        TRANSCRIPT
        + """const told = (status, more) => transcript.handle({ type: "RelayIntent", id: "i",
            intent: "GOAL", status, ...more });
        const card = () => { const [{ until, takenBack }] = transcript.items();
            return [until, takenBack]; };
        told("awaiting", { next_attempt_at: "2026-04-30T15:01:00Z" });
        const waits = card();
        told("submitted", { taken_back: true });
        const done = card();
        transcript.merge([], [{ id: "i", status: "awaiting", next_attempt_at: "later",
            taken_back: false, after_seq: 0 }]);
        tell([waits, done, card()]);"""
    )

    old = [None, True]  # what is stored already is older than what was told
    assert items == [["2026-04-30T15:01:00Z", False], [None, True], old]


def test_a_card_of_what_is_stored_says_that_it_is_saved_and_why(node):
    items = node(
        TRANSCRIPT
        + """const kept = (status, more) => {
            transcript.merge([], [{ id: "i", status, result: null, after_seq: 0, ...more }]);
            const [{ result, until }] = transcript.items();
            return [result, until]; };
        const error = { last_error: "it is busy (status 503, (tried twice))" };
        tell([kept("submitting", { next_attempt_at: "soon" }),
            kept("submitting", { next_attempt_at: "later", ...error }),
            kept("failed", { last_error: "too late" }), kept("submitting", {})]);"""
    )

    saved = {"saved": True, "because": "it is busy"}
    again = [None, None]
    assert items == [[None, "soon"], [saved, "later"], [{"error": "too late"}, None], again]


def test_what_is_said_by_the_way_is_no_turn(node):
    turns = node(
        """import { Floor } from "./floor.js";
        const floor = new Floor();
        tell(["backchannel", "default", undefined].map((conversational_behavior) => {
            floor.reset();
            floor.audio();
            floor.handle({ type: "ConversationText", role: "user", conversational_behavior });
            return floor.turn; }));"""
    )

    assert turns == ["speaking", "thinking", "thinking"]


def test_play_out_is_measured_once_a_turn_from_the_first_audio_until_it_is_heard(node):
    measured = node(
        """import { Playout } from "./playout.js";
        const playout = new Playout();
        const asked = (more) => playout.handle({ type: "ConversationText", role: "user", ...more });
        const all = [];
        const audio = (playing, now, heard) => { playout.audio(playing, now);
            all.push(playout.heard(heard)); };
        audio(false, 1, 2); // a greeting
        asked(); audio(false, 3, 3.25); audio(false, 4, 5);
        asked({ conversational_behavior: "backchannel" }); audio(false, 6, 7);
        asked(); audio(true, 8, 9); audio(false, 10, 11); // behind what still plays
        asked(); playout.audio(false, 12); playout.cut(); all.push(playout.heard(13));
        asked(); audio(false, 14, 75); // it slept
        asked(); audio(false, 100, 100.5);
        tell(all);"""
    )

    assert measured == [None, 0.25, None, None, None, None, None, None, 0.5]


SESSION = """
import { Session, Rest } from "./session.js";
const asked = []; // what REST was asked; `answers` gives what it says
const answers = {};
const fetch = async (url, { method, headers }) => {
  const path = url.replace("/api", "").split("?")[0];
  asked.push([method, path, headers.Authorization]);
  const [status, body] = answers[path]?.() ?? [201, { session_id: "s", conversation_id: "c",
    websocket_url: "ws://relay/s", ticket: "first", messages: [{ seq: 3, role: "user" }],
    audio: { input: {}, output: {} } }];
  return new Response(JSON.stringify(body), { status });
};
const sockets = [];
class Socket {
  bufferedAmount = 0;
  readyState = 1;
  sent = [];
  constructor(url, protocols) { Object.assign(this, { url, protocols }); sockets.push(this); }
  send(data) { this.sent.push(typeof data === "string" ? JSON.parse(data) : data.byteLength); }
  close() { this.onclose?.({ code: 1000, reason: "" }); }
  tell(type, more) { this.onmessage({ data: JSON.stringify({ type, ...more }) }); }
  greet(more) { this.tell("RelaySession", { resume_ticket: `t${sockets.length}`, ...more }); }
}
const rest = new Rest({ url: "/api", fetch, getToken: async () => "token" });
const session = new Session({ rest, WebSocket: Socket, online: () => true });
const states = [];
session.addEventListener("state", ({ detail: { state, problem } }) =>
  states.push(problem?.code ?? state));
const until = async (done) => { while (!done()) await new Promise((r) => setTimeout(r, 5)); };
async function begin() {
  const opened = session.open("c");
  await until(() => sockets.length === 1);
  sockets[0].greet(); sockets[0].tell("Welcome"); sockets[0].tell("SettingsApplied");
  await opened;
}
"""


def test_a_break_is_come_back_from_with_the_newest_ticket_and_what_was_held(node):
    found = node(
        SESSION
        + """await begin();
        sockets[0].tell("RelayMessageSaved", { seq: 4, role: "user" });
        sockets[0].onclose({ code: 1006, reason: "" });
        session.sendAudio(new ArrayBuffer(640)); session.type("Hello").catch(() => {});
        await until(() => sockets.length === 2);
        sockets[0].tell("ConversationText", { role: "user", content: "from the dead" });
        sockets[1].greet();
        tell([sockets[1].url, sockets[1].protocols, sockets[1].sent, states, asked]);
        session.close();"""
    )

    url, protocols, sent, states, asked = found
    assert url == "ws://relay/s?received=3&seq=4"
    assert protocols == ["relay.v1", "t1"]
    assert sent == [{"type": "KeepAlive"}, 640, {"type": "InjectUserMessage", "content": "Hello"}]
    assert states == ["connecting", "open", "reconnecting", "open"]
    assert asked == [["POST", "/session", "Bearer token"]]


def test_a_relay_that_refuses_to_be_told_of_play_out_is_told_once(node):
    sent = node(
        SESSION
        + """await begin();
        session.playedOut(0.18349);
        sockets[0].tell("RelayError", { code: "not_allowed", detail: "no" });
        session.playedOut(0.2);
        tell(sockets[0].sent); session.close();"""
    )

    assert sent == [{"type": "KeepAlive"}, {"type": "RelayPlayout", "seconds": 0.183}]


def test_a_typed_turn_that_was_heard_before_the_break_is_not_sent_again(node):
    sent = node(
        SESSION
        + """await begin(); let heard = false;
        session.type("Hello").then(() => { heard = true; });
        session.type("Lost").catch(() => {});
        sockets[0].onclose({ code: 1006, reason: "" });
        await until(() => sockets.length === 2);
        sockets[1].greet();
        sockets[1].tell("ConversationText", { role: "user", content: "Hello" });
        await until(() => sockets[1].sent.length === 2);
        tell([heard, sockets[1].sent]); session.close();"""
    )

    assert sent == [
        True,
        [{"type": "KeepAlive"}, {"type": "InjectUserMessage", "content": "Lost"}],
    ]


def test_at_another_relay_it_counts_anew_and_asks_for_what_was_missed(node):
    found = node(
        SESSION
        + """await begin(); let gaps = 0;
        session.addEventListener("gap", () => gaps++);
        for (const code of [1012, 1001]) {
          sockets.at(-1).onclose({ code, reason: "" });
          const count = sockets.length;
          await until(() => sockets.length > count);
          sockets.at(-1).greet({ taken_over: true, last_seq: 4, messages: [] });
          sockets.at(-1).tell("RelayReconnected");
        }
        tell([sockets.map(({ url }) => url), gaps]); session.close();"""
    )

    urls, gaps = found
    assert urls == [
        "ws://relay/s",
        "ws://relay/s?received=2&seq=3",
        "ws://relay/s?received=1&seq=3",
    ]
    assert gaps == 2


def test_a_session_that_is_over_is_followed_by_another_in_the_same_conversation(node):
    asked = node(
        SESSION
        + """await begin(); answers["/session/s"] = () => [200, { state: "ended" }];
        sockets[0].onclose({ code: 1006, reason: "" });
        await until(() => sockets.length === 2);
        sockets[1].onclose({ code: 1006, reason: "" }); // refused: a browser is not told why
        await until(() => sockets.length === 3);
        tell([asked.map(([method, path]) => `${method} ${path}`), sockets[2].url]);
        session.close();"""
    )

    assert asked == [["POST /session", "GET /session/s", "POST /session"], "ws://relay/s"]


def test_an_agent_that_gives_up_again_and_again_is_told(node):
    found = node(
        SESSION.replace("setTimeout(r, 5)", "setImmediate(r)")
        + """
        const now = globalThis.setTimeout;
        globalThis.setTimeout = (run) => now(run, 1); // longer and longer pauses
        const opened = session.open().catch((problem) => problem.code);
        for (let n = 0; states.at(-1) !== "agent" && n < 20; n++) {
          await until(() => sockets.length > n || states.at(-1) === "agent");
          sockets[n]?.greet(); sockets[n]?.onclose({ code: 1014, reason: "agent unreachable" });
          await new Promise((r) => setImmediate(r));
        }
        tell([await opened, states.at(-1), sockets.length]);"""
    )

    assert found == ["agent", "agent", 6]


def test_hanging_up_while_it_begins_is_no_accident(node):
    found = node(
        SESSION
        + """const opened = session.open().catch((problem) => problem.code);
        await until(() => sockets.length === 1); session.close();
        tell([await opened, states, session.state]);"""
    )

    assert found == ["closed", ["connecting", "closed"], "closed"]


WATCHDOG = """
import { Watchdog } from "./watchdog.js";
let now = 1000;
let look;
let dead = 0;
let asked = 0;
globalThis.document = { visibilityState: "visible" };
performance.now = () => now;
globalThis.setInterval = (tick) => { look = tick; };
globalThis.clearInterval = () => { look = () => {}; };
const rest = { intents: async () => { asked += 1; } };
const socket = { bufferedAmount: 0 };
const dog = new Watchdog(rest, () => { dead += 1; });
function tick(milliseconds, seen, heard = true) {
  now += milliseconds;
  document.visibilityState = seen ? "visible" : "hidden";
  if (heard) dog.heard();
  look();
}
dog.watch(socket);
tick(1000, true);
"""


def test_a_page_that_nobody_sees_keeps_a_connection_that_lives(node):
    told = node(
        WATCHDOG
        + """
        tick(1000, false);
        for (let minute = 0; minute < 10; minute++) tick(60_000, false); // as Chromium throttles
        const live = { dead, asked };
        tick(60_000, false, false); // nothing came for a minute: it is asked for, and there
        tick(30_000, true); // it is looked at again: the last tick was late, too
        await null;
        tell({ live, dead, asked });
        """
    )

    assert told == {"live": {"dead": 0, "asked": 0}, "dead": 0, "asked": 1}


def test_a_page_that_slept_gives_its_connection_up(node):
    assert node(WATCHDOG + "tick(60_000, true); tell(dead);") == 1


def test_a_network_that_takes_nothing_is_noticed_by_the_clock_not_by_ticks(node):
    told = node(
        WATCHDOG
        + """
        socket.bufferedAmount = 1e6;
        tick(1000, false);
        const first = dead;
        tick(60_000, false);
        tell({ first, dead });
        """
    )

    assert told == {"first": 0, "dead": 1}


WORKER = """
import { readFileSync } from "node:fs";
import vm from "node:vm";
const stores = new Map();
const key = (request) => new URL(request.url ?? request, "https://x/").href;
const caches = {
  open: async (name) => {
    if (!stores.has(name)) stores.set(name, new Map());
    const store = stores.get(name);
    return {
      put: async (request, answer) => void store.set(key(request), answer),
      match: async (request) => store.get(key(request))?.clone(),
    };
  },
  keys: async () => [...stores.keys()],
  delete: async (name) => stores.delete(name),
};
const handlers = {};
const self = {
  location: new URL("https://x/worker.js"),
  addEventListener: (type, handle) => { handlers[type] = handle; },
};
const net = { answer: null }; // a promise of what it says
const late = []; // what waits for the patience to be over
vm.runInNewContext(readFileSync("worker.js", "utf8"), {
  self, caches, crypto, URL, Headers, Request, Response, TextEncoder, atob, console,
  fetch: () => net.answer,
  setTimeout: (run) => late.push(run),
});
const work = [];
function ask(user) {
  const token = `x.${btoa(JSON.stringify({ sub: user }))}.x`;
  const request = new Request("https://x/api/v1/voice/conversations?limit=30", {
    headers: { Authorization: `Bearer ${token}` },
  });
  let answer;
  handlers.fetch({
    request,
    respondWith: (promised) => { answer = promised; },
    waitUntil: (promised) => work.push(promised),
  });
  return answer;
}
const says = (text) => Response.json({ items: [text] });
const tick = () => new Promise((resolve) => setImmediate(resolve));
async function settle() {
  for (let turn = 0; turn < 20; turn++) await tick();
  await Promise.all(work);
}
// The patience is over, of a request whose user is known by then: a thread makes the digest.
async function lateNow() {
  while (!late.length) await tick();
  for (const run of late.splice(0)) run();
}
net.answer = Promise.resolve(says("of a"));
await ask("a");
await settle();
late.splice(0);
"""


def test_a_slow_network_shows_a_user_their_copy_and_another_one_nothing(node):
    told = node(
        WORKER
        + """
        let arrive;
        net.answer = new Promise((resolve) => { arrive = resolve; }); // slow
        const mine = ask("a");
        await lateNow();
        const copy = await (await mine).json();
        arrive(says("of a, later"));
        await settle();

        net.answer = new Promise((resolve) => { arrive = resolve; });
        let answered = false;
        const theirs = ask("b").then((answer) => { answered = true; return answer.json(); });
        await lateNow();
        await settle();
        const waited = !answered;
        arrive(says("of b"));
        const items = (await theirs).items;
        await settle();
        tell({ copy: copy.items, waited, items, stores: stores.size });
        """
    )

    assert told == {"copy": ["of a"], "waited": True, "items": ["of b"], "stores": 1}


def test_a_copy_is_what_a_busy_relay_answers_with_and_says_so(node):
    told = node(
        WORKER
        + """
        net.answer = Promise.resolve(new Response("{}", { status: 503 }));
        const copy = await ask("a");
        const other = await ask("b");
        tell({ kept: copy.headers.has("Relay-Kept"), items: (await copy.json()).items,
          other: [other.status, other.headers.has("Relay-Kept")] });
        """
    )

    assert told == {"kept": True, "items": ["of a"], "other": [503, False]}
