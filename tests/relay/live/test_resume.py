"""A browser that loses its connection and comes back, over real sockets."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import asynccontextmanager
from uuid import uuid4

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from relay.core.admitted import Takeover
from relay.core.records import MessageSaid, SessionEnded, TicketIssued
from relay.functions.submission import Submitted
from relay.live.tickets import hash_ticket
from relay.protocol.relay_events import StoredMessage
from relay.transport import send_queue
from tests.relay.wires import LIMITS, TICKET, agent_and_relay


def limits(grace=30.0, **more):
    return msgspec.structs.replace(LIMITS, grace_seconds=grace, **more)


class Caller:
    """A browser that keeps what it hears and counts as the protocol says."""

    def __init__(self, relay):
        self.relay = relay
        self.socket = None
        self.texts = []
        self.audio = []
        self.received = 0
        self.ticket = TICKET
        self.session_id = None

    async def attach(self):
        more = {"subprotocols": ["relay.v1", self.ticket]}
        if self.session_id is not None:
            more["received"] = self.received
        self.socket = await self.relay.attach(self.session_id, **more)
        first = json.loads(await self.socket.recv())
        assert first["type"] == "RelaySession", "it comes first"
        self.session_id = self.relay.session_id
        self.ticket = first["resume_ticket"]
        return first

    async def hear(self):
        frame = await self.socket.recv()
        if isinstance(frame, bytes):
            self.audio.append(frame)
            return {"type": "audio"}
        self.received += 1
        self.texts.append(json.loads(frame))
        return self.texts[-1]

    async def until(self, kind, **fields):
        async with asyncio.timeout(5):
            while True:
                event = await self.hear()
                if event["type"] == kind and fields.items() <= event.items():
                    return event

    def vanish(self):
        """As a network that goes away, seen by the relay."""
        self.socket.transport.abort()


@asynccontextmanager
async def calling(**options):
    options.setdefault("limits", limits())
    async with agent_and_relay(**options) as (agent, relay):
        caller = Caller(relay)
        await caller.attach()
        await caller.until("SettingsApplied")
        yield agent, relay, caller
        await caller.socket.close()


async def loop_until(condition):
    """Let the event loop, which the relay runs on too, turn until something is so."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # no time passes: these have no event
            await asyncio.sleep(0)


async def loop_turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def noticed(relay, caller):
    """The relay has seen that the browser is gone."""
    runner = relay.session_registry._live[caller.session_id]
    await loop_until(lambda: runner._session._resume.is_detached)


async def sockets_left(relay, count):
    """uvicorn has so many connections in its books."""
    await loop_until(lambda: len(relay.server.server_state.connections) <= count)


async def refusal(relay, caller, **more):
    more = {"subprotocols": ["relay.v1", caller.ticket], "received": caller.received} | more
    with pytest.raises(InvalidStatus) as refused:
        await relay.attach(caller.session_id, **more)
    return refused.value.response


async def test_leaving_while_the_agent_speaks_misses_no_event_and_hears_the_present():
    async with calling() as (agent, relay, caller):
        await agent.say(type="PromptUpdated", number=0)
        await caller.until("PromptUpdated")
        await agent.connections[-1].send(b"\1\1")
        await caller.until("audio")
        caller.vanish()
        for number in range(1, 20):
            await agent.connections[-1].send(b"\2\2")
            await agent.say(type="PromptUpdated", number=number)
        await noticed(relay, caller)
        await agent.connections[-1].send(b"\3\3")
        await agent.say(type="PromptUpdated", number=20)
        await (await agent.connections[-1].ping())

        told = await caller.attach()
        await agent.connections[-1].send(b"\4\4")
        await agent.say(type="PromptUpdated", number=21)
        await caller.until("PromptUpdated", number=21)

        assert told["resume_within"] == 30.0
        markers = [text["number"] for text in caller.texts if text["type"] == "PromptUpdated"]
        assert markers == list(range(22)), "each once, in order"
        assert caller.audio == [b"\1\1", b"\4\4"], "the past is not spoken again"
        assert len(agent.connections) == 1


