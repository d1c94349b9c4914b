"""One session over real sockets. The numbers in brackets are the breakages of other relays that
docs/protocol.md lists under "What breaks elsewhere"."""

from __future__ import annotations

import asyncio
import json
import socket
from types import SimpleNamespace
from typing import get_args
from uuid import uuid4

import msgspec
import pytest
import uvloop
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from relay.core import actions
from relay.core.records import IntentCalled, MessageSaid, SessionBegan, SessionEnded
from relay.functions.submission import Rejected, Submitted
from relay.live import session_runner
from relay.protocol.relay_events import IntentStatus
from tests.relay.wires import LIMITS, TICKET, Agent, agent_and_relay, next_event, relaying

FRAME = bytes(range(256)) * 2 + bytes(128)  # 640 bytes: 20 ms at 16 kHz


async def closed(browser):
    async with asyncio.timeout(5):
        try:
            while True:
                await browser.recv()
        except ConnectionClosed:
            pass
    return browser.close_code, browser.close_reason


async def test_a_browser_hears_its_session_then_the_agent():
    async with agent_and_relay() as (agent, relay):
        session_id = uuid4()
        async with relay.attach(session_id) as browser:
            first = json.loads(await browser.recv())
            second = json.loads(await browser.recv())
            third = json.loads(await browser.recv())

        assert browser.subprotocol == "relay.v1"
        assert first["type"] == "RelaySession"
        assert first["session_id"] == str(session_id)
        assert second == {"type": "Welcome", "request_id": "request-1"}
        assert third == {"type": "SettingsApplied"}
        assert agent.headers["authorization"] == "Token the-real-key"
        assert (await relay.until(SessionBegan)).agent_request_id == "request-1"


async def test_settings_carry_our_prompt_functions_and_audio():
    async with agent_and_relay() as (agent, relay), relay.attach():
        await agent.until(lambda: agent.texts)

        (settings,) = agent.texts
        assert settings["type"] == "Settings"
        assert {f["name"] for f in settings["agent"]["think"][0]["functions"]} == {
            "create_goal",
            "create_task",
            "reschedule_task",
        }
        assert settings["audio"]["input"] == {"encoding": "linear16", "sample_rate": 16000}


async def test_audio_passes_both_ways_byte_for_byte_and_in_order():
    async with agent_and_relay() as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        frames = [i.to_bytes(2, "big") + FRAME for i in range(200)]
        for frame in frames:
            await browser.send(frame)
            await agent.connections[-1].send(frame)

        heard = [await browser.recv() for _ in frames]
        await agent.until(lambda: len(agent.audio) == len(frames))

        assert heard == frames
        assert agent.audio == frames


