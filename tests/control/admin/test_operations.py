"""Sessions, nodes and state, as administrators see and change them."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

import pytest
from uuid_utils.compat import uuid7
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from control.db.conversations import create_conversation
from relay.journal.condemned import NAME, condemn
from tests.control.admin.program import API, running, talking
from tests.control.admin.test_people import said, to_the_end
from tests.relay.wires import next_event


@pytest.fixture
async def elsewhere(database_url, tmp_path, agent_url):
    """Another node on the same database."""
    async with running(database_url, tmp_path / "b", agent_url) as made:
        yield made


async def until(condition):
    async with asyncio.timeout(20):
        while not (found := await condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found


async def test_live_sessions_of_all_nodes_are_shown_those_of_this_one_with_figures(
    program, elsewhere
):
    async with talking(program, "ada") as here, talking(elsewhere, "ben") as there:
        await here.socket.send(bytes(640))
        await here.type("Hello")

        items = (await program.ask("GET", "/sessions"))["items"]
        first = await program.ask("GET", "/sessions", params={"limit": 1})
        more = {"limit": 1, "cursor": first["next_cursor"]}
        second = await program.ask("GET", "/sessions", params=more)
        of_one = await program.ask("GET", "/sessions", params={"node": str(elsewhere.node_id)})
        one = await program.ask("GET", f"/sessions/{here.session}")

        shown = {item["user_id"]: item for item in items}
        assert [i["user_id"] for i in first["items"] + second["items"]] == ["ben", "ada"]
        assert shown["ada"]["node_id"] == str(program.node_id)
        assert shown["ada"]["browser_bytes"] == 640
        assert shown["ben"]["node_id"] == str(elsewhere.node_id)
        assert shown["ben"]["browser_bytes"] == 0
        assert [item["user_id"] for item in of_one["items"]] == ["ben"]
        assert (one["user_id"], one["state"], one["browser_bytes"]) == ("ada", "live", 640)
        assert str(there.session) == shown["ben"]["id"]


async def test_a_direct_session_is_shown_and_ended(database_url, tmp_path, agent_url):
    on = {"RELAY_DIRECT_TRANSPORT": "on", "DEEPGRAM_API_URL": "http://127.0.0.1:1"}
    async with running(database_url, tmp_path, agent_url, **on) as program:
        conversation, session = uuid7(), uuid7()
        await create_conversation(program.store, conversation, user_id="ada")
        await program.fetch(
            "INSERT INTO voice.sessions (id, conversation_id, user_id, ticket_hash,"
            " ticket_expires_at, timezone, audio, transport, state, started_at)"
            " VALUES ($1, $2, 'ada', '', now(), 'UTC', '{}', 'direct', 'live', now())",
            session,
            conversation,
        )

        [shown] = (await program.ask("GET", "/sessions"))["items"]
        await program.ask("POST", f"/sessions/{session}/hang-up")

        assert (shown["id"], shown["transport"]) == (str(session), "direct")
        assert shown["node_id"] is None
        assert (await program.ask("GET", "/sessions"))["items"] == []
        assert (await program.ask("GET", f"/sessions/{session}"))["close_reason"] == "hung_up"


async def test_a_session_is_hung_up_here_and_at_another_node(program, elsewhere):
    async with talking(program, "ada") as here, talking(elsewhere, "ben") as there:
        for talk in (here, there):
            await program.ask("POST", f"/sessions/{talk.session}/hang-up")
            async with asyncio.timeout(10):
                await to_the_end(talk)
            assert (talk.socket.close_code, talk.socket.close_reason) == (1000, "hung up")

        async def nobody():
            return not (await program.ask("GET", "/sessions"))["items"]

        await until(nobody)
        ended = await program.ask("GET", f"/sessions/{there.session}")
        assert (ended["state"], ended["close_reason"]) == ("ended", "hung_up")
        lines = (await program.ask("GET", "/audit"))["items"]
        assert [(line["act"], line["target"]) for line in lines] == [
            ("session.hang_up", str(there.session)),
            ("session.hang_up", str(here.session)),
        ]


async def test_a_session_that_is_not_there_is_not_found(program):
    async with program.administrator() as client:
        for method, path in (
            ("GET", f"/sessions/{uuid4()}"),
            ("POST", f"/sessions/{uuid4()}/hang-up"),
            ("POST", f"/nodes/{uuid4()}/drain"),
            ("POST", f"/nodes/{uuid4()}/undrain"),
        ):
            assert (await client.request(method, path)).status_code == 404
    assert (await program.ask("GET", "/audit"))["items"] == []


async def test_a_drained_node_takes_no_new_sessions_and_goes_on_with_live_ones(program, elsewhere):
    async with (
        talking(elsewhere, "ada") as talk,
        elsewhere.user("ada") as client,
        elsewhere.user("ben") as ben,
    ):
        begun = (await client.post(f"{API}/session")).json()
        await program.ask("POST", f"/nodes/{elsewhere.node_id}/drain")

        async def is_unready():
            return (await client.get("/health/ready")).status_code == 503

        await until(is_unready)
        ready = (await client.get("/health/ready")).json()
        refused = await ben.post(f"{API}/session")
        granted = await ben.post("/v1/auth/grant", json={})
        with pytest.raises(InvalidStatus) as attach:
            await connect(begun["websocket_url"], subprotocols=["relay.v1", begun["ticket"]])
        await talk.type("Are you still there?")
        state = await elsewhere.ask("GET", "/state")
        nodes = {n["id"]: n for n in (await program.ask("GET", "/nodes"))["items"]}

        assert ready["reasons"] == ["an administrator has drained this node"]
        assert (refused.status_code, refused.json()["code"]) == (503, "drained")
        assert "retry-after" in refused.headers
        assert granted.status_code == 503
        assert attach.value.response.status_code == 503
        assert state["drained"]
        assert nodes[str(elsewhere.node_id)]["drained"]
        assert not nodes[str(program.node_id)]["drained"]

        # A browser that lost its connection comes back to its session.
        ticket = talk.ticket
        talk.socket.transport.abort()
        url = begun["websocket_url"].replace(begun["session_id"], str(talk.session))
        async with connect(f"{url}?received=0", subprotocols=["relay.v1", ticket]) as back:
            await next_event(back, "RelaySession")

        await program.ask("POST", f"/nodes/{elsewhere.node_id}/undrain")

        async def is_ready():
            return (await client.get("/health/ready")).status_code == 200

        await until(is_ready)
        async with talking(elsewhere, "ben"):
            pass
    lines = (await program.ask("GET", "/audit"))["items"]
    assert [line["act"] for line in lines] == ["node.undrain", "node.drain"]


async def test_nodes_have_names_and_figures(program, elsewhere):
    async with talking(elsewhere, "ada"):
        nodes = (await program.ask("GET", "/nodes"))["items"]

    assert [node["id"] for node in nodes] == [str(program.node_id), str(elsewhere.node_id)]
    assert [node["sessions"] for node in nodes] == [0, 1]
    assert all(node["alive"] and ":" in node["name"] for node in nodes)


async def test_the_state_has_journal_outbox_and_condemned_records(program):
    async with talking(program, "ada") as talk:
        await talk.type("Hello")
        condemn(program.journal / NAME, said(talk, "x"), "reason")

        state = await program.ask("GET", "/state")

        assert state["node_id"] == str(program.node_id)
        assert state["sessions"] == 1
        assert state["journal"]["failing_seconds"] == 0
        assert state["journal"]["bytes"] > 0
        assert state["condemned"]["records"] == 1
        assert state["condemned"]["oldest"].startswith("20")
        assert state["governor"] == {"limit": 0, "size": 0, "used": 1, "free": 0}
        assert state["failing"] == []


async def test_condemned_records_are_put_back(program):
    async with talking(program, "ada") as talk:
        await talk.type("Hello")
        condemn(program.journal / NAME, said(talk, "what was condemned"), "reason")

        assert await program.ask("POST", "/condemned/restore") == {"restored": 1}

        async def stored():
            sql = "SELECT FROM voice.messages WHERE content = 'what was condemned'"
            return await program.fetch(sql)

        await until(stored)
    assert await program.ask("POST", "/condemned/restore") == {"restored": 0}
    lines = (await program.ask("GET", "/audit"))["items"]
    assert [line["outcome"] for line in lines] == [{"records": 0}, {"records": 1}]


async def test_a_file_of_condemned_records_that_cannot_be_read_stays(program):
    path = program.journal / NAME
    path.write_text(json.dumps({"at": "?"}) + "\n")

    async with program.administrator() as client:
        answer = await client.post("/condemned/restore")
    state = await program.ask("GET", "/state")

    assert (answer.status_code, answer.json()["code"]) == (409, "condemned_unreadable")
    assert path.exists()
    assert state["condemned"] == {"records": 1, "oldest": None}
