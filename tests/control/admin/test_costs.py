"""What agents cost, and what happens when the minutes of a day are used up."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.control.admin.program import API, running, talking
from tests.control.admin.test_admin_cli import run, well  # noqa: F401
from tests.relay.wires import next_event

ONE, OTHER = "user-one", "user-two"


@pytest.fixture(autouse=True)
def not_at_midnight():
    now = datetime.now(UTC)
    if (now.hour, now.minute) >= (23, 57):
        pytest.skip("the day is about to end, and with it what was used")


async def use(program, seconds, user=ONE):
    """This user has used so much today, in sessions of the past."""
    sql = """
        INSERT INTO voice.usage (session_id, epoch, day, user_id, seconds)
        VALUES (gen_random_uuid(), 1, (now() AT TIME ZONE 'UTC')::date, $1, $2)
    """
    await program.fetch(sql, user, float(seconds))


async def begin(program, user=ONE, **body):
    async with program.user(user) as client:
        return await client.post(f"{API}/session", json=body)


def attach(begun):
    """A socket; a notice may be told before the agent is ready."""
    return connect(begun["websocket_url"], subprotocols=["relay.v1", begun["ticket"]])


async def session_of(program, session_id, user):
    async with program.user(user) as client:
        return (await client.get(f"{API}/session/{session_id}")).json()


async def ended(program, session_id, user):
    async with asyncio.timeout(10):
        while (shown := await session_of(program, session_id, user))["state"] != "ended":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return shown


@pytest.fixture
async def priced(database_url, tmp_path, agent_url):
    async with running(
        database_url, tmp_path / "a", agent_url, RELAY_PRICE_PER_MINUTE="0.6"
    ) as made:
        yield made


async def test_the_costs_of_days_users_and_sessions_are_those_of_their_agents(priced):
    program = priced
    async with talking(program, ONE) as first, talking(program, OTHER) as second:
        await first.type("hello")
        live = await session_of(program, first.session, ONE)
    shown = [
        await ended(program, first.session, ONE),
        await ended(program, second.session, OTHER),
    ]

    seconds = {one["id"]: one["agent_seconds"] for one in shown}
    assert 0 < live["agent_seconds"] <= seconds[str(first.session)]
    assert [one["cost"] for one in shown] == [
        pytest.approx(one["agent_seconds"] / 100, abs=1e-4) for one in shown
    ]
    by_session = await program.ask("GET", "/costs", params={"by": "session"})
    assert {c["session_id"]: c["agent_seconds"] for c in by_session["items"]} == seconds
    by_user = await program.ask("GET", "/costs", params={"by": "user"})
    assert {c["user_id"] for c in by_user["items"]} == {ONE, OTHER}
    (day,) = (await program.ask("GET", "/costs"))["items"]
    assert (day["day"], day["sessions"]) == (datetime.now(UTC).date().isoformat(), 2)
    assert day["agent_seconds"] == pytest.approx(sum(seconds.values()))
    assert day["cost"] == pytest.approx(sum(seconds.values()) / 100, abs=1e-4)
    metrics = (await program.ask_metrics()).splitlines()
    assert "relay_agent_price_dollars 0.6" in metrics
    (counted,) = (line for line in metrics if line.startswith("relay_agent_seconds_total "))
    assert float(counted.split()[1]) == pytest.approx(sum(seconds.values()), abs=0.01)


async def test_costs_of_some_days_and_of_one_user(program):
    await use(program, 60)
    await use(program, 90, OTHER)
    today = datetime.now(UTC).date().isoformat()

    of_one = await program.ask("GET", "/costs", params={"user": ONE, "since": today})
    assert (of_one["agent_seconds"], of_one["cost"]) == (60.0, None)
    before = await program.ask(
        "GET", "/costs", params={"since": "2020-01-01", "until": "2020-02-01"}
    )
    assert (before["items"], before["agent_seconds"]) == ([], 0.0)
    async with program.administrator() as client:
        answer = await client.get("/costs", params={"since": "2020-03-01", "until": "2020-02-01"})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, "since")


async def test_the_command_adds_them_up(program, run):  # noqa: F811
    await use(program, 60)
    await use(program, 120, OTHER)

    first, second, last = (await well(run, "costs", "--by", "user", "--since", "7d")).splitlines()[
        1:
    ]
    assert first.split() == [OTHER, "1", "2.0", "-"]
    assert second.split() == [ONE, "1", "1.0", "-"]
    assert last.split() == ["in", "all", "-", "3.0", "-"]


# --- limits --------------------------------------------------------------------------------------


async def test_a_session_is_told_and_ended_when_the_minutes_of_its_user_are_used_up(
    database_url, tmp_path, agent_url
):
    limit = {"RELAY_DAILY_MINUTES_PER_USER": "0.02"}
    async with running(database_url, tmp_path / "a", agent_url, **limit) as program:
        begun = (await begin(program)).json()
        async with attach(begun) as socket:
            notice = await next_event(socket, "RelayNotice")
            assert (notice["code"], notice["ends_in"] <= 1.2) == ("daily_minutes", True)
            with pytest.raises(ConnectionClosed) as closed:
                await next_event(socket, "never")
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (
            1000,
            "minutes of the day used up",
        )
        shown = await ended(program, begun["session_id"], ONE)
        assert shown["close_reason"] == "daily_minutes"
        assert shown["agent_seconds"] == pytest.approx(1.2, abs=0.2)

        refused = await begin(program)
        assert (refused.status_code, refused.json()["code"]) == (429, "daily_minutes")
        assert 0 < int(refused.headers["Retry-After"]) <= 86_400
        assert "00:00 UTC" in refused.json()["detail"]
        assert (await begin(program, OTHER)).status_code == 201


async def test_who_comes_too_late_is_refused_before_the_101_and_keeps_the_ticket(
    database_url, tmp_path, agent_url
):
    limit = {"RELAY_DAILY_MINUTES_PER_USER": "1"}
    async with running(database_url, tmp_path / "a", agent_url, **limit) as program:
        begun = (await begin(program)).json()
        await use(program, 60)
        with pytest.raises(InvalidStatus) as refused:
            await attach(begun)
        assert refused.value.response.status_code == 429
        assert b"daily_minutes" in refused.value.response.body

        await program.fetch("DELETE FROM voice.usage")
        async with attach(begun) as socket:
            await next_event(socket, "RelaySession")


async def test_a_limit_for_all_holds_for_everybody(database_url, tmp_path, agent_url):
    limit = {"RELAY_DAILY_MINUTES": "1"}
    async with running(database_url, tmp_path / "a", agent_url, **limit) as program:
        await use(program, 60, OTHER)
        for user in (ONE, OTHER):
            assert (await begin(program, user)).json()["code"] == "daily_minutes"


async def test_what_all_have_used_is_looked_up_once_in_thirty_seconds(
    database_url, tmp_path, agent_url
):
    limit = {"RELAY_DAILY_MINUTES": "1"}
    async with running(database_url, tmp_path / "a", agent_url, **limit) as program:
        now = 1000.0
        program.meter._clock = lambda: now
        assert (await begin(program)).status_code == 201
        await use(program, 60, OTHER)
        now += 29
        assert (await begin(program)).status_code == 201
        now += 2
        assert (await begin(program)).json()["code"] == "daily_minutes"


async def test_sessions_of_a_user_on_two_nodes_share_what_is_left(
    database_url, tmp_path, agent_url
):
    limit = {"RELAY_DAILY_MINUTES_PER_USER": "2"}
    async with (
        running(database_url, tmp_path / "a", agent_url, **limit) as one,
        running(database_url, tmp_path / "b", agent_url, **limit) as two,
        talking(one, ONE) as first,
    ):
        await use(one, 80)
        async with attach((await begin(two)).json()) as second:
            notice = await next_event(second, "RelayNotice")
            assert 15 < notice["ends_in"] <= 20.0
            await one.meter.read()
            notice = await next_event(first.socket, "RelayNotice")
            assert (notice["code"], 10 < notice["ends_in"] <= 20.0) == ("daily_minutes", True)


async def test_what_a_relay_has_used_is_known_while_its_sessions_live(
    database_url, tmp_path, agent_url
):
    """So that the minutes of a relay that is killed are not lost."""
    async with (
        running(database_url, tmp_path / "a", agent_url) as program,
        talking(program, ONE) as talk,
    ):
        await program.meter.read()
        rows = await program.fetch("SELECT * FROM voice.usage")
        assert [(row["session_id"], row["user_id"], row["epoch"]) for row in rows] == [
            (talk.session, ONE, 1)
        ]
        assert rows[0]["seconds"] > 0