async def test_the_microphone_goes_on_at_once_and_figures_are_of_both_sockets():
    async with calling() as (agent, relay, caller):
        await caller.socket.send(b"\1\1")
        await agent.until(lambda: agent.audio)
        caller.vanish()
        await noticed(relay, caller)
        await caller.attach()
        await caller.socket.send(b"\2\2")

        await agent.until(lambda: len(agent.audio) == 2)

        assert agent.audio == [b"\1\1", b"\2\2"]
        assert relay.session_registry.figures(caller.session_id).browser_frames == 2
        await caller.socket.close(1000)
        ended = await relay.until(SessionEnded)
        assert (ended.reason, ended.browser_code) == ("browser_left", 1000)
        assert ended.figures.browser_frames == 2
        assert ended.figures.browser_bytes == 4


async def test_it_may_come_back_many_times_and_one_end_is_recorded():
    async with calling() as (agent, relay, caller):
        for number in range(10):
            await agent.say(type="PromptUpdated", number=number)
            if number % 3 == 1:
                await caller.until("PromptUpdated", number=number)
            caller.vanish()
            await caller.attach()
        await caller.socket.send(b"\0\0")
        await caller.until("PromptUpdated", number=9)

        markers = [text["number"] for text in caller.texts if text["type"] == "PromptUpdated"]
        assert markers == list(range(10))
        await caller.socket.close(1000)
        await relay.until(SessionEnded)
        assert len([r for r in relay.records if isinstance(r, SessionEnded)]) == 1
        await sockets_left(relay, 0)
        assert len(relay.session_registry) == 0


async def test_what_is_said_while_away_is_stored_and_told_later():
    async with calling() as (agent, relay, caller):
        caller.vanish()
        await noticed(relay, caller)
        await agent.say(type="ConversationText", role="assistant", content="Are you there?")
        assert (await relay.until(MessageSaid)).content == "Are you there?"

        await caller.attach()

        assert (await caller.until("ConversationText"))["content"] == "Are you there?"
        assert (await caller.until("RelayMessageSaved"))["seq"] == 1


async def test_a_ticket_is_used_up_by_an_attach():
    async with calling() as (agent, relay, caller):
        used = caller.ticket
        await caller.attach()
        await caller.socket.send(b"\0\0")
        await agent.until(lambda: agent.audio)

        refused = await refusal(relay, caller, subprotocols=["relay.v1", used])

        assert refused.status_code == 401
        await agent.say(type="PromptUpdated")
        await caller.until("PromptUpdated")


async def test_a_browser_that_lost_its_new_ticket_may_use_the_old_one_again():
    async with calling() as (agent, _relay, caller):
        ticket = caller.ticket
        for _ in range(3):
            caller.ticket = ticket
            await caller.attach()  # what RelaySession says is lost, say

        await agent.say(type="PromptUpdated")
        await caller.until("PromptUpdated")


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"subprotocols": ["relay.v1", "another"]}, 401),
        ({"received": "1000"}, 400),
        ({"received": "-1"}, 400),
        ({"received": "all"}, 400),
        ({"origin": "https://evil.example"}, 403),
    ],
)
async def test_who_may_not_come_back_changes_nothing(more, status):
    async with calling() as (agent, relay, caller):
        refused = await refusal(relay, caller, **more)

        assert refused.status_code == status
        await agent.say(type="PromptUpdated")
        await caller.until("PromptUpdated")


async def test_a_ticket_is_good_for_its_own_session_only():
    async with calling() as (_agent, relay, caller):
        other = Caller(relay)
        await other.attach()

        refused = await refusal(relay, caller, subprotocols=["relay.v1", other.ticket])

        assert refused.status_code == 401
        await other.socket.close()


async def test_the_next_ticket_is_stored_so_that_another_relay_lets_the_browser_in():
    async with agent_and_relay(limits=limits()) as (_agent, relay):
        relay.admitted = {"resume_ticket": "the-first", "epoch": 3}
        caller = Caller(relay)
        await caller.attach()
        await caller.until("SettingsApplied")
        assert caller.ticket == "the-first"  # the control plane has stored it
        caller.vanish()

        await caller.attach()

        issued = await relay.until(TicketIssued)
        assert issued == TicketIssued(
            session_id=caller.session_id, hash=hash_ticket(caller.ticket), epoch=3
        )
        assert [r for r in relay.records if isinstance(r, TicketIssued)] == [issued]
        await caller.socket.close()


