"""What systemd would hear: a socket of ours in its place."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from control.http.service_manager import ServiceManager
from tests.chaos.stage import staged

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def manager():
    """The socket; its name is short, as there is room for 108 bytes."""
    with tempfile.TemporaryDirectory() as folder, listening(str(Path(folder) / "notify")) as heard:
        yield heard


@contextmanager
def listening(name):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(name)
        heard.setblocking(False)
        yield heard


def name_of(heard):
    name = heard.getsockname()
    return name if isinstance(name, str) else "@" + name[1:].decode()


async def hear(heard, seconds=30.0):
    """The facts of the next datagram; raises `TimeoutError`."""
    async with asyncio.timeout(seconds):
        return (await asyncio.get_running_loop().sock_recv(heard, 4096)).decode().split("\n")


async def hear_until(heard, fact):
    before = []
    while (facts := await hear(heard)) != fact:
        before.append(facts)
    return before


def missed(heard):
    """What waits to be read."""
    found = []
    try:
        while True:
            found.append(heard.recv(4096).decode())
    except BlockingIOError:
        return found


async def test_a_relay_says_that_it_is_ready_lives_reloads_and_stops(
    manager, database_url, tmp_path
):
    async with staged(tmp_path, database_url) as stage:
        relay = stage.relay(NOTIFY_SOCKET=name_of(manager), WATCHDOG_USEC="400000")
        await relay.start()
        assert await hear(manager) == ["READY=1"]
        for _ in range(3):
            assert await hear(manager, 2.0) == ["WATCHDOG=1"]

        # Whatever holds the event loop up: a frozen process is one whose loop does not turn.
        relay.signal(signal.SIGSTOP)
        missed(manager)
        with pytest.raises(TimeoutError):
            await hear(manager, 1.0)
        relay.signal(signal.SIGCONT)
        assert await hear(manager) == ["WATCHDOG=1"]

        relay.signal(signal.SIGHUP)
        while len(reloading := await hear(manager)) == 1:
            assert reloading == ["WATCHDOG=1"]
        assert reloading[0] == "RELOADING=1"
        assert reloading[1].startswith("MONOTONIC_USEC=")
        await hear_until(manager, ["READY=1", "STATUS="])
        (tmp_path / "config" / "agent.yaml").write_text("nonsense")
        relay.signal(signal.SIGHUP)
        await hear_until(manager, ["READY=1", "STATUS=a reload was refused; see the log"])

        relay.signal(signal.SIGTERM)
        await hear_until(manager, ["STOPPING=1"])
        assert await relay.end(20) == 0


async def test_of_several_workers_the_parent_speaks_once_one_is_ready(
    manager, database_url, tmp_path
):
    async with staged(tmp_path, database_url) as stage:
        relay = stage.relay(NOTIFY_SOCKET=name_of(manager), RELAY_WORKERS="2")
        await relay.start()
        assert await hear(manager) == ["READY=1"]
        assert await hear(manager) == ["READY=1"]
        relay.signal(signal.SIGHUP)
        assert (await hear(manager))[0] == "RELOADING=1"
        assert await hear(manager) == ["READY=1"]
        relay.signal(signal.SIGTERM)
        assert await hear(manager) == ["STOPPING=1"]
        assert await relay.end(20) == 0
        assert missed(manager) == []


async def test_it_hears_nothing_more_of_a_process_whose_background_tasks_are_dead(manager):
    asked, is_well = asyncio.Queue(), True

    def answer():
        asked.put_nowait(None)
        return is_well

    told = ServiceManager({"NOTIFY_SOCKET": name_of(manager), "WATCHDOG_USEC": "2000"})
    async with told.watching(answer):
        await asked.get()
        assert await hear(manager) == ["WATCHDOG=1"]
        is_well = False
        while not asked.empty():
            asked.get_nowait()
        missed(manager)
        for _ in range(3):
            await asked.get()
        assert missed(manager) == []
        is_well = True
        assert await hear(manager) == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": "/nowhere/at/all"},
        {"NOTIFY_SOCKET": "/" + "x" * 200},
        {"WATCHDOG_USEC": "1000"},
        {"WATCHDOG_USEC": "soon"},
    ],
)
async def test_without_one_nothing_happens(environ):
    told = ServiceManager(environ)
    told.tell("READY=1")
    async with told.watching(lambda: True):
        pass


async def test_the_watchdog_of_another_process_is_not_ours():
    with listening("\0voice-relay-" + str(os.getpid())) as heard:
        environ = {"NOTIFY_SOCKET": name_of(heard), "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
        told = ServiceManager(environ)
        async with told.watching(lambda: True):
            told.tell("READY=1")  # an abstract name
            assert await hear(heard) == ["READY=1"]
        assert missed(heard) == []
