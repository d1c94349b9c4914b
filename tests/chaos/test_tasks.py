"""A background task meets an error that it did not foresee: the heartbeat, or the governor."""

from __future__ import annotations

import asyncio
import re
import time

import asyncpg
import pytest

from tests.chaos.stage import staged, until

pytestmark = pytest.mark.timeout(900)
TABLES = {"node": "voice.nodes", "governor": "voice.agent_shares"}  # that a task writes to
ERRORS = ("42P01", "42501", "XX000", "55P03", "22012", "23514", "P0001")


async def execute(database_url, sql):
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def break_table(database_url, table, error):
    """Each write to it raises this error from now on."""
    await execute(
        database_url,
        f"""
        CREATE FUNCTION voice.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'by the chaos' USING ERRCODE = '{error}'; END $$;
        CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON {table}
            FOR EACH ROW EXECUTE FUNCTION voice.fail()
        """,
    )


async def failures(stage, relay, task):
    text = await relay.metrics(stage.http)
    found = re.search(rf'^relay_task_failures_total{{task="{task}"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def test_one_background_task_dies_and_nobody_notices(
    database_url, tmp_path, chance, is_long, publish
):
    rounds = 20 if is_long else 1
    async with staged(tmp_path, database_url) as stage:
        relay = stage.relay(RELAY_AGENT_SESSIONS="20", RELAY_RETENTION_DAYS="1000")
        await relay.start()
        recovered = []
        async with stage.people(chance, 3) as browsers:
            for _ in range(rounds):
                task = chance.choice(sorted(TABLES))
                before = await failures(stage, relay, task)
                await break_table(database_url, TABLES[task], chance.choice(ERRORS))

                async def has_failed(task=task, before=before):
                    return await failures(stage, relay, task) > before

                await until(has_failed, 20)
                answered = await asyncio.gather(*(browser.turn(15) for browser in browsers))
                assert all(answered), "a conversation fell silent with a background task"
                await asyncio.sleep(chance.uniform(0.0, 8.0 if is_long else 1.0))
                said = f"task_recovered task={task} "
                well = relay.output.count(said)
                await execute(database_url, "DROP FUNCTION voice.fail() CASCADE")
                mended = time.monotonic()

                async def is_well(said=said, before=well):
                    return relay.output.count(said) > before

                await until(is_well, 20)
                recovered.append(time.monotonic() - mended)
                for path in ("live", "ready"):
                    health = await stage.http.get(f"{relay.url}/health/{path}")
                    assert health.status_code == 200, health.text
            verdict = await stage.settle(browsers)
            assert [browser.sessions + browser.returns for browser in browsers] == [1, 1, 1]
        await stage.stop_relays()
        publish("a background task dies", rounds, verdict, recovered, "until its work goes well")
