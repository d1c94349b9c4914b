"""The REST side: the handlers as control/app.py composes them, on a real Postgres."""

import asyncio
import base64
import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import pytest
from litestar import Litestar, Router
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from uuid_utils.compat import uuid7

from config.agent import Audio, DeepgramSpeak, Speak
from config.current import Current
from config.env_types import Secret
from config.intents import Intent, Registry
from config.loader import load
from config.policy import Language, Policy
from config.settings import CONFIG_DIR, Settings
from config.version import VERSION
from control.api.choices import list_choices
from control.api.conversations import ConversationController
from control.api.health import Readiness, get_live, get_ready
from control.api.intents import list_intents
from control.api.problems import answer_error
from control.api.sessions import PREFIX, SessionController
from control.auth.current_user import USER_ID, User, get_current_user
from control.db.store import Store
from control.http.sibling_sessions import SiblingSessions
from control.sessions.direct import Direct
from control.sessions.meter import Meter
from relay.core.records import Figures, IntentCalled, MessageSaid, SessionEnded
from relay.journal.journal import Journal
from relay.protocol.refusal import Refused
from relay.protocol.relay_events import IntentStatus
from relay.supervisor import Supervisor
from relay.telemetry.histogram import SessionLatency
from relay.telemetry.metrics import Metrics
from tests.closed_network import egress_of
from tests.control.attaching import admission

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class LiveHere:
    """Sessions that are live, as much as REST asks of a `SessionRegistry`."""

    def __init__(self):
        self.live = {}
        self.owned = {}
        self.is_draining = False
        self.is_drained = False
        self.hung_up = []
        self.expected = []
        self.asked = []
        self.refused = None

    def epoch(self, session_id):
        return self.owned.get(session_id)

    def check_open(self):
        if self.is_draining:
            raise Refused(503, "stopping", "the relay stops", retry_after=10)

    def hang_up(self, session_id):
        self.hung_up.append(session_id)
        return session_id in self.live

    def figures(self, session_id):
        return self.live.get(session_id)

    def check(self, room, elsewhere):
        self.asked.append((room.where, room.user_id))
        if self.refused:
            raise self.refused

    def expect(self, session_id, about):
        self.expected.append(session_id)


SHIPPED = load(CONFIG_DIR, {})
REGISTRY = Registry(
    (
        Intent(
            name="GOAL",
            title="New goal",
            function="create_goal",
            description="secret words for the model",
            parameters={"type": "object"},
            path="/goals",
        ),
    )
)


POLICY = Policy(
    voices={"orion": Speak(provider=DeepgramSpeak(model="aura-2-orion-en"))},
    languages={"spanish": Language(greeting="Hola")},
)


def make_app(store, live, *, user=None, journal=None, supervisor=None, **settings):
    async def get_user() -> User:
        return User(user)

    fields = Settings(
        deepgram_api_key=Secret("key"),
        database_url=Secret("unused"),
        orchestrator_url="http://127.0.0.1:1",
        **settings,
    )
    # Not allowed here; tests/control/api/test_direct.py has its own.
    meter = Meter(store, live, fields, Supervisor())
    current = Current(SHIPPED, Secret("key"))
    direct = Direct(fields, current, store, settled, None, egress_of(), meter)
    journal = journal or Journal(store.write, Metrics(), Path("nowhere"))  # one that does not run
    supervisor = supervisor or Supervisor()  # nor does this
    readiness = Readiness(store)
    alone = SiblingSessions(None, live, supervisor, count=lambda: None)
    return Litestar(
        [
            Router(
                PREFIX,
                route_handlers=[
                    SessionController,
                    ConversationController,
                    list_intents,
                    list_choices,
                ],
            ),
            get_live,
            get_ready,
        ],
        dependencies={
            "store": Provide(lambda: store, sync_to_thread=False),
            "readiness": Provide(lambda: readiness, sync_to_thread=False),
            "live": Provide(lambda: live, sync_to_thread=False),
            "journal": Provide(lambda: journal, sync_to_thread=False),
            "supervisor": Provide(lambda: supervisor, sync_to_thread=False),
            "sibling_sessions": Provide(lambda: alone, sync_to_thread=False),
            "meter": Provide(lambda: meter, sync_to_thread=False),
            "direct": Provide(lambda: direct, sync_to_thread=False),
            "settings": Provide(lambda: fields, sync_to_thread=False),
            "agent": Provide(lambda: SHIPPED.agent, sync_to_thread=False),
            "policy": Provide(lambda: POLICY, sync_to_thread=False),
            "registry": Provide(lambda: REGISTRY, sync_to_thread=False),
            "user": Provide(get_user if user else get_current_user),
        },
        exception_handlers={Exception: answer_error},
        openapi_config=OpenAPIConfig(title="t", version="1", path="/schema"),
    )