async def test_a_browser_from_another_relay_counts_anew_until_it_got_our_word():
    async with agent_and_relay(limits=limits()) as (agent, relay):
        message = StoredMessage(seq=7, message_id=uuid4(), role="user", content="Hi.")
        relay.admitted = {
            "resume_ticket": "ours",
            "epoch": 2,
            "last_seq": 7,
            "takeover": Takeover(ticket=TICKET, messages=[message]),
        }
        caller = Caller(relay)
        lost = await caller.attach()  # say that this never arrived, and nothing after it
        await agent.greeted.wait()
        await agent.say(type="ConversationText", role="assistant", content="Yes?")
        await caller.until("ConversationText")
        caller.vanish()
        caller.texts.clear()
        caller.ticket, caller.received = TICKET, 57

        first = await caller.attach()
        await caller.until("ConversationText")

        assert first["taken_over"]
        assert lost["taken_over"]
        assert first["last_seq"] == 7
        assert first["messages"] == [msgspec.to_builtins(message)]
        assert [text["type"] for text in caller.texts] == ["RelayReconnected", "ConversationText"]
        stored = await relay.until(MessageSaid)
        assert (stored.seq, stored.epoch, stored.frame) == (8, 2, 2)
        await caller.socket.close()


async def test_the_database_is_not_asked():
    async with calling() as (agent, relay, caller):
        relay.admits = False
        caller.vanish()
        await caller.attach()

        await agent.say(type="PromptUpdated")
        await caller.until("PromptUpdated")


async def test_when_the_wait_is_over_the_agent_is_closed():
    async with calling(limits=limits(grace=0.2)) as (agent, relay, caller):
        caller.vanish()
        async with asyncio.timeout(2):
            await agent.gone.wait()

        assert agent.closed[0] == 1000
        ended = await relay.until(SessionEnded)
        assert (ended.reason, ended.browser_code) == ("browser_lost", 1006)
        assert len(relay.session_registry) == 0
        assert (await refusal(relay, caller)).status_code == 401


async def test_a_page_that_is_left_may_be_loaded_again():
    async with calling() as (agent, relay, caller):
        await caller.socket.close(1001, "")
        await noticed(relay, caller)
        await agent.say(type="PromptUpdated")
        caller.received = 0  # a new page knows nothing

        await caller.attach()

        await caller.until("PromptUpdated")
        assert [text["type"] for text in caller.texts[2:]] == [
            "Welcome",
            "SettingsApplied",
            "PromptUpdated",
        ]


@pytest.mark.parametrize("code", [1000, 4000])
async def test_a_browser_that_says_goodbye_is_not_waited_for(code):
    async with calling() as (agent, relay, caller):
        await caller.socket.close(code, "bye")
        async with asyncio.timeout(5):
            await agent.gone.wait()

        assert (await relay.until(SessionEnded)).reason == "browser_left"


async def test_a_second_attach_wins():
    async with calling() as (agent, relay, caller):
        first = caller.socket
        await caller.attach()

        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(2):
                await first.recv()
        assert (first.close_code, first.close_reason) == (1000, "continued elsewhere")
        await agent.say(type="PromptUpdated")
        await caller.until("PromptUpdated")
        await caller.socket.send(b"\1\1")
        await agent.until(lambda: agent.audio)
        await sockets_left(relay, 1)
        assert len(relay.session_registry) == 1


async def test_a_first_socket_that_does_not_read_does_not_stop_the_second():
    async with calling(limits=limits(lane_bytes=64 * 1024)) as (agent, relay, caller):
        first = caller.socket
        first.transport.pause_reading()
        queue = relay.session_registry._live[caller.session_id]._browser.connection.queue
        while not queue.dropped:
            await agent.connections[-1].send(bytes(16 * 1024))
            await (await agent.connections[-1].ping())
        await agent.say(type="PromptUpdated", number=1)
        await (await agent.connections[-1].ping())

        await caller.attach()
        assert await caller.hear() == {"type": "PromptUpdated", "number": 1}
        await sockets_left(relay, 1)  # the first one is cut
        await agent.connections[-1].send(b"\1\1")

        assert await caller.hear() == {"type": "audio"}
        first.transport.abort()


async def test_a_browser_that_does_not_read_its_events_is_detached_and_may_come_back():
    async with calling(limits=limits(lane_bytes=64 * 1024)) as (agent, relay, caller):
        caller.socket.transport.pause_reading()
        runner = relay.session_registry._live[caller.session_id]
        async with asyncio.timeout(10):
            while not runner._session._resume.is_detached:
                await agent.say(type="PromptUpdated", text="x" * 16 * 1024)
                await (await agent.connections[-1].ping())

        caller.vanish()
        await caller.attach()

        assert (await caller.hear())["code"] == "events_missed"
        await agent.say(type="SpeakUpdated")
        await caller.until("SpeakUpdated")
        assert caller.received >= len(caller.texts)


