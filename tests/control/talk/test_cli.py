"""The terminal client against a small relay of our own, and what it shows."""

import asyncio
import io
import json
import wave
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from control.talk.audio import write_wav
from control.talk.caller import Line
from control.talk.cli import TalkOptions, talk
from control.talk.display import Screen
from control.talk.turns import QUIET
from relay.protocol import deepgram
from tests.control.talk.test_turns import intent as relay_intent

TICKET = "a-ticket"
ID = UUID(int=1)
RATE = 16000
TENTH = bytes([1, 1]) * 2400  # 0.1 s of the agent's voice at 24 kHz


@pytest.fixture
def spoken(tmp_path):
    """0.2 s of sound, then 0.1 s of silence."""
    tone = 0.5 * np.sin(2 * np.pi * 440.0 * np.arange(RATE // 5) / RATE)
    samples = np.concatenate([tone, np.zeros(RATE // 10)])
    path = tmp_path / "spoken.wav"
    write_wav(path, RATE, (samples * 32767).astype("<i2").tobytes())
    return path


class Relay:
    """Says the greeting, then answers every input; what it does beyond that is an argument."""

    def __init__(self, *, status=201, session=None, handshake=None, reply=None, greeting=True):
        self.status = status
        self.session = session or {}
        self.handshake = handshake
        self.reply = reply or self.plain_reply
        self.greeting = greeting
        self.bodies = []
        self.frames = []  # (loop time, bytes)
        self.texts = []
        self.said_at = []  # the first frame of sound of each input
        self.replied_at = []
        self.closed_with = None
        self.url = self.agent_url = ""

    async def post(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.split("content-length: ")[1].split("\r\n")[0])
        self.bodies.append(json.loads(await reader.readexactly(size)))
        if self.status == 201:
            body = json.dumps(self.answer()).encode()
        else:
            body = json.dumps({"title": "Busy", "detail": "no room for a session"}).encode()
        writer.write(
            b"HTTP/1.1 %d X\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            % (self.status, len(body))
            + body
        )
        await writer.drain()
        writer.close()

    def answer(self):
        form = {"encoding": "linear16", "sample_rate": RATE}
        return {
            "session_id": "s-1",
            "conversation_id": "c-1",
            "websocket_url": self.agent_url + "/api/v1/voice/session/s-1/ws",
            "ticket": TICKET,
            "audio": {"input": form, "output": {**form, "sample_rate": 24000}},
            "messages": [],
            "something_new": True,
            **self.session,
        }

    def refuse(self, browser, request):
        if self.handshake is None:
            return None
        response = browser.respond(self.handshake, '{"detail": "the ticket was used"}')
        return response

    async def say(self, browser, *events):
        for event in events:
            if isinstance(event, bytes):
                await browser.send(event)
            else:
                await browser.send(json.dumps(event))

    async def plain_reply(self, browser, words):
        await self.say(browser, text("user", words), text("assistant", "Fine."), TENTH, DONE)

    async def session_of(self, browser):
        try:
            await self.hold(browser)
        except ConnectionClosed:
            pass  # the client left in the middle of a reply
        self.closed_with = browser.close_code

    async def hold(self, browser):
        await self.say(
            browser,
            {
                "type": "RelaySession",
                "session_id": str(ID),
                "conversation_id": str(ID),
                "resume_ticket": "t",
                "resume_within": 0.0,
            },
            {"type": "SomethingNew"},
            {"type": "SettingsApplied"},
        )
        if self.greeting:
            await self.say(browser, text("assistant", "Hello."), TENTH, DONE)
        loop = asyncio.get_running_loop()
        speaking = False
        async for frame in browser:
            now = loop.time()
            if isinstance(frame, str):
                self.texts.append(json.loads(frame))
                self.said_at.append(now)
                await self.reply(browser, self.texts[-1]["content"])
                self.replied_at.append(loop.time())
                continue
            self.frames.append((now, frame))
            sound = any(frame)
            if sound and not speaking:
                self.said_at.append(now)
            if speaking and not sound:
                await self.reply(browser, "spoken words")
                self.replied_at.append(loop.time())
            speaking = sound

    @asynccontextmanager
    async def running(self):
        http = await asyncio.start_server(self.post, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{http.sockets[0].getsockname()[1]}"
        async with (
            http,
            serve(
                self.session_of,
                "127.0.0.1",
                0,
                subprotocols=["relay.v1"],
                process_request=self.refuse,
            ) as server,
        ):
            self.agent_url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self


def text(role, content):
    return {"type": "ConversationText", "role": role, "content": content}


def intent(status, **fields):
    it = {"type": "RelayIntent", "id": str(ID), "call_id": "f-1", "intent": "GOAL"}
    return {**it, "status": status, **fields}


DONE = {"type": "AgentAudioDone"}


async def run(relay, *inputs, typed=None, **options):
    """Talk to it; the exit code, and what scripts see."""
    out = io.StringIO()
    options = TalkOptions(url=relay.url, inputs=inputs, as_json=True, **{"timeout": 5.0, **options})
    async with asyncio.timeout(20):
        code = await talk(options, out, typed)
    return code, [json.loads(line) for line in out.getvalue().splitlines()]


def of(kind, lines):
    return [line for line in lines if line["event"] == kind]


async def test_a_good_session_ends_with_0_and_close_code_1000(spoken):
    async with Relay().running() as relay:
        code, lines = await run(relay, spoken, Line("and this"), timezone="Europe/Berlin")

    said = [(line["role"], line["content"]) for line in of("message", lines)]
    assert code == 0
    assert said == [
        ("assistant", "Hello."),
        ("user", "spoken words"),
        ("assistant", "Fine."),
        ("user", "and this"),
        ("assistant", "Fine."),
    ]
    assert relay.bodies == [{"timezone": "Europe/Berlin"}]
    assert relay.texts == [{"type": "InjectUserMessage", "content": "and this"}]
    assert relay.closed_with == 1000
    assert lines[-1]["event"] == "end"
    assert lines[-1]["exit_code"] == 0
    assert lines[-1]["conversation_id"] == "c-1"


async def test_every_input_waits_until_the_agent_was_heard_to_the_end(spoken):
    async def long_reply(browser, words):
        await relay.say(browser, text("user", words), text("assistant", "Fine."), TENTH * 5, DONE)

    async with Relay(reply=long_reply).running() as relay:
        code, _ = await run(relay, spoken, Line("and this"))

    # 0.5 s of audio came at once; it is played in real time, and then there is a pause.
    assert code == 0
    assert relay.said_at[1] - relay.replied_at[0] > 0.5 + QUIET - 0.1


async def test_the_microphone_streams_all_the_time_in_20_ms_frames(spoken):
    async with Relay().running() as relay:
        await run(relay, spoken)

    seconds = relay.frames[-1][0] - relay.frames[0][0]
    assert {len(frame) for _, frame in relay.frames} == {640}
    assert len(relay.frames) == pytest.approx(seconds / 0.02, rel=0.15, abs=3)
    sound = b"".join(frame for _, frame in relay.frames).strip(b"\0")
    assert len(sound) == pytest.approx(0.2 * RATE * 2, abs=8)


async def test_the_reply_is_timed_from_the_end_of_the_words(spoken):
    async def slow_reply(browser, words):
        await asyncio.sleep(0.3)  # the thing that is measured, not a wait for something
        await Relay.plain_reply(relay, browser, words)

    async with Relay(reply=slow_reply).running() as relay:
        _, lines = await run(relay, spoken)

    (turn,) = of("turn", lines)
    assert turn["input"] == "spoken.wav"
    assert 300 <= turn["reply_ms"] < 900


async def test_a_function_call_is_waited_for_with_the_reply_that_tells_its_result(spoken):
    async def reply(browser, words):
        await relay.say(
            browser,
            text("user", words),
            intent("submitting", arguments={"title": "run"}),
            text("assistant", "One moment."),
            TENTH,
            DONE,
        )
        await asyncio.sleep(0.6)  # longer than the quiet after which the client would go on
        await relay.say(browser, intent("submitted", result={"id": 1}))
        await relay.say(browser, text("assistant", "It is done."), TENTH, DONE)

    async with Relay(reply=reply).running() as relay:
        code, lines = await run(relay, spoken)

    assert code == 0
    assert [line["status"] for line in of("intent", lines)] == ["submitting", "submitted"]
    assert of("message", lines)[-1]["content"] == "It is done."


async def test_the_agents_audio_is_saved(spoken, tmp_path):
    path = tmp_path / "agent.wav"
    async with Relay().running() as relay:
        _, lines = await run(relay, spoken, save=path)

    with wave.open(str(path), "rb") as file:
        assert file.getframerate() == 24000
        assert file.readframes(file.getnframes()) == TENTH * 2
    assert lines[-1]["saved"] == str(path)


async def test_a_resumed_conversation_shows_what_was_said_and_has_no_greeting(spoken):
    session = {"messages": [{"role": "user", "content": "earlier words", "seq": 1}]}
    async with Relay(session=session, greeting=False).running() as relay:
        code, lines = await run(relay, spoken, conversation="c-1")

    assert code == 0
    assert relay.bodies == [{"conversation_id": "c-1"}]
    first = of("message", lines)[0]
    assert (first["content"], first["earlier"]) == ("earlier words", True)


async def test_a_person_types_until_the_end_of_the_input():
    async with Relay().running() as relay:
        code, _ = await run(relay, typed=io.StringIO("one\n\n  two  \n"))

    assert code == 0
    assert [each["content"] for each in relay.texts] == ["one", "two"]


async def test_a_person_at_a_terminal_may_speak_before_the_agent_has_finished():
    async with Relay(greeting=False).running() as relay:
        relay.session = {"messages": [{"role": "user", "content": "earlier words"}]}
        code, _ = await run(relay, typed=Terminal("one\ntwo\n"))

    assert code == 0
    assert relay.closed_with == 1000


async def test_an_input_that_is_never_answered_ends_with_1_and_says_what_is_missing():
    async def no_reply(browser, words):
        await relay.say(browser, text("user", words))

    async with Relay(reply=no_reply).running() as relay:
        code, lines = await run(relay, Line("hello"), timeout=0.5)

    assert code == 1
    assert "a reply of the agent" in of("error", lines)[0]["detail"]
    assert lines[-1]["exit_code"] == 1
    assert relay.closed_with == 1000


@pytest.mark.parametrize(
    "error",
    [
        {"type": "Error", "code": "FAILED_TO_THINK", "description": "no model"},
        {"type": "RelayError", "code": "FAILED_TO_THINK", "detail": "no model"},
    ],
    ids=["Error", "RelayError"],
)
async def test_an_error_event_ends_with_1(error):
    async def reply(browser, words):
        await relay.say(browser, error)
        await Relay.plain_reply(relay, browser, words)

    async with Relay(reply=reply).running() as relay:
        code, lines = await run(relay, Line("hello"))

    assert code == 1
    assert of("error", lines)[0] == {
        "event": "error",
        "code": "FAILED_TO_THINK",
        "detail": "no model",
    }


@pytest.mark.parametrize("code_of_relay", [1000, 1014])
async def test_a_relay_that_hangs_up_first_ends_with_1(code_of_relay):
    async def reply(browser, words):
        await browser.close(code_of_relay, "over")

    async with Relay(reply=reply).running() as relay:
        code, lines = await run(relay, Line("hello"))

    assert code == 1
    assert of("error", lines)[0]["detail"] == f"the relay ended the session: {code_of_relay} over"


async def test_a_connection_that_breaks_ends_with_1(spoken):
    async def reply(browser, words):
        browser.transport.abort()

    async with Relay(reply=reply).running() as relay:
        code, lines = await run(relay, spoken, Line("never said"))

    assert code == 1
    assert of("error", lines)[0]["detail"] == "the connection to the relay broke"


async def test_a_refused_session_is_one_clear_line():
    async with Relay(status=503).running() as relay:
        code, lines = await run(relay, Line("hello"))

    assert code == 1
    assert [line["detail"] for line in lines] == [
        "the relay refused the session: 503 no room for a session; try again in 5 s"
    ]


async def test_a_refused_ticket_is_told_with_its_reason():
    async with Relay(handshake=401).running() as relay:
        code, lines = await run(relay, Line("hello"))

    assert code == 1
    assert (
        of("error", lines)[0]["detail"] == "the relay refused the session: 401 the ticket was used"
    )


async def test_nobody_there_is_one_clear_line():
    async with Relay().running() as relay:
        url = relay.url

    relay.url = url
    code, lines = await run(relay, Line("hello"))

    assert code == 1
    assert [line["detail"] for line in lines] == [
        f"nothing answers at {url}: is the relay running?"
    ]


async def test_a_session_in_another_encoding_is_not_spoken_to():
    form = {"encoding": "mulaw", "sample_rate": 8000}
    async with Relay(session={"audio": {"input": form, "output": form}}).running() as relay:
        code, lines = await run(relay, Line("hello"))

    assert code == 1
    assert "$.audio.input.encoding" in of("error", lines)[0]["detail"]


async def test_an_answer_that_is_no_relays_is_told():
    async with Relay(session={"ticket": 5}).running() as relay:
        code, lines = await run(relay, Line("hello"))

    assert code == 1
    assert "not the answer of a relay" in of("error", lines)[0]["detail"]


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"inputs": (Path("missing.wav"),)}, "missing.wav: No such file"),
        ({"inputs": (Line("x"),), "url": "127.0.0.1:8080"}, "expected an address"),
        ({"inputs": (Line("x"),), "url": "http://127.0.0.1:x"}, "expected an address"),
        ({"inputs": (Line("x"),), "save": Path("/no/such/folder/a.wav")}, "no such folder"),
        ({}, "nothing to say"),
    ],
)
async def test_what_cannot_be_done_ends_with_2_before_anything_is_sent(options, wrong, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    out = io.StringIO()

    code = await talk(TalkOptions(**options), out)

    assert code == 2
    assert out.getvalue().startswith("error: ")
    assert wrong in out.getvalue()
    assert out.getvalue().count("\n") == 1


# --- what is shown ---------------------------------------------------------------------------


def user(content="words"):
    return deepgram.ConversationText(role="user", content=content)


def agent(content="words"):
    return deepgram.ConversationText(role="assistant", content=content)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(*events, out=None):
    out = out or io.StringIO()
    screen = Screen(out, as_json=False)
    for event in events:
        screen.event(event)
    return out.getvalue()


def test_bubbles_and_intents_are_lines():
    said = shown(
        user("hello"),
        agent("hi"),
        relay_intent("submitting", arguments={"title": "run"}),
        relay_intent("submitted", result={"id": 1}),
        deepgram.Warning(code="SLOW_THINK_REQUEST", description="slow"),
        deepgram.UserStartedSpeaking(),
    )

    assert said.splitlines() == [
        "you:   hello",
        "agent: hi",
        'intent GOAL submitting {"title":"run"}',
        'intent GOAL submitted {"id":1}',
        "warning: SLOW_THINK_REQUEST: slow",
    ]


def test_what_waits_and_what_was_taken_back_is_said_in_words():
    said = shown(
        relay_intent("awaiting", arguments={"title": "run"}),
        relay_intent("cancelling", arguments={"title": "run"}),
        relay_intent("cancelled", arguments={"title": "run"}),
        relay_intent("submitted", result={"id": 1}, taken_back=True),
    )

    assert said.splitlines() == [
        'intent GOAL waits to be confirmed in the web client: {"title":"run"}',
        'intent GOAL is being cancelled {"title":"run"}',
        'intent GOAL cancelled {"title":"run"}',
        'intent GOAL submitted {"id":1} (taken back too late)',
    ]


def test_errors_are_red_on_a_terminal():
    said = shown(deepgram.Error(code="X", description="broken"), out=Terminal())

    assert said == "\x1b[31merror: X: broken\x1b[0m\n"


def test_what_was_said_cannot_steer_the_terminal():
    assert shown(agent("a\x1b[2Jb\r\nc\x9b")) == "agent: a [2Jb c \n"
