"""Conversations end in all ways on two relays, one of which is killed, while the Orchestrator
refuses: each end is told once, with the words that are stored."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from uuid import UUID

import asyncpg
import msgspec
import pytest
import yaml

from control.outbox.events import make_id
from tests.chaos.audit import Verdict
from tests.chaos.link import Mood
from tests.chaos.stage import LOOK, staged, until

pytestmark = pytest.mark.timeout(1800)
API = "/api/v1/voice"
PEOPLE = 4
SECONDS = 90.0
FORCED = "UPDATE voice.events SET due_at = now() WHERE due_at IS NOT NULL"


async def tell(stage):
    """A relay that tells events; its configuration is that of all relays of the stage."""
    relay = stage.relay(RELAY_GRACE_SECONDS="3")
    agent = stage.folder / "config" / "agent.yaml"
    wanted = yaml.safe_load(agent.read_text("utf-8")) | {"events": {"path": "/events"}}
    agent.write_text(yaml.safe_dump(wanted), "utf-8")
    await relay.start()
    return relay


class Ends:
    """What was told, and what is stored."""

    def __init__(self, told, rows, lines):
        self.told = told
        self.rows = rows
        self.lines = lines

    @property
    def due(self):
        """The sessions that have to be told of."""
        return {
            row["id"]
            for row in self.rows
            if row["state"] == "ended" and "superseded" not in (row["end_reason"], row["end_asked"])
        }

    @property
    def are_all_told(self):
        is_over = all(row["state"] != "live" for row in self.rows)
        return is_over and self.verdict().is_right

    def verdict(self):
        told = {UUID(event["session_id"]): event for event in self.told}
        wrong = 0
        for session_id, event in told.items():
            said = [(m["seq"], m["role"], m["content"]) for m in event["messages"]]
            wrong += said != self.lines.get(session_id, [])
            wrong += event["id"] != str(make_id(session_id))
        return Verdict(
            told=len(told),
            stored=len(self.due),
            lost=len(self.due - told.keys()),
            doubled=len(self.told) - len(told) + len(told.keys() - self.due),
            disordered=wrong,
        )


async def look(database_url):
    connection = await asyncpg.connect(database_url)
    try:
        bodies = await connection.fetch("SELECT body FROM local_orchestrator.events")
        rows = await connection.fetch("SELECT id, state, end_reason, end_asked FROM voice.sessions")
        lines = {}
        for row in await connection.fetch(
            "SELECT session_id, seq, role, content FROM voice.messages ORDER BY seq"
        ):
            said = (row["seq"], row["role"], row["content"])
            lines.setdefault(row["session_id"], []).append(said)
        await connection.execute(FORCED)  # the pauses between tries are not what is tested
    finally:
        await connection.close()
    return Ends([msgspec.json.decode(row["body"]) for row in bodies], rows, lines)


async def test_every_end_is_told_once_by_whoever_lives(
    database_url, tmp_path, chance, is_long, publish
):
    rounds = 20 if is_long else 1
    recovered = []
    async with staged(tmp_path, database_url) as stage:
        one, two = [await tell(stage) for _ in range(2)]
        for _ in range(rounds):
            stage.planner_link.mood = Mood.REFUSING
            async with stage.people(chance, PEOPLE, one.url) as browsers:
                left, hung_up, resumed, cut = browsers
                over = [left.session_id, hung_up.session_id]
                await stage.http.delete(f"{one.url}{API}/session/{hung_up.session_id}")
                # Another session in the same conversation: this one is superseded.
                other = stage.browser(chance, "other", one.url)
                other.conversation_id = resumed.conversation_id
                resumed.vanish()
                async with other.at_work():
                    await other.turn_at_last(SECONDS)
                await left.leave()  # and it begins anew at once
                cut.vanish()
                await until(partial(have_ended, database_url, over), SECONDS)
                await one.kill()  # with sessions that nobody comes back to
            well = time.monotonic()
            stage.planner_link.mood = Mood.WELL
            await one.start()

            async with asyncio.timeout(SECONDS):
                while not (ends := await look(database_url)).are_all_told:  # noqa: ASYNC110
                    await asyncio.sleep(LOOK)
            recovered.append(time.monotonic() - well)
        await stage.stop_relays()
        assert two.was_started
    assert {row["end_reason"] for row in ends.rows} >= {"hung_up", "superseded", "browser_left"}
    publish("ended", rounds, ends.verdict(), recovered, "from the kill until every end is told")


async def have_ended(database_url, sessions):
    connection = await asyncpg.connect(database_url)
    try:
        states = await connection.fetch(
            "SELECT state FROM voice.sessions WHERE id = ANY ($1::uuid[])",
            [UUID(session_id) for session_id in sessions],
        )
    finally:
        await connection.close()
    return all(row["state"] == "ended" for row in states)


async def test_what_agents_cost_is_what_the_agent_counts(database_url, tmp_path, chance, say):
    """Its own clock against ours, with agents that were lost, by every session."""
    async with staged(tmp_path, database_url) as stage:
        relay = stage.relay(RELAY_DIAL_AHEAD="4")
        await relay.start()
        async with stage.people(chance, 3) as browsers:
            for _ in range(2):
                stage.agent_link.cut()
                async with asyncio.timeout(SECONDS):
                    await asyncio.gather(*(one.turn_at_last(SECONDS) for one in browsers))
            sessions = [browser.session_id for browser in browsers]
        urls = [f"{relay.url}{API}/session/{session_id}" for session_id in sessions]

        async def have_ended():
            shown = [(await stage.http.get(url)).json() for url in urls]
            return all(one["state"] == "ended" for one in shown)

        await until(have_ended, SECONDS)
        shown = [(await stage.http.get(url)).json() for url in urls]
        agents = list(stage.sandbox.sessions)
        for agent in agents:
            await agent.until(lambda agent: agent.closed)
        await stage.stop_relays()

    counted = sum(agent.seconds or 0.0 for agent in agents)
    ours = sum(one["agent_seconds"] for one in shown)
    say(f"agent seconds of {len(agents)} agents: ours {ours:.3f}, by its own clock {counted:.3f}")
    assert len(agents) >= 9
    assert ours > 1.0
    # Each was opened and closed a moment apart at the two ends.
    assert abs(ours - counted) < 0.05 * len(agents), (ours, counted)
