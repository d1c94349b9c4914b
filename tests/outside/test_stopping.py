"""Signals, while something that the program needs is away: it ends in time, with what it has."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time

import asyncpg
import psutil
import pytest

from control.stop import LAST_SECONDS
from tests.chaos.postgres import own_server
from tests.chaos.stage import answers, staged, until

SECONDS = LAST_SECONDS + 2.0  # the process itself takes a moment to go


@pytest.fixture(scope="module")
def own_postgres():
    with own_server() as server:
        yield server


async def ended(relay, seconds=SECONDS):
    """The exit code; fails with the log when it goes on."""
    try:
        return await relay.end(seconds)
    except subprocess.TimeoutExpired:
        pytest.fail(f"still running after {seconds} s\n{relay.output}")


@pytest.mark.parametrize(
    ("workers", "moment"), [("1", 0.0), ("1", 1.5), ("1", 7.0), ("2", 3.0)], ids=str
)
async def test_a_frozen_postgres_does_not_keep_it(
    own_postgres, empty_database_url, tmp_path, workers, moment
):
    database_url = await own_postgres.migrated()
    async with staged(tmp_path, database_url, planner_url=empty_database_url) as stage:
        relay = stage.relay(RELAY_WORKERS=workers)
        await relay.start()
        async with stage.people(random.Random(1), 6) as browsers:
            await own_postgres.leave("stopped")
            try:
                await asyncio.gather(*(browser.turn(15) for browser in browsers))
                await asyncio.sleep(moment)  # so that statements are at different stages
                relay.signal(signal.SIGTERM)
                assert await ended(relay) == 0, relay.output
            finally:
                await own_postgres.come_back()
            assert "Traceback" not in relay.output
            await relay.start()  # what was only on disk arrives
            verdict = await stage.settle(browsers)
        assert verdict.told > 0
        await stage.stop_relays()


async def test_an_agent_and_an_orchestrator_that_say_nothing_do_not_keep_it(stage):
    relay = stage.relay()
    await relay.start()

    async with stage.people(random.Random(1), 3):
        stage.agent_link.mute()
        stage.planner_link.mute()
        relay.signal(signal.SIGTERM)
        assert await ended(relay) == 0, relay.output


async def test_a_connection_that_never_asks_for_anything_does_not_keep_it(stage):
    relay = stage.relay()
    await relay.start()
    _, silent = await asyncio.open_connection("127.0.0.1", relay.port)
    _, half = await asyncio.open_connection("127.0.0.1", relay.port)
    half.write(b"GET /v1/agent/converse HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n")
    await half.drain()

    relay.signal(signal.SIGTERM)

    assert await ended(relay) == 0, relay.output
    silent.close()
    half.close()


async def test_when_nothing_else_helps_the_process_is_ended_and_says_where_it_hung(stage):
    """The journal's disk hangs: here the whole process stands still in the middle of its stop."""
    relay = stage.relay(PYTHONPATH=str(hanging_disk(stage.folder)))
    await relay.start()
    began = time.monotonic()

    relay.signal(signal.SIGTERM)

    assert await ended(relay) == 1, relay.output
    assert time.monotonic() - began <= SECONDS
    assert "Timeout (0:00:" in relay.output
    assert "ledger.py" in relay.output


def hanging_disk(folder):
    """A folder for PYTHONPATH that makes the ledger of a process hang as it is closed."""
    home = folder / "site"
    home.mkdir()
    (home / "sitecustomize.py").write_text(
        "import threading\n"
        "from relay.ledger import Ledger\n"
        "Ledger._close = lambda self: threading.Event().wait()\n"
    )
    return home


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_hang_up_of_the_terminal_ends_no_session(stage, workers):
    relay = stage.relay(RELAY_WORKERS=workers)
    await relay.start()

    async with stage.people(random.Random(1), 2) as browsers:
        for process in family(relay):
            process.send_signal(signal.SIGHUP)

        async def is_said():
            return "signal_ignored signal=SIGHUP" in relay.output

        await until(is_said, 10)
        assert all(await asyncio.gather(*(browser.turn(15) for browser in browsers)))
        assert {code for browser in browsers for code in browser.codes} == set()
        assert relay.is_running

    relay.signal(signal.SIGTERM)
    assert await ended(relay) == 0, relay.output


def family(relay):
    parent = psutil.Process(relay.process.pid)
    return [parent, *parent.children(recursive=True)]


async def test_a_worker_that_dies_is_replaced_and_one_that_cannot_start_ends_the_program(stage):
    relay = stage.relay(RELAY_WORKERS="2")
    await relay.start()

    async def are_there():
        return len(family(relay)) >= 3

    await until(are_there, 30)
    before = {process.pid for process in family(relay)}
    _, victim, *_ = family(relay)
    victim.kill()

    async def is_replaced():
        return len({process.pid for process in family(relay)} - before) >= 1

    await until(is_replaced, 30)
    assert "worker_ended" in relay.output

    # From now on no worker can start: its data directory is a file.
    data = stage.folder / "data1"
    data.rename(stage.folder / "gone")
    data.write_text("")
    os.chmod(data, 0o400)
    while relay.is_running:
        for process in family(relay)[1:]:
            process.kill()
        await asyncio.sleep(0.2)
    assert await ended(relay) == 1


async def test_an_old_program_does_not_start_on_a_newer_schema_and_one_that_runs_goes_on(stage):
    running = stage.relay()
    await running.start()
    await run(
        stage.database_url,
        "INSERT INTO voice.migrations (name, checksum) VALUES ('9999_future', 'x')",
    )

    late = stage.relay()
    with pytest.raises(AssertionError):
        await late.start()
    assert await ended(late) == 1
    (line,) = late.output.strip().splitlines()
    assert "9999_future" in line
    assert "Traceback" not in late.output
    ready = await stage.http.get(f"{running.url}/health/ready")
    assert ready.status_code == 200, ready.text
    async with stage.people(random.Random(1), 1) as browsers:
        assert await browsers[0].turn(15)
    await stage.stop_relays()


async def run(database_url, sql):
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def test_a_newer_schema_that_is_marked_compatible_is_no_reason_to_refuse(stage):
    await run(
        stage.database_url,
        "INSERT INTO voice.migrations (name, checksum, compatible) VALUES ('9999_f', 'x', true)",
    )
    relay = stage.relay()
    await relay.start()
    assert await answers(relay.port)
    await stage.stop_relays()