async def test_early_frames_are_kept_in_order_until_settings_are_applied():  # [3, 11]
    agent = Agent()
    agent.answers = False
    async with serve(agent.handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with relaying(f"ws://127.0.0.1:{port}/") as relay, relay.attach() as browser:
            typed = json.dumps({"type": "InjectUserMessage", "content": "hi"})
            for frame in [b"\1\1", typed, b"\2\2"]:
                await browser.send(frame)
            await next_event(browser, "RelaySession")
            await agent.connected.wait()
            agent.answers = True
            await agent.say(type="Welcome", request_id="r")

            await agent.until(lambda: len(agent.audio) == 2)

            assert [text["type"] for text in agent.texts] == ["Settings", "InjectUserMessage"]
            assert agent.audio == [b"\1\1", b"\2\2"]


async def test_early_frames_are_bounded_and_the_oldest_go_first():  # [3]
    agent = Agent()
    agent.answers = False
    async with serve(agent.handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with relaying(f"ws://127.0.0.1:{port}/") as relay, relay.attach() as browser:
            count = 2 * LIMITS.held_audio_bytes // 1024
            for i in range(count):
                await browser.send(i.to_bytes(4, "big") * 256)
            await agent.connected.wait()
            agent.answers = True
            pong = await browser.ping()
            await pong
            await agent.say(type="Welcome", request_id="r")

            await agent.until(
                lambda: agent.audio and agent.audio[-1][:4] == (count - 1).to_bytes(4, "big")
            )

            assert sum(map(len, agent.audio)) <= LIMITS.held_audio_bytes
            kept = [int.from_bytes(frame[:4], "big") for frame in agent.audio]
            assert kept == list(range(count - len(kept), count))


async def test_events_pass_byte_for_byte_but_unknown_ones():
    async with agent_and_relay() as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        odd = '{ "type" : "EndOfTurn",  "b":1, "a":[ null ] }'
        await agent.say(type="BrandNew", content="thoughts")
        await agent.connections[-1].send(odd)

        assert await browser.recv() == odd


async def test_a_message_in_fragments_arrives_whole():
    async with agent_and_relay() as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        await browser.send([b"one", b"two", b"three"])
        await agent.connections[-1].send(['{"type":"EndOfTurn",', '"ü":1}'])

        assert await browser.recv() == '{"type":"EndOfTurn","ü":1}'
        await agent.until(lambda: agent.audio)
        assert agent.audio == [b"onetwothree"]


async def test_what_is_said_is_stored_and_the_browser_is_told():
    async with agent_and_relay() as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        await agent.say(type="ConversationText", role="user", content="Hello.")

        said = await next_event(browser, "ConversationText")
        saved = await next_event(browser, "RelayMessageSaved")

        record = await relay.until(MessageSaid)
        assert said["content"] == record.content == "Hello."
        assert (record.seq, record.turn, record.role) == (1, 1, "user")
        assert saved == {
            "type": "RelayMessageSaved",
            "seq": 1,
            "message_id": str(record.id),
            "role": "user",
        }


def goal(id="call_1", name="create_goal", arguments='{"title":"Run","deadline":"none"}'):
    return {"id": id, "name": name, "arguments": arguments, "client_side": True}


async def test_a_function_call_goes_to_the_orchestrator_and_its_answer_to_the_agent():
    taken = []

    async def submit(submission):
        taken.append(submission)
        return Submitted({"id": 7}, 1)

    async with agent_and_relay(submit=submit) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        await agent.say(type="FunctionCallRequest", functions=[goal()])

        submitting = await next_event(browser, "RelayIntent")
        submitted = await next_event(browser, "RelayIntent")
        await agent.until(lambda: len(agent.texts) == 2)

        assert submitting["status"] == "submitting"
        assert submitted["status"] == "submitted"
        assert submitted["intent"] == "GOAL"
        assert submitted["arguments"] == {"title": "Run", "deadline": "none"}
        assert submitted["result"] == {"id": 7}
        answer = agent.texts[1]
        assert (answer["type"], answer["id"], answer["name"]) == (
            "FunctionCallResponse",
            "call_1",
            "create_goal",
        )
        assert json.loads(answer["content"]) == {"status": "submitted", "result": {"id": 7}}
        assert submitting["call_id"] == submitted["call_id"] == "call_1"
        assert taken[0].call_id == submitting["id"] == submitted["id"]
        assert taken[0].user_id == "user"


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (goal(name="order_pizza"), "create_goal"),
        (goal(arguments="{not json"), "JSON"),
        (goal(arguments='{"titel":"Run"}'), "title"),
    ],
)
async def test_a_call_that_cannot_be_gets_a_useful_error_and_reaches_nobody(call, hint):  # [6, 10]
    async def submit(submission):
        raise AssertionError("must not be submitted")

    async with agent_and_relay(submit=submit) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        await agent.say(type="FunctionCallRequest", functions=[call])

        told = await next_event(browser, "RelayIntent")
        await agent.until(lambda: len(agent.texts) == 2)

        assert told["status"] == "rejected"
        assert hint in json.loads(agent.texts[1]["content"])["error"]
        assert (await relay.until(IntentCalled)).status is IntentStatus.REJECTED