async def test_events_that_are_gone_are_told_and_counting_goes_on():
    async with calling() as (agent, relay, caller):
        caller.vanish()
        await noticed(relay, caller)
        for number in range(10):
            await agent.say(type="PromptUpdated", number=number, text="x" * 10_000)
        await (await agent.connections[-1].ping())

        await caller.attach()
        missed = await caller.hear()
        await caller.until("PromptUpdated", number=9)

        assert (missed["type"], missed["code"]) == ("RelayError", "events_missed")
        kept = [text["number"] for text in caller.texts if text["type"] == "PromptUpdated"]
        assert kept == list(range(10 - len(kept), 10))
        assert len(kept) == 6
        caller.vanish()
        await noticed(relay, caller)
        await agent.say(type="PromptUpdated", number=10)
        await caller.attach()
        assert await caller.hear() == {"type": "PromptUpdated", "number": 10}


async def test_an_agent_that_is_lost_while_the_browser_is_away_is_replaced():
    async with calling() as (agent, relay, caller):
        caller.vanish()
        await noticed(relay, caller)
        agent.greeted.clear()
        agent.connections[-1].transport.abort()
        async with asyncio.timeout(5):
            await agent.greeted.wait()

        await caller.attach()
        await caller.until("RelayReconnecting")
        await caller.until("RelayReconnected")
        await agent.connections[-1].send(b"\1\1")
        await caller.until("audio")
        await caller.socket.send(b"\2\2")
        await agent.until(lambda: agent.audio)


async def test_the_outcome_of_a_function_waits_for_the_browser_and_the_model_does_not():
    finish = asyncio.Event()

    async def submit(submission):
        await finish.wait()
        return Submitted({"id": 7}, 1)

    call = {
        "id": "call_1",
        "name": "create_goal",
        "arguments": '{"title":"Run","deadline":"none"}',
        "client_side": True,
    }
    async with calling(submit=submit) as (agent, relay, caller):
        await agent.say(type="FunctionCallRequest", functions=[call])
        await caller.until("RelayIntent", status="submitting")
        caller.vanish()
        await noticed(relay, caller)
        finish.set()
        await agent.until(lambda: agent.texts[-1]["type"] == "FunctionCallResponse")

        await caller.attach()

        assert (await caller.until("RelayIntent"))["result"] == {"id": 7}
        assert [t["type"] for t in caller.texts].count("RelayIntent") == 2


async def test_a_half_open_browser_is_waited_for():
    async with calling(limits=limits(ping_seconds=0.2)) as (agent, relay, caller):
        caller.socket.transport.pause_reading()  # it answers no ping
        began = time.monotonic()
        await noticed(relay, caller)
        assert time.monotonic() - began < 2

        await agent.say(type="PromptUpdated")
        caller.vanish()
        await caller.attach()
        await caller.until("PromptUpdated")


async def test_a_hang_up_while_the_browser_is_away_closes_the_agent():
    async with calling() as (agent, relay, caller):
        caller.vanish()
        await noticed(relay, caller)

        relay.session_registry.hang_up(caller.session_id)

        async with asyncio.timeout(5):
            await agent.gone.wait()
        assert (await relay.until(SessionEnded)).reason == "hung_up"


async def test_a_stop_does_not_wait_for_a_browser_that_is_away():
    began = time.monotonic()
    async with calling() as (agent, relay, caller):
        caller.vanish()
        await noticed(relay, caller)

    assert time.monotonic() - began < 5
    assert agent.gone.is_set()
    assert [r.reason for r in relay.records if isinstance(r, SessionEnded)] == ["shutdown"]


async def test_a_stopping_server_lets_the_agent_finish_its_turn():
    async with calling() as (agent, relay, caller):
        await agent.say(type="ConversationText", role="user", content="Hello.")
        await caller.until("ConversationText")
        for connection in list(relay.server.server_state.connections):
            connection.shutdown()
        told = await caller.until("RelayGoAway")
        await agent.connections[-1].send(b"\1\1")
        await caller.until("audio")
        assert (await refusal(relay, caller)).status_code == 503
        refused = await refusal(relay, caller)
        await agent.say(type="AgentAudioDone")

        await caller.until("AgentAudioDone")
        with pytest.raises(ConnectionClosed):
            await caller.hear()
        assert caller.socket.close_code == 1012
        assert told["resume_ticket"] == caller.ticket
        assert refused.headers["retry-after"]
        assert (await relay.until(SessionEnded)).reason == "shutdown"


