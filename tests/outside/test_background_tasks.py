"""Errors that no background task foresees: sessions go on, and so does the process."""

from __future__ import annotations

import asyncio
import random
import re
import signal
from contextlib import asynccontextmanager

import asyncpg

from tests.chaos.stage import staged, until

# The heartbeat, and the governor, which beats as well, meet errors of five classes.
BREAK_AND_MEND = (
    (
        "ALTER TABLE voice.nodes RENAME TO nodes_away",
        "ALTER TABLE voice.nodes_away RENAME TO nodes",
    ),
    (
        "CREATE FUNCTION voice.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'MaxClientsInSessionMode' USING ERRCODE = 'XX000'; END $$;"
        " CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON voice.nodes"
        " FOR EACH ROW EXECUTE FUNCTION voice.fail()",
        "DROP FUNCTION voice.fail() CASCADE",
    ),
    (
        "ALTER TABLE voice.nodes ADD CONSTRAINT never CHECK (id::text = '') NOT VALID",
        "ALTER TABLE voice.nodes DROP CONSTRAINT never",
    ),
)


async def run(database_url, *statements):
    connection = await asyncpg.connect(database_url)
    try:
        for sql in statements:
            await connection.execute(sql)
    finally:
        await connection.close()


async def failures(stage, relay):
    """How often the heartbeat has failed. Others use what it uses, some of them more often."""
    text = (await stage.http.get(f"{relay.url}/metrics")).text
    found = re.findall(r'^relay_task_failures_total\{task="node"\} (\S+)$', text, re.MULTILINE)
    return sum(float(value) for value in found)


async def health(stage, relay, path):
    return (await stage.http.get(f"{relay.url}/health/{path}")).status_code


@asynccontextmanager
async def in_conversation(stage):
    """A relay with all its background tasks, and browsers that stay connected while inside.

    Afterwards it stops in order.
    """
    relay = stage.relay(RELAY_AGENT_SESSIONS="20", RELAY_RETENTION_DAYS="1000")
    await relay.start()
    async with stage.people(random.Random(1), 3) as browsers:
        yield relay, browsers
        assert {code for browser in browsers for code in browser.codes} == set()
    assert "Failing row" not in relay.output
    relay.signal(signal.SIGTERM)
    assert await relay.end(20) == 0, relay.output


@asynccontextmanager
async def trouble(stage, relay, browsers, broken, mended):
    """While inside, the heartbeat has failed and everybody is answered; then all is well again."""
    before = await failures(stage, relay)
    await run(stage.database_url, *broken)

    async def has_failed():
        return await failures(stage, relay) > before

    try:
        await until(has_failed, 20)
        await are_answered(browsers)
        assert await health(stage, relay, "live") == 200
        yield
    finally:
        await run(stage.database_url, *mended)
    recovered = relay.output.count("task_recovered task=node ")

    async def is_well():
        ready = await health(stage, relay, "ready") == 200
        return ready and relay.output.count("task_recovered task=node ") > recovered

    await until(is_well, 30)
    await are_answered(browsers)


async def are_answered(browsers):
    assert all(await asyncio.gather(*(browser.turn(15) for browser in browsers)))


async def test_errors_of_the_heartbeat_end_nothing(stage):
    async with in_conversation(stage) as (relay, browsers):
        for broken, mended in BREAK_AND_MEND:
            async with trouble(stage, relay, browsers, [broken], [mended]):
                pass
        verdict = await stage.settle(browsers)
        assert verdict.told > 0
    # Unforeseen: where it was is said, with what it was.
    assert "Traceback (most recent call last)" in relay.output
    assert "control/cluster/heartbeat.py" in relay.output


async def test_a_schema_renamed_away_ends_nothing(stage):
    broken, mended = "ALTER SCHEMA voice RENAME TO away", "ALTER SCHEMA away RENAME TO voice"
    async with (
        in_conversation(stage) as (relay, browsers),
        trouble(stage, relay, browsers, [broken], [mended]),
    ):
        assert await health(stage, relay, "ready") == 503


async def test_a_database_that_may_only_be_read_ends_nothing(
    tmp_path, database_url, empty_database_url
):
    change = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {}', current_database()); END $$"
    disconnect = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    broken = [change.format("SET default_transaction_read_only = on"), disconnect]
    mended = [
        "SET default_transaction_read_only = off",
        change.format("RESET default_transaction_read_only"),
        disconnect,
    ]
    # The Orchestrator has a database of its own, which is well.
    async with (
        staged(tmp_path, database_url, planner_url=empty_database_url) as stage,
        in_conversation(stage) as (relay, browsers),
    ):
        async with trouble(stage, relay, browsers, broken, mended):
            pass
        verdict = await stage.settle(browsers)
        assert verdict.told > 0
