"""Postgres gives errors of every class, one after the other: all of it arrives nevertheless."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.chaos.stage import staged

pytestmark = pytest.mark.timeout(1800)

CLASSES = (
    ("08000", "08003", "08006", "08P01"),
    ("25001", "25006", "25P02", "25P03"),
    ("40001", "40003", "40P01"),
    ("42501", "42703", "42883", "42P01"),
    ("53100", "53200", "53300", "53400"),
    ("55000", "55006", "55P03"),
    ("57014", "57P01", "57P03", "57P05"),
    ("XX000", "XX001", "XX002"),
)


class Faulty:
    """A database in which whatever is written to our tables may fail."""

    def __init__(self, connection):
        self._connection = connection

    async def prepare(self):
        await self.be_well()
        for row in await self._connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'voice'"
        ):
            await self._connection.execute(
                f"CREATE TRIGGER fail BEFORE INSERT OR UPDATE OR DELETE ON voice.{row['tablename']}"
                " FOR EACH STATEMENT EXECUTE FUNCTION public.fail()"
            )

    async def be_well(self):
        await self._run("RETURN NULL;")

    async def fail(self, sqlstate):
        await self._run(f"RAISE EXCEPTION 'no' USING ERRCODE = '{sqlstate}';")

    async def _run(self, body):
        await self._connection.execute(
            "CREATE OR REPLACE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN {body} END $$"
        )


@asynccontextmanager
async def faulty(database_url):
    connection = await asyncpg.connect(database_url)
    try:
        database = Faulty(connection)
        await database.prepare()
        yield database
    finally:
        await connection.close()


async def test_errors_of_every_class_lose_nothing_and_nobody_falls_silent(
    database_url, empty_database_url, tmp_path, chance, is_long, publish
):
    rounds, shortest, longest = (4, 1.0, 10.0) if is_long else (1, 0.3, 0.6)
    recovered = []
    async with (
        faulty(database_url) as database,
        staged(tmp_path, database_url, planner_url=empty_database_url) as stage,
    ):
        relay = stage.relay()
        await relay.start()
        async with stage.people(chance, 3) as browsers:
            for _ in range(rounds):
                for states in chance.sample(CLASSES, len(CLASSES)):
                    await database.fail(chance.choice(states))
                    until = time.monotonic() + chance.uniform(shortest, longest)
                    while time.monotonic() < until:
                        answered = await asyncio.gather(*(browser.turn(15) for browser in browsers))
                        assert all(answered), "a conversation fell silent"
                await database.be_well()
                well = time.monotonic()
                verdict = await stage.settle(browsers)
                recovered.append(time.monotonic() - well)
            assert [browser.sessions + browser.returns for browser in browsers] == [1, 1, 1]
        assert await relay.metric(stage.http, "relay_journal_lost_total") == 0
        ready = await stage.http.get(f"{relay.url}/health/ready")
        assert ready.status_code == 200, ready.text
        await stage.stop_relays()
        assert relay.process.returncode == 0
    publish("database errors", rounds, verdict, recovered, "8 classes, until all is stored")