async def ask_and_leave(relay):
    """A browser that goes while it is not decided yet whether it may attach."""
    relay.may_answer.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    lines = [
        f"GET /api/v1/voice/session/{relay.session_id}/ws HTTP/1.1",
        f"Host: 127.0.0.1:{relay.port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        f"Sec-WebSocket-Protocol: relay.v1, {TICKET}",
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    async with asyncio.timeout(5):
        await relay.asked.wait()
    writer.transport.abort()
    await sockets_left(relay, 0)
    relay.may_answer.set()
    return reader


async def test_a_browser_that_leaves_during_its_handshake_is_not_waited_for():
    async with agent_and_relay(limits=limits()) as (_agent, relay):
        reader = await ask_and_leave(relay)

        ended = await relay.until(SessionEnded)

        assert (ended.reason, ended.browser_code) == ("browser_lost", 1006)
        await loop_until(lambda: len(relay.session_registry) == 0)
        assert await reader.read() == b""


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_leaving_and_returning_at_random_misses_doubles_and_reorders_nothing(seed):
    chance = random.Random(seed)
    said, done = 0, asyncio.Event()

    async def talk(agent):
        nonlocal said
        while not done.is_set():
            await agent.say(type="PromptUpdated", number=said)
            said += 1
            await agent.connections[-1].send(bytes(960))
            await loop_turns(chance.randrange(20))

    async with calling() as (agent, _relay, caller), asyncio.TaskGroup() as tasks:
        tasks.create_task(talk(agent), name="talk")
        for _ in range(40):
            for _ in range(chance.randrange(12)):
                await caller.hear()
            before = caller.socket
            match chance.choice(["breaks", "leaves", "goes on elsewhere"]):
                case "breaks":
                    caller.vanish()
                case "leaves":
                    tasks.create_task(before.close(1001), name="leave")
            await loop_turns(chance.randrange(40))
            await caller.attach()
            before.transport.abort()
        done.set()
        await agent.say(type="SpeakUpdated")
        await caller.until("SpeakUpdated")

    numbers = [text["number"] for text in caller.texts if text["type"] == "PromptUpdated"]
    assert numbers == list(range(len(numbers)))
    assert said - len(numbers) in (0, 1), "one may be on its way when the last is said"


async def test_a_browser_that_sends_but_reads_nothing_for_too_long_is_detached_and_may_come_back(
    monkeypatch,
):
    async with calling(limits=limits(lane_bytes=64 * 1024)) as (agent, relay, caller):
        caller.socket.transport.pause_reading()
        runner = relay.session_registry._live[caller.session_id]
        queue = runner._browser.connection.queue
        monkeypatch.setattr(send_queue, "STALL_SECONDS", 0.05)
        async with asyncio.timeout(10):
            while not queue.dropped:
                await agent.connections[-1].send(bytes(16 * 1024))
                await (await agent.connections[-1].ping())
            while not runner._session._resume.is_detached:
                await caller.socket.send(b"\1\1")  # its microphone goes on
                await (await agent.connections[-1].ping())

        caller.vanish()
        await caller.attach()
        await agent.say(type="SpeakUpdated")
        await caller.until("SpeakUpdated")
        assert queue.dropped


async def test_an_agent_that_reads_nothing_for_too_long_is_dialled_again(monkeypatch):
    async with calling() as (agent, relay, caller):
        queue = relay.session_registry._live[caller.session_id]._agent.connection.queue
        monkeypatch.setattr(send_queue, "STALL_SECONDS", 0.05)
        silent = agent.connections[-1].transport
        silent.pause_reading()
        async with asyncio.timeout(10):
            while queue.is_open:
                await caller.socket.send(bytes(16 * 1024))

        await caller.until("RelayReconnected")
        await caller.socket.send(b"\1\1")
        await agent.until(lambda: agent.audio and agent.audio[-1] == b"\1\1")
        assert len(agent.connections) == 2
        silent.abort()