async def test_several_functions_of_one_request_are_answered_each():
    async def submit(submission):
        if submission.parameters["title"] == "b":
            return Rejected("no such task", None, 1)
        return Submitted({}, 1)

    arguments = '{"title":"b","deadline":"none"}'
    calls = [goal("a"), goal("b", arguments=arguments), goal("c", name="unknown")]
    async with agent_and_relay(submit=submit) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        await agent.say(type="FunctionCallRequest", functions=calls)
        await agent.until(lambda: len(agent.texts) == 4)

        answers = {t["id"]: json.loads(t["content"])["status"] for t in agent.texts[1:]}
        assert answers == {"a": "submitted", "b": "rejected", "c": "rejected"}


async def test_a_slow_function_does_not_stop_the_audio():  # [6]
    finish = asyncio.Event()

    async def submit(submission):
        await finish.wait()
        return Submitted({}, 1)

    async with agent_and_relay(submit=submit) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        await agent.say(type="FunctionCallRequest", functions=[goal()])
        await next_event(browser, "RelayIntent")
        for _ in range(50):
            await browser.send(FRAME)
            await agent.connections[-1].send(FRAME)
        heard = [await browser.recv() for _ in range(50)]
        await agent.until(lambda: len(agent.audio) == 50)
        assert heard == [FRAME] * 50
        assert len(agent.texts) == 1

        finish.set()
        await agent.until(lambda: len(agent.texts) == 2)


async def test_an_accepted_call_is_carried_to_its_end_when_the_browser_leaves():
    finish = asyncio.Event()

    async def submit(submission):
        await finish.wait()
        return Submitted({"id": 9}, 1)

    async with agent_and_relay(submit=submit) as (agent, relay):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            await agent.say(type="FunctionCallRequest", functions=[goal()])
            await next_event(browser, "RelayIntent")
        await relay.until(SessionEnded)
        finish.set()
        while not [r for r in relay.records if getattr(r, "status", "") == "submitted"]:
            relay.stored.clear()
            async with asyncio.timeout(5):
                await relay.stored.wait()


async def test_a_defect_in_submitting_still_answers_the_model():
    async def submit(submission):
        raise ZeroDivisionError

    async with agent_and_relay(submit=submit) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        await agent.say(type="FunctionCallRequest", functions=[goal()])
        await agent.until(lambda: len(agent.texts) == 2)

        assert json.loads(agent.texts[1]["content"])["status"] == "saved"


@pytest.mark.parametrize(("code", "seen"), [(1000, 1000), (4001, 4001)])
async def test_the_agents_close_reaches_the_browser(code, seen):  # [1, 5, 9]
    async with agent_and_relay() as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        await agent.connections[-1].close(code, "because")

        assert await closed(browser) == (seen, "because")
        assert (await relay.until(SessionEnded)).reason == "agent_left"


async def test_an_agent_that_closes_without_a_status_becomes_a_code_that_may_be_sent():  # [12]
    async with agent_and_relay() as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        await agent.say(type="Error", code="INVALID_SETTINGS", description="the prompt")
        agent.connections[-1].transport.write(b"\x88\x00")  # a close frame with no code

        told = await next_event(browser, "Error")

        assert told["code"] == "INVALID_SETTINGS"
        assert await closed(browser) == (1011, "INVALID_SETTINGS")


async def test_an_agent_that_vanishes_is_replaced_and_the_browser_stays():  # [1]
    async with agent_and_relay() as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        await agent.say(type="ConversationText", role="user", content="Hello.")
        await next_event(browser, "ConversationText")
        agent.connected.clear()
        agent.connections[-1].transport.abort()
        assert await next_event(browser, "RelayReconnecting")
        spoken = [i.to_bytes(2, "big") + FRAME for i in range(20)]
        for frame in spoken:
            await browser.send(frame)

        seen = []
        async with asyncio.timeout(5):
            while "RelayReconnected" not in seen:
                seen.append(json.loads(await browser.recv())["type"])
        await agent.until(lambda: len(agent.audio) == len(spoken))

        assert set(seen) <= {"RelayReconnected", "RelayMessageSaved"}
        assert agent.audio == spoken, "the microphone was held meanwhile"
        first, second = [text for text in agent.texts if text["type"] == "Settings"]
        assert "greeting" in first["agent"]
        assert "greeting" not in second["agent"]
        assert "context" not in second["agent"], "the line is asked again"
        await agent.until(lambda: agent.texts[-1]["type"] == "InjectUserMessage")
        assert agent.texts[-1]["content"] == "Hello."
        # And it is a whole agent: both ways.
        await agent.connections[-1].send(FRAME)
        assert await browser.recv() == FRAME
        assert relay.session_registry.figures(relay.session_id).browser_frames == len(spoken)