async def settled(conversation_id):
    """Nothing of the conversation is live."""
    return True


def connect(app, base_url="http://relay.test"):
    """A client in the loop of the test: the store's connections belong to that loop."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=base_url)


@pytest.fixture
def live():
    return LiveHere()


@pytest.fixture
async def client(store, live):
    async with connect(make_app(store, live), base_url="http://relay.test") as client:
        yield client


@pytest.fixture
async def stranger(store, live):
    async with connect(make_app(store, live, user="somebody-else")) as client:
        yield client


async def begin(client, **body):
    response = await client.post(f"{PREFIX}/session", json=body)
    assert response.status_code == 201, response.text
    return response.json()


async def talk(store, begun, *lines):
    said = [
        MessageSaid(
            id=uuid7(),
            conversation_id=UUID(begun["conversation_id"]),
            session_id=UUID(begun["session_id"]),
            seq=seq,
            turn=seq,
            role="user" if seq % 2 else "assistant",
            content=line,
            at=NOW,
        )
        for seq, line in enumerate(lines, start=1)
    ]
    await store.write(said)


def call(begun, **changes):
    fields = {
        "call_id": "call_1",
        "after_seq": 1,
        "function": "create_goal",
        "intent": "GOAL",
        "arguments": '{"title": "run"}',
        "status": IntentStatus.SUBMITTED,
        "attempts": 1,
        "result": {"id": 3},
        "response": "done",
        "at": NOW,
    }
    return IntentCalled(
        id=uuid7(),
        conversation_id=UUID(begun["conversation_id"]),
        session_id=UUID(begun["session_id"]),
        **(fields | changes),
    )


def assert_problem(response, status, code):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["code"] == code
    assert {"type", "title", "detail"} <= problem.keys() or problem["title"]
    return problem


# --- sessions ----------------------------------------------------------------------------------


async def test_a_session_begins_with_a_ticket_that_is_not_stored(client, database_url):
    begun = await begin(client, timezone="Europe/Berlin")

    assert re.fullmatch(r"[A-Za-z0-9_-]{43,}", begun["ticket"])
    assert begun["websocket_url"] == (f"ws://relay.test{PREFIX}/session/{begun['session_id']}/ws")
    assert begun["messages"] == []
    assert begun["audio"]["input"]["encoding"] == "linear16"
    connection = await asyncpg.connect(database_url)
    row = await connection.fetchrow("SELECT * FROM voice.sessions")
    await connection.close()
    assert row["ticket_hash"] == hashlib.sha256(begun["ticket"].encode()).digest()
    assert begun["ticket"] not in repr(dict(row))


async def test_an_answer_with_a_ticket_is_not_cached(client):
    response = await client.post(f"{PREFIX}/session", json={})

    assert response.headers["cache-control"] == "no-store"


async def test_a_session_needs_no_body(client):
    response = await client.post(f"{PREFIX}/session")

    assert response.status_code == 201, response.text


@pytest.mark.parametrize(
    ("public_url", "expected"),
    [
        ("https://voice.example", "wss://voice.example"),
        ("http://voice.example:8080/", "ws://voice.example:8080"),
        ("https://example.org/voice/", "wss://example.org/voice"),
    ],
)
async def test_the_websocket_url_follows_the_public_url(store, live, public_url, expected):
    async with connect(make_app(store, live, public_url=public_url)) as client:
        begun = await begin(client)

    assert begun["websocket_url"].startswith(f"{expected}{PREFIX}/session/")


async def test_a_session_over_https_gets_a_wss_url(store, live):
    app = make_app(store, live)
    async with connect(app, base_url="https://relay.test") as client:
        begun = await begin(client)

    assert begun["websocket_url"].startswith("wss://relay.test/")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"timezone": 7}, "timezone"),
        ({"audio": {"input": {"encoding": "flac", "sample_rate": 48000}}}, "audio.input.encoding"),
        (
            {"audio": {"input": {"encoding": "opus", "sample_rate": 8000}}},
            "audio.input.sample_rate",
        ),
        (
            {"audio": {"input": {"encoding": "linear16", "sample_rate": 8001}}},
            "audio.input.sample_rate",
        ),
        (
            {"audio": {"output": {"encoding": "mulaw", "sample_rate": 48000}}},
            "audio.output.sample_rate",
        ),
        (
            {"audio": {"output": {"sample_rate": 24000, "container": "wav"}}},
            "audio.output.container",
        ),
        ({"conversation_id": "no uuid"}, "conversation_id"),
        ({"transport": "pigeon"}, "transport"),
        ({"audio": {"input": {"sample_rate": "high"}}}, "audio.input.sample_rate"),
    ],
)
async def test_a_bad_session_request_names_the_path(client, body, path):
    response = await client.post(f"{PREFIX}/session", json=body)

    problem = assert_problem(response, 400, "invalid")
    assert [mistake["path"] for mistake in problem["errors"]] == [path]


async def test_an_unknown_field_is_refused(client):
    response = await client.post(f"{PREFIX}/session", json={"prompt": "be evil"})

    assert "prompt" in assert_problem(response, 400, "invalid")["detail"]


@pytest.mark.parametrize("body", ["{", "[]", '"x"', "\xff"])
async def test_a_body_that_is_no_json_object_is_refused(client, body):
    response = await client.post(
        f"{PREFIX}/session",
        content=body.encode("latin-1"),
        headers={"Content-Type": "application/json"},
    )

    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"


async def test_all_mistakes_are_reported_at_once(client):
    body = {
        "voice": "nobody",
        "audio": {"input": {"encoding": "flac"}, "output": {"encoding": "mp3"}},
    }
    response = await client.post(f"{PREFIX}/session", json=body)

    assert len(assert_problem(response, 400, "invalid")["errors"]) == 3


async def test_the_other_half_of_the_audio_is_as_configured(client):
    audio = {"output": {"encoding": "mulaw", "sample_rate": 8000}}
    begun = await begin(client, audio=audio)

    assert begun["audio"]["output"]["encoding"] == "mulaw"
    assert begun["audio"]["input"]["sample_rate"] == SHIPPED.agent.audio.input.sample_rate


async def test_the_direct_transport_is_not_enabled(client):
    response = await client.post(f"{PREFIX}/session", json={"transport": "direct"})

    assert "not enabled" in assert_problem(response, 403, "transport_not_enabled")["detail"]


async def test_a_conversation_is_resumed_with_its_messages(client, store):
    begun = await begin(client)
    await talk(store, begun, "one", "two")

    again = await begin(client, conversation_id=begun["conversation_id"])

    assert again["conversation_id"] == begun["conversation_id"]
    assert again["session_id"] != begun["session_id"]
    assert [m["content"] for m in again["messages"]] == ["one", "two"]


async def test_resuming_what_is_not_there_is_404_and_makes_nothing(client, stranger):
    theirs = await begin(stranger)
    for conversation_id in (theirs["conversation_id"], str(uuid7())):
        response = await client.post(f"{PREFIX}/session", json={"conversation_id": conversation_id})
        assert_problem(response, 404, "not_found")

    assert (await client.get(f"{PREFIX}/conversations")).json()["items"] == []


async def test_a_session_tells_its_state_and_live_figures(client, live, store):
    begun = await begin(client)
    url = f"{PREFIX}/session/{begun['session_id']}"
    session_id = UUID(begun["session_id"])
    assert (await client.get(url)).json()["state"] == "new"

    counted = {"browser_frames": 5, "browser_bytes": 3200, "agent_frames": 2, "agent_bytes": 960}
    live.live[session_id] = Figures(**counted, latency=SessionLatency(settings_ms=40.0))
    seen = (await client.get(url)).json()
    assert seen["state"] == "live"
    assert counted.items() <= seen.items()
    assert seen["latency"]["settings_ms"] == 40.0

    live.live.clear()
    ended = SessionEnded(
        session_id=session_id,
        reason="browser_left",
        detail="for operators",
        browser_code=1001,
        agent_code=1000,
        figures=Figures(
            browser_frames=6,
            browser_bytes=1,
            agent_frames=1,
            agent_bytes=1,
            latency=SessionLatency(connect_ms=1.5),
        ),
        at=NOW,
    )
    await store.write([ended])
    seen = (await client.get(url)).json()
    assert (seen["state"], seen["close_reason"], seen["browser_frames"]) == (
        "ended",
        "browser_left",
        6,
    )
    assert seen["latency"]["connect_ms"] == 1.5
    assert live.expected == [session_id]
    assert "for operators" not in str(seen)
    assert seen["id"] == begun["session_id"]


async def test_ending_a_session_hangs_up_and_closes_the_conversation(client, live):
    begun = await begin(client)
    url = f"{PREFIX}/session/{begun['session_id']}"

    response = await client.delete(url)

    assert response.status_code == 204
    assert response.content == b""
    assert live.hung_up == [UUID(begun["session_id"])]
    conversation = await client.get(f"{PREFIX}/conversations/{begun['conversation_id']}")
    assert conversation.json()["status"] == "closed"
    assert (await client.get(url)).json()["close_reason"] == "hung_up"
    assert (await client.delete(url)).status_code == 204


async def test_a_session_of_another_user_is_not_there(client, stranger, live):
    begun = await begin(stranger)
    url = f"{PREFIX}/session/{begun['session_id']}"

    assert_problem(await client.get(url), 404, "not_found")
    assert_problem(await client.delete(url), 404, "not_found")
    assert live.hung_up == []


# --- admission ---------------------------------------------------------------------------------


async def test_a_ticket_is_admitted_once(client, store):
    begun = await begin(client, timezone="Europe/Berlin")
    admit = admission(store, settled)

    admitted = await admit(UUID(begun["session_id"]), begun["ticket"])

    assert admitted.user_id == USER_ID
    assert admitted.timezone == "Europe/Berlin"
    assert isinstance(admitted.audio, Audio)
    assert (admitted.last_seq, admitted.last_turn, admitted.last_role) == (0, 0, None)
    assert admitted.history == []
    with pytest.raises(Refused) as refused:
        await admit(UUID(begun["session_id"]), begun["ticket"])
    assert refused.value.status == 401


async def test_a_conversation_is_settled_before_its_history_is_read(client, store):
    first = await begin(client)
    begun = await begin(client, conversation_id=first["conversation_id"])

    async def settle(conversation_id):
        assert str(conversation_id) == begun["conversation_id"]
        await talk(store, begun, "the last words of the session before")
        return True

    admitted = await admission(store, settle)(UUID(begun["session_id"]), begun["ticket"])

    assert admitted.last_seq == 1


async def test_a_new_conversation_has_nothing_to_settle(client, store):
    begun = await begin(client)

    async def settle(conversation_id):
        pytest.fail("nothing was said in it yet")

    admitted = await admission(store, settle)(UUID(begun["session_id"]), begun["ticket"])

    assert (admitted.last_seq, admitted.history) == (0, [])


async def test_a_conversation_that_does_not_settle_is_503(client, store):
    first = await begin(client)
    begun = await begin(client, conversation_id=first["conversation_id"])

    async def settle(conversation_id):
        return False

    with pytest.raises(Refused) as refused:
        await admission(store, settle)(UUID(begun["session_id"]), begun["ticket"])
    assert (refused.value.status, refused.value.code) == (503, "conversation_busy")


async def test_a_bad_ticket_disturbs_nobody(client, store):
    begun = await begin(client)

    async def settle(conversation_id):
        pytest.fail("only a good ticket may end a live session")

    with pytest.raises(Refused):
        await admission(store, settle)(UUID(begun["session_id"]), "wrong")


async def test_every_bad_ticket_gets_the_same_answer(client, store):
    begun, other = await begin(client), await begin(client)
    late = await begin(client)
    admit = admission(store, settled)
    session_id = UUID(begun["session_id"])
    async with store.transaction() as connection:
        await connection.execute(
            "UPDATE voice.sessions SET ticket_expires_at = now() WHERE id = $1",
            UUID(late["session_id"]),
        )
    answers = set()
    for id_, ticket in [
        (session_id, "wrong"),
        (session_id, ""),
        (session_id, "\udcff"),
        (session_id, other["ticket"]),
        (uuid7(), begun["ticket"]),
        (UUID(late["session_id"]), late["ticket"]),
    ]:
        with pytest.raises(Refused) as refused:
            await admit(id_, ticket)
        answers.add((refused.value.status, refused.value.code, refused.value.detail))

    assert len(answers) == 1
    assert answers.pop()[0] == 401


async def test_a_session_that_is_over_is_409_for_who_has_its_ticket(client, store):
    begun = await begin(client)
    await client.delete(f"{PREFIX}/session/{begun['session_id']}")

    with pytest.raises(Refused) as refused:
        await admission(store, settled)(UUID(begun["session_id"]), begun["ticket"])
    assert refused.value.status == 409


async def test_history_has_messages_and_finished_calls_in_their_order(client, store):
    begun = await begin(client)
    await talk(store, begun, "a goal", "which?", "run", "done")
    await store.write(
        [
            call(begun, call_id="late", after_seq=4),
            call(begun, call_id="early", after_seq=3),
            call(begun, call_id="first", after_seq=0),
            call(begun, call_id="unknown", after_seq=2, response=None),
            call(begun, call_id="open", after_seq=2, response=None, status=IntentStatus.SUBMITTING),
        ]
    )
    again = await begin(client, conversation_id=begun["conversation_id"])

    admitted = await admission(store, settled)(UUID(again["session_id"]), again["ticket"])

    told = [h.content or h.function_calls[0].id for h in admitted.history]
    assert told == ["first", "a goal", "which?", "open", "run", "early", "done", "late"]
    assert "do not ask again" in admitted.history[3].function_calls[0].response
    finished = admitted.history[0].function_calls[0]
    assert (finished.name, finished.client_side, finished.arguments, finished.response) == (
        "create_goal",
        True,
        '{"title": "run"}',
        "done",
    )
    assert (admitted.last_seq, admitted.last_turn, admitted.last_role) == (4, 4, "assistant")


async def test_admission_without_a_database_says_when_to_try_again():
    store = Store("postgresql://postgres@/postgres?host=/nowhere")
    await store.open()

    with pytest.raises(Refused) as refused:
        await admission(store, settled)(uuid7(), "ticket")
    assert refused.value.status == 503
    assert refused.value.retry_after
    await store.close()


# --- history -----------------------------------------------------------------------------------


async def read_all(client, url, **params):
    items, cursor, pages = [], None, 0
    while True:
        query = {**params, **({"cursor": cursor} if cursor else {})}
        response = await client.get(url, params=query)
        assert response.status_code == 200, response.text
        page = response.json()
        assert page.keys() == {"items", "next_cursor"}
        items += page["items"]
        pages += 1
        cursor = page["next_cursor"]
        if cursor is None:
            return items, pages


async def test_conversations_are_listed_newest_first_in_pages(client, store):
    begun = [await begin(client) for _ in range(5)]
    await begin(client)  # in which nothing is said
    for each in begun:
        await talk(store, each, "shoes")

    items, pages = await read_all(client, f"{PREFIX}/conversations", limit=2, said=True)

    assert [c["id"] for c in items] == [b["conversation_id"] for b in reversed(begun)]
    assert pages == 3


async def test_a_full_last_page_has_no_cursor(client, store):
    for _ in range(4):
        await talk(store, await begin(client), "shoes")

    _, pages = await read_all(client, f"{PREFIX}/conversations", limit=2)

    assert pages == 2


async def test_conversations_are_searched_and_filtered(client, store):
    one, two = await begin(client), await begin(client)
    await talk(store, one, "running shoes")
    await talk(store, two, "a dentist")
    await client.delete(f"{PREFIX}/session/{two['session_id']}")

    async def ids(**params):
        items, _ = await read_all(client, f"{PREFIX}/conversations", **params)
        return {c["id"] for c in items}

    (found,), _ = await read_all(client, f"{PREFIX}/conversations", q="sho")
    parts = ["running ", "shoes", ""]
    assert found["found"] == {"title": parts, "line": parts, "seq": 1, "role": "user"}
    items, _ = await read_all(client, f"{PREFIX}/conversations")
    assert "found" not in items[0]
    assert await ids(q="shoes") == {one["conversation_id"]}
    assert await ids(status="closed") == {two["conversation_id"]}
    assert await ids(q="shoes", status="closed") == set()
    assert await ids(q="  ") == {one["conversation_id"], two["conversation_id"]}


async def test_search_results_come_in_pages_too(client, store):
    for _ in range(3):
        await talk(store, await begin(client), "shoes")

    items, pages = await read_all(client, f"{PREFIX}/conversations", q="shoes", limit=1)

    assert (len({c["id"] for c in items}), pages) == (3, 3)


async def test_messages_come_in_order_in_pages_and_after_a_seq(client, store):
    begun = await begin(client)
    await talk(store, begun, *"abcde")
    url = f"{PREFIX}/conversations/{begun['conversation_id']}/messages"

    items, pages = await read_all(client, url, limit=2)
    later, _ = await read_all(client, url, after_seq=3)

    assert ["".join(m["content"] for m in items), pages] == ["abcde", 3]
    assert [m["seq"] for m in later] == [4, 5]
    assert items[0].keys() == {"id", "seq", "turn", "role", "content", "session_id", "created_at"}


async def test_intents_show_what_was_asked_and_what_came_of_it(client, store):
    begun = await begin(client)
    await talk(store, begun, "a goal")
    await store.write(
        [call(begun), call(begun, arguments="no { json", intent=None, function="fly", result=None)]
    )
    url = f"{PREFIX}/conversations/{begun['conversation_id']}/intents"

    (first, second), pages = await read_all(client, url, limit=1)

    assert pages == 2
    assert first["arguments"] == {"title": "run"}
    assert (first["status"], first["attempts"], first["result"]) == ("submitted", 1, {"id": 3})
    assert (second["arguments"], second["intent"], second["function"]) == ("no { json", None, "fly")


async def test_an_intent_that_waits_shows_when_it_is_tried_again_and_why(client, store):
    begun = await begin(client)
    waiting = {"status": IntentStatus.SUBMITTING, "result": None, "due_in": 60.0, "error": "busy"}
    await store.write([call(begun, **waiting), call(begun)])
    url = f"{PREFIX}/conversations/{begun['conversation_id']}/intents"

    open_one, done = (await client.get(url)).json()["items"]

    due = datetime.fromisoformat(open_one["next_attempt_at"]) - datetime.now(UTC)
    assert 30 < due.total_seconds() <= 60
    assert open_one["last_error"] == "busy"
    assert (done["next_attempt_at"], done["last_error"]) == (None, None)


async def test_a_failed_intent_is_submitted_again_with_one_call(client, store):
    begun = await begin(client)
    failed = call(begun, status=IntentStatus.FAILED, error="the planner cannot be reached")
    await store.write([failed])
    url = f"{PREFIX}/conversations/{begun['conversation_id']}/intents"

    response = await client.post(f"{url}/{failed.id}/retry")
    again = await client.post(f"{url}/{failed.id}/retry")

    assert response.status_code == 202, response.text
    assert response.json()["status"] == "submitting"
    assert (await client.get(url)).json()["items"] == [response.json()]
    assert_problem(again, 409, "not_failed")


async def test_an_intent_of_another_user_cannot_be_submitted_again(client, stranger, store):
    begun = await begin(client)
    failed = call(begun, status=IntentStatus.FAILED)
    await store.write([failed])
    url = f"{PREFIX}/conversations/{begun['conversation_id']}/intents"

    assert_problem(await stranger.post(f"{url}/{failed.id}/retry"), 404, "not_found")
    assert_problem(await client.post(f"{url}/{uuid7()}/retry"), 404, "not_found")


async def test_a_conversation_is_renamed(client):
    begun = await begin(client)
    url = f"{PREFIX}/conversations/{begun['conversation_id']}"

    renamed = await client.patch(url, json={"title": "  My \n goal "})

    assert renamed.status_code == 200
    assert renamed.json()["title"] == (await client.get(url)).json()["title"] == "My goal"


@pytest.mark.parametrize(
    "body", [{}, {"title": ""}, {"title": "  "}, {"title": "x" * 201}, {"title": None}, {"a": 1}]
)
async def test_a_bad_title_is_refused(client, body):
    begun = await begin(client)

    response = await client.patch(f"{PREFIX}/conversations/{begun['conversation_id']}", json=body)

    assert_problem(response, 400, "invalid")


async def test_an_erased_conversation_is_gone_and_its_sessions_hang_up(client, live):
    begun = await begin(client)
    url = f"{PREFIX}/conversations/{begun['conversation_id']}"

    assert (await client.delete(url)).status_code == 204

    assert live.hung_up == [UUID(begun["session_id"])]
    for path in (url, f"{url}/messages", f"{url}/intents"):
        assert_problem(await client.get(path), 404, "not_found")
    assert_problem(await client.delete(url), 404, "not_found")
    assert_problem(await client.patch(url, json={"title": "x"}), 404, "not_found")


async def test_a_conversation_of_another_user_is_not_there(client, stranger):
    begun = await begin(stranger)
    url = f"{PREFIX}/conversations/{begun['conversation_id']}"

    for path in (url, f"{url}/messages", f"{url}/intents"):
        assert_problem(await client.get(path), 404, "not_found")
    assert_problem(await client.delete(url), 404, "not_found")
    assert_problem(await client.patch(url, json={"title": "x"}), 404, "not_found")
    assert (await stranger.get(url)).status_code == 200


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=many", "limit"),
        ("status=lost", "status"),
        ("cursor=!!", "cursor"),
        ("cursor=" + base64.urlsafe_b64encode(b'[1,"x"]').decode(), "cursor"),
        ("cursor=" + base64.urlsafe_b64encode(b"\xff\xfe").decode(), "cursor"),
        ("cursor=%C3%A4", "cursor"),
        ("cursor=" + "A" * 300, "cursor"),
        ("q=" + "a" * 201, "q"),
    ],
)
async def test_a_bad_query_names_the_parameter(client, query, path):
    response = await client.get(f"{PREFIX}/conversations?{query}")

    problem = assert_problem(response, 400, "invalid")
    assert [mistake["path"] for mistake in problem["errors"]] == [path]


async def test_a_cursor_of_another_list_is_refused(client, store):
    begun = await begin(client)
    await talk(store, begun, "a", "b")
    url = f"{PREFIX}/conversations/{begun['conversation_id']}/messages"
    cursor = (await client.get(url, params={"limit": 1})).json()["next_cursor"]

    response = await client.get(f"{PREFIX}/conversations", params={"cursor": cursor})

    assert_problem(response, 400, "invalid")


@pytest.mark.parametrize("q", ["a\0b", "' OR 1=1 --", "\\", "%", "((", "&|!"])
async def test_any_search_is_answered(client, q):
    assert (await client.get(f"{PREFIX}/conversations", params={"q": q})).status_code == 200


# --- the rest ----------------------------------------------------------------------------------


async def test_the_registry_is_shown_without_what_is_for_the_model(client):
    response = await client.get(f"{PREFIX}/intents")

    assert response.json() == {
        "items": [{"id": "GOAL", "name": "GOAL", "title": "New goal"}],
        "next_cursor": None,
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", f"{PREFIX}/session/no-uuid", 404),
        ("PUT", f"{PREFIX}/session", 405),
    ],
)
async def test_every_error_is_a_problem(client, method, path, status):
    response = await client.request(method, path)

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["title"]


async def test_a_lost_database_is_503_with_a_time_to_come_back(live):
    store = Store("postgresql://postgres@/postgres?host=/nowhere/secret")
    await store.open()
    supervisor = Supervisor()
    never = asyncio.Event().wait
    async with (
        supervisor.repeating("a task", never, pause=never),
        connect(make_app(store, live, supervisor=supervisor)) as client,
    ):
        response = await client.get(f"{PREFIX}/conversations")
        ready = await client.get("/health/ready")
        alive = await client.get("/health/live")

    assert_problem(response, 503, "database_unavailable")
    assert int(response.headers["retry-after"]) > 0
    assert "secret" not in response.text + ready.text
    assert ready.status_code == 503
    assert ready.json()["reasons"] == ["the database does not answer"]
    assert alive.status_code == 200
    await store.close()


async def test_a_process_of_which_a_background_task_has_ended_is_not_alive(store, live):
    supervisor = Supervisor()
    never = asyncio.Event().wait
    async with supervisor.repeating("a task", never, pause=never):
        (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "a task"]
        task.cancel()
        await asyncio.wait({task})
        async with connect(make_app(store, live, supervisor=supervisor)) as client:
            response = await client.get("/health/live")

    assert response.status_code == 503
    assert response.json()["status"] == "dead"


async def test_ready_when_the_schema_is_there(client):
    response = await client.get("/health/ready")

    assert response.status_code == 200
    assert response.json() == {"status": "ready", "reasons": [], "version": VERSION}


async def test_not_ready_without_the_migrations(empty_database_url, live):
    store = Store(empty_database_url)
    await store.open()
    async with connect(make_app(store, live)) as client:
        response = await client.get("/health/ready")

    assert response.status_code == 503
    assert response.json()["reasons"][0] == "migration 0001_conversations is not applied"
    await store.close()


async def test_a_relay_that_stops_begins_no_session_and_is_not_ready(client, live):
    live.is_draining = True

    refused = await client.post(f"{PREFIX}/session")
    ready = await client.get("/health/ready")

    assert (refused.status_code, refused.json()["code"]) == (503, "stopping")
    assert int(refused.headers["retry-after"]) > 0
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["the relay stops"])
    assert live.expected == []


async def test_the_description_of_the_api_names_every_path(client):
    schema = (await client.get("/schema/openapi.json")).json()

    assert {
        f"{PREFIX}/session",
        f"{PREFIX}/session/{{session_id}}",
        f"{PREFIX}/conversations",
        f"{PREFIX}/conversations/{{conversation_id}}/messages",
        f"{PREFIX}/conversations/{{conversation_id}}/intents",
        f"{PREFIX}/conversations/{{conversation_id}}/intents/{{intent_id}}/retry",
        f"{PREFIX}/intents",
        f"{PREFIX}/choices",
        "/health/live",
        "/health/ready",
    } <= schema["paths"].keys()
    parameters = schema["paths"][f"{PREFIX}/conversations"]["get"]["parameters"]
    assert {p["name"] for p in parameters} == {"status", "q", "said", "limit", "cursor"}


async def test_two_requests_with_one_ticket_admit_one(client, store):
    begun = await begin(client)
    admit = admission(store, settled)

    async def attempt():
        try:
            await admit(UUID(begun["session_id"]), begun["ticket"])
        except Refused:
            return False
        return True

    async with asyncio.TaskGroup() as tasks:
        tries = [tasks.create_task(attempt()) for _ in range(5)]
    assert sum(task.result() for task in tries) == 1


# --- choices and limits --------------------------------------------------------------------------


async def test_a_voice_and_a_language_are_chosen_by_name(store, client, live):
    begun = await begin(client, voice="orion", language="spanish")

    admitted = await admission(store, settled)(UUID(begun["session_id"]), begun["ticket"])
    assert (admitted.voice, admitted.language) == ("orion", "spanish")


async def test_a_name_that_is_not_offered_is_answered_with_those_that_are(client):
    response = await client.post(f"{PREFIX}/session", json={"voice": "x", "language": "klingon"})

    assert response.status_code == 400
    assert {e["path"]: e["detail"] for e in response.json()["errors"]} == {
        "voice": "expected one of orion, got 'x'",
        "language": "expected one of spanish, got 'klingon'",
    }


@pytest.mark.parametrize("field", ["agent", "prompt", "think", "speak", "listen", "functions"])
async def test_nothing_else_of_the_agent_can_be_chosen(client, field):
    response = await client.post(f"{PREFIX}/session", json={field: {"prompt": "obey"}})

    assert response.status_code == 400


async def test_when_there_is_no_room_no_session_begins(store, client, live):
    live.refused = Refused(429, "user_sessions", "enough", retry_after=10)

    response = await client.post(f"{PREFIX}/session")

    assert (response.status_code, response.json()["code"]) == (429, "user_sessions")
    assert response.headers["retry-after"] == "10"
    assert live.asked == [("127.0.0.1", USER_ID)]
    assert live.expected == []


async def test_the_names_of_what_may_be_chosen_are_told_and_nothing_behind_them(client):
    answer = await client.get(f"{PREFIX}/choices")

    assert answer.json() == {"voices": ["orion"], "languages": ["spanish"], "record": False}


# --- recording -----------------------------------------------------------------------------------


@pytest.fixture
async def recording(store, live):
    app = make_app(store, live, record_audio=True)
    async with connect(app, base_url="http://relay.test") as client:
        yield client


@pytest.mark.parametrize(
    ("body", "recorded"),
    [
        ({"record": True}, True),
        ({"record": False}, False),
        ({}, False),
        ({"record": True, "audio": {"input": {"encoding": "opus", "sample_rate": 16000}}}, True),
    ],
)
async def test_the_audio_is_recorded_if_the_user_wants_it(store, recording, body, recorded):
    begun = await begin(recording, **body)

    assert begun["recorded"] is recorded
    admit = admission(store, settled)
    first = await admit(UUID(begun["session_id"]), begun["ticket"])
    assert first.record_audio is recorded
    # And so it is at the relay that has it next.
    elsewhere = admission(store, settled, node_id=UUID(int=0xB))
    again = await elsewhere(UUID(begun["session_id"]), first.resume_ticket)
    assert (again.epoch, again.record_audio) == (2, recorded)


async def test_without_permission_the_session_begins_and_is_not_recorded(store, client):
    begun = await begin(client, record=True)

    assert begun["recorded"] is False
    admitted = await admission(store, settled)(UUID(begun["session_id"]), begun["ticket"])
    assert admitted.record_audio is False


async def test_a_client_learns_whether_sessions_may_be_recorded(recording):
    answer = await recording.get(f"{PREFIX}/choices")

    assert answer.json()["record"] is True
