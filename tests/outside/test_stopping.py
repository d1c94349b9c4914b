"""Signals, while something that the program needs is away: it ends in time, with what it has."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import textwrap

import asyncpg
import psutil
import pytest

from control.http.shutdown import LAST_SECONDS
from tests.chaos.postgres import own_server
from tests.chaos.stage import answers, staged, until

SECRET = "what somebody said"
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
    ("workers", "moment"), [("1", 1.5), pytest.param("2", 3.0, marks=pytest.mark.long)], ids=str
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


def changed(folder, source):
    """A folder for PYTHONPATH with which each process of a relay begins with `source`."""
    home = folder / "site"
    home.mkdir()
    (home / "sitecustomize.py").write_text(textwrap.dedent(source))
    return str(home)


async def test_when_nothing_else_helps_the_process_is_ended_and_says_where_it_hung(stage):
    hanging_disk = """
        import threading
        from control.http import shutdown
        from relay.journal.segments import Segments

        shutdown.LAST_SECONDS = 4.0
        Segments._close = lambda self: threading.Event().wait()
    """
    relay = stage.relay(PYTHONPATH=changed(stage.folder, hanging_disk))
    await relay.start()

    relay.signal(signal.SIGTERM)

    assert await ended(relay) == 1, relay.output
    assert "Timeout (0:00:04)" in relay.output
    assert "segments.py" in relay.output


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_program_whose_composition_ends_by_itself_ends_with_code_1(stage, workers):
    flag = stage.folder / "flag"
    defect = f"""
        import asyncio
        import pathlib
        from contextlib import asynccontextmanager
        from relay.live.session_registry import SessionRegistry

        running = SessionRegistry.running

        async def wait():
            while not pathlib.Path({str(flag)!r}).exists():
                await asyncio.sleep(0.02)
            raise RuntimeError(" ".join({SECRET.split()!r}))

        @asynccontextmanager
        async def ending(self):
            async with running(self), asyncio.TaskGroup() as tasks:
                task = tasks.create_task(wait())
                yield
                task.cancel()

        SessionRegistry.running = ending
    """
    relay = stage.relay(RELAY_WORKERS=workers, PYTHONPATH=changed(stage.folder, defect))
    await relay.start()

    async with stage.people(random.Random(1), 1) as browsers:
        flag.touch()
        await until_said(relay, "the application ended by itself")
        if workers == "2":  # both go, and others take their places
            await until_said(relay, "worker_ended code=1")
            flag.unlink()
            await browsers[0].turn_at_last(30)
            relay.signal(signal.SIGTERM)
            assert await ended(relay) == 0, relay.output
        else:
            assert await ended(relay) == 1, relay.output
    assert "application_failed" in relay.output
    assert "RuntimeError" in relay.output
    assert SECRET not in relay.output  # an exception's text may quote anything


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_hang_up_ends_no_session(stage, workers):
    relay = stage.relay(RELAY_WORKERS=workers)
    await relay.start()

    async with stage.people(random.Random(1), 2) as browsers:
        for process in family(relay):
            process.send_signal(signal.SIGHUP)

        await until_said(relay, "configuration_reloaded")
        assert all(await asyncio.gather(*(browser.turn(15) for browser in browsers)))
        assert {code for browser in browsers for code in browser.codes} == set()
        assert relay.is_running

    relay.signal(signal.SIGTERM)
    assert await ended(relay) == 0, relay.output


def family(relay):
    parent = psutil.Process(relay.process.pid)
    return [parent, *parent.children(recursive=True)]


async def until_said(relay, line):
    async def is_said():
        return line in relay.output

    await until(is_said, 30)


async def test_workers_that_die_are_replaced_and_when_none_can_start_the_program_ends(stage):
    relay = stage.relay(RELAY_WORKERS="2")
    await relay.start()
    async with stage.people(random.Random(1), 2) as browsers:
        for process in family(relay)[1:]:
            process.kill()
        await until_said(relay, "worker_ended code=-9")
        await asyncio.gather(*(browser.turn_at_last(30) for browser in browsers))

    # From now on no worker can start: what it has to read is gone.
    (stage.folder / "config" / "agent.yaml").unlink()
    for process in family(relay)[1:]:
        process.kill()
    assert await ended(relay, 60) == 1
    assert "a worker ended 3 times soon after its start" in relay.output


async def test_workers_whose_parent_was_killed_stop_as_well(stage):
    relay = stage.relay(RELAY_WORKERS="2")
    await relay.start()
    workers = family(relay)[1:]

    await relay.kill()

    _, left = await asyncio.to_thread(psutil.wait_procs, workers, timeout=SECONDS)
    assert left == []


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
    _, line = late.output.strip().splitlines()  # the first says the version
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