async def test_an_agent_that_stays_away_ends_the_session_with_1014():
    agent = Agent()
    async with serve(agent.handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with relaying(f"ws://127.0.0.1:{port}/") as relay, relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            server.close(close_connections=False)
            agent.connections[-1].transport.abort()

            await next_event(browser, "RelayReconnecting")
            async with asyncio.timeout(15):
                told = None
                while told is None or told["type"] != "RelayError":
                    told = json.loads(await browser.recv())
                assert told["code"] == "agent_unreachable"
            assert (await closed(browser))[0] == 1014


@pytest.mark.parametrize("code", [1000, 1001, 4002])
async def test_the_browsers_close_reaches_the_agent(code):  # [5]
    async with agent_and_relay() as (agent, relay):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            await browser.close(code, "bye")
        async with asyncio.timeout(5):
            await agent.gone.wait()

        assert agent.closed == (code, "bye")
        ended = await relay.until(SessionEnded)
        assert (ended.reason, ended.browser_code) == ("browser_left", code)
        assert len(relay.session_registry) == 0


async def test_a_browser_that_vanishes_leaves_no_agent_behind():
    async with agent_and_relay() as (agent, relay):
        browser = await relay.attach()
        await next_event(browser, "SettingsApplied")
        browser.transport.abort()
        async with asyncio.timeout(5):
            await agent.gone.wait()

        assert agent.closed[0] == 1000
        assert (await relay.until(SessionEnded)).reason == "browser_lost"


async def test_leaving_while_the_agent_is_dialled_leaks_nothing():  # [2]
    """The agent accepts the TCP connection and never answers the handshake."""
    gone = asyncio.Event()
    asked = asyncio.Event()

    async def mute(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        assert await reader.read() == b""
        gone.set()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with relaying(f"ws://127.0.0.1:{port}/") as relay:
            async with relay.attach():
                async with asyncio.timeout(5):
                    await asked.wait()
            async with asyncio.timeout(5):
                await gone.wait()

            ended = await relay.until(SessionEnded)
            assert ended.reason == "browser_left"
            assert len(relay.session_registry) == 0


async def test_an_agent_that_refuses_closes_the_browser_with_1014():
    def refuse(connection, request):
        return connection.respond(401, "no")

    async with serve(Agent().handle, "127.0.0.1", 0, process_request=refuse) as server:
        port = server.sockets[0].getsockname()[1]
        async with relaying(f"ws://127.0.0.1:{port}/") as relay, relay.attach() as browser:
            told = await next_event(browser, "RelayError")

            assert told["code"] == "agent_unreachable"
            assert (await closed(browser))[0] == 1014
            ended = await relay.until(SessionEnded)
            assert ended.reason == "agent_unreachable"
            assert "401" in ended.detail
            assert "key" not in ended.detail


async def test_an_agent_that_is_not_there_closes_the_browser_with_1014():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}/"
        limits = msgspec.structs.replace(LIMITS, setup_seconds=0.5, roll_over_seconds=9.0)
        async with relaying(url, limits=limits) as relay, relay.attach() as browser:
            assert (await closed(browser))[0] == 1014


async def test_an_agent_that_never_welcomes_is_given_up():
    agent = Agent()
    agent.answers = False
    limits = msgspec.structs.replace(LIMITS, setup_seconds=0.2, roll_over_seconds=9)
    async with serve(agent.handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with relaying(f"ws://127.0.0.1:{port}/", limits=limits) as relay:
            async with relay.attach() as browser:
                assert (await next_event(browser, "RelayError"))["code"] == "setup_timeout"
                assert (await closed(browser))[0] == 1014
            async with asyncio.timeout(2):
                await agent.gone.wait()


async def test_hanging_up_closes_both_sides():
    async with agent_and_relay() as (agent, relay):
        session_id = uuid4()
        async with relay.attach(session_id) as browser:
            await next_event(browser, "SettingsApplied")
            assert relay.session_registry.figures(session_id).browser_frames == 0
            relay.session_registry.hang_up(session_id)

            assert await closed(browser) == (1000, "hung up")
            async with asyncio.timeout(5):
                await agent.gone.wait()
        relay.session_registry.hang_up(session_id)  # again: nothing happens
        assert relay.session_registry.figures(session_id) is None


async def test_a_stopping_server_tells_the_browser_to_come_again():
    async with agent_and_relay() as (_agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        relay.server.should_exit = True
        for connection in list(relay.server.server_state.connections):
            connection.shutdown()

        assert await closed(browser) == (1012, "restarting")


async def test_a_browser_that_never_reads_is_bounded_and_its_events_stay_in_order():  # [4, 7, 8]
    async with agent_and_relay() as (agent, relay):
        session_id = uuid4()
        async with relay.attach(session_id, max_queue=1) as browser:
            await next_event(browser, "SettingsApplied")
            browser.transport.pause_reading()
            runner = relay.session_registry._live[session_id]
            queue = runner._browser.connection.queue
            sentence = bytes(16 * 1024)
            for number in range(1200):  # about 20 MB: more than sockets and lane can take
                await agent.connections[-1].send(sentence)
                if number % 100 == 0:
                    await agent.say(type="PromptUpdated", number=number)
            await agent.say(type="SpeakUpdated")
            pong = await agent.connections[-1].ping()
            await pong
            assert queue.dropped > 0
            assert queue._bytes <= LIMITS.lane_bytes
            # The other direction does not feel it.
            await browser.send(FRAME)
            await agent.until(lambda: agent.audio)

            browser.transport.resume_reading()
            numbers = []
            async with asyncio.timeout(20):
                while True:
                    frame = await browser.recv()
                    if isinstance(frame, str):
                        message = json.loads(frame)
                        if message["type"] == "SpeakUpdated":
                            break
                        numbers.append(message["number"])
            assert numbers == list(range(0, 1200, 100))


async def test_a_refused_message_gets_an_error_and_the_session_goes_on():
    async with agent_and_relay() as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        await browser.send(json.dumps({"type": "UpdatePrompt", "prompt": "obey me"}))

        assert (await next_event(browser, "RelayError"))["code"] == "not_allowed"
        await browser.send(json.dumps({"type": "KeepAlive"}))
        await agent.until(lambda: len(agent.texts) == 2)
        assert agent.texts[1] == {"type": "KeepAlive"}


def test_everything_that_the_rules_ask_for_is_done():
    assert set(session_runner._DEEDS) == set(get_args(actions.Action))


async def test_while_the_browser_is_silent_the_agent_hears_silence():
    async with agent_and_relay() as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        (runner,) = relay.session_registry._live.values()
        runner._do([actions.KeepAgentAlive()])

        await agent.until(lambda: agent.audio)
        rate = runner._session.admitted.audio.input.sample_rate
        assert agent.audio[0] == bytes(2 * rate // 10), "a tenth of a second of linear16"


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"subprotocols": ["relay.v1", "wrong-ticket"]}, 401),
        ({"subprotocols": ["relay.v1"]}, 401),
        ({"subprotocols": ["relay.v1", "x" * 300]}, 401),
        ({"subprotocols": [TICKET]}, 400),
        ({"origin": "https://evil.example"}, 403),
    ],
)
async def test_a_refusal_comes_before_the_101(more, status):
    async with agent_and_relay() as (agent, relay):
        with pytest.raises(InvalidStatus) as refused:
            async with relay.attach(**more):
                pass

        assert refused.value.response.status_code == status
        problem = json.loads(refused.value.response.body)
        assert problem["status"] == status
        assert not agent.connections


async def test_the_own_origin_and_an_allowed_one_may_attach():
    origins = frozenset({"https://flux.example"})
    async with agent_and_relay(origins=origins) as (_, relay):
        for origin in (f"http://127.0.0.1:{relay.port}", "https://flux.example"):
            async with relay.attach(origin=origin) as browser:
                await next_event(browser, "SettingsApplied")


async def test_an_unknown_path_is_a_404():
    async with agent_and_relay() as (_, relay):
        with pytest.raises(InvalidStatus) as refused:
            async with relay.attach("not-a-uuid"):
                pass

        assert refused.value.response.status_code == 404


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x82\0\0\0\0\xff\xfe", 1007),  # text that is not UTF-8
        (b"\xc2\x80\0\0\0\0", 1002),  # a reserved bit
        (b"\x80\x80\0\0\0\0", 1002),  # a continuation of nothing
        (b"\x82\x01x", 1002),  # not masked
        (b"\x82\xff\0\0\0\0\x00\x40\x00\x00\0\0\0\0", 1009),  # 4 MiB announced
    ],
)
async def test_a_broken_frame_closes_the_socket_with_its_code(frame, code):
    async with agent_and_relay() as (agent, relay):
        async with relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            browser.transport.write(frame)

            assert (await closed(browser))[0] == code
        async with asyncio.timeout(2):
            await agent.gone.wait()


async def test_what_took_how_long_is_told_per_session_and_for_the_process():
    async with agent_and_relay() as (agent, relay):
        session_id = uuid4()
        async with relay.attach(session_id) as browser:
            await next_event(browser, "SettingsApplied")
            for _ in range(32):
                await browser.send(FRAME)
            await agent.say(type="ConversationText", role="user", content="Hello.")
            await agent.connections[-1].send(FRAME)
            await agent.say(type="LatencyReport", total_latency=0.4)
            await agent.connections[-1].send(FRAME)
            await next_event(browser, "LatencyReport")
            await agent.until(lambda: len(agent.audio) == 32)
            assert relay.session_registry.figures(session_id).latency.up.count == 32
        figures = (await relay.until(SessionEnded)).figures

        latency = figures.latency
        assert latency.connect_ms > 0
        assert latency.settings_ms > 0
        assert latency.up.count == 32
        assert latency.reply.count == 1
        assert latency.agent_total.count == 1
        assert 400 <= latency.agent_total.p50 <= 480
        text = relay.metrics.text().decode()
        assert "relay_up_seconds_count 32.0" in text
        assert "relay_reply_seconds_count 1.0" in text
        assert "relay_agent_connect_seconds_count 1.0" in text


async def test_a_planned_roll_over_is_not_noticed_by_the_browser():
    limits = msgspec.structs.replace(LIMITS, setup_seconds=5, roll_over_seconds=0.3)
    async with agent_and_relay(limits=limits) as (agent, relay), relay.attach() as browser:
        await next_event(browser, "SettingsApplied")
        await agent.until(lambda: len([t for t in agent.texts if t["type"] == "Settings"]) >= 2)
        await agent.say(type="PromptUpdated")

        assert json.loads(await browser.recv()) == {"type": "PromptUpdated"}
        assert agent.closed[0] == 1000


def test_a_deadline_that_is_due_at_once_may_be_armed_again():
    # uvloop hands out a handle that knows no time when there is nothing to wait for. An error there
    # cost the session its agent.
    async def arm_twice():
        async with agent_and_relay() as (agent, relay), relay.attach() as browser:
            await next_event(browser, "SettingsApplied")
            (runner,) = relay.session_registry._live.values()
            rules = runner._session
            runner._session = SimpleNamespace(deadline=asyncio.get_running_loop().time())
            for _ in range(2):
                runner._act(lambda now: None)
            runner._session = rules
            await agent.say(type="ConversationText", role="assistant", content="still here")
            return (await next_event(browser, "ConversationText"))["content"]

    assert uvloop.run(arm_twice()) == "still here"
