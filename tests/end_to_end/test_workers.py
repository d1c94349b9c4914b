"""Several workers on one port are one relay: its sessions are found, and its limits are for all."""

from __future__ import annotations

import asyncio
import json
import random
import re
from contextlib import AsyncExitStack
from functools import partial

import psutil
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from loadtests.processes import free_port
from tests.chaos.stage import staged, until

pytestmark = pytest.mark.timeout(180)
PEOPLE = 16


@pytest_asyncio.fixture
async def stage(tmp_path, database_url):
    async with staged(tmp_path, database_url) as made:
        yield made


async def start(stage, workers=2, **environ):
    """A relay whose workers all tell what they count, at `relay.metrics_url`."""
    port = free_port()
    relay = stage.relay(RELAY_METRICS_PORT=str(port), RELAY_WORKERS=str(workers), **environ)
    relay.metrics_url = f"http://127.0.0.1:{port}/metrics"
    await relay.start()

    async def all_are_there():
        return len(await by_worker(stage, relay, "relay_sessions_live")) == workers

    await until(all_are_there, 60)
    return relay


async def by_worker(stage, relay, name, **labels):
    """What each worker counts; one that has not counted yet is left out."""
    text = (await stage.http.get(relay.metrics_url)).text
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return {
        int(re.search(r'worker="(\d+)"', found[1])[1]): float(found[2])
        for found in re.finditer(rf"^{name}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
        if all(one in found[1].split(",") for one in wanted)
    }


async def total(stage, relay, name, **labels):
    return sum((await by_worker(stage, relay, name, **labels)).values())


def workers_of(relay):
    return psutil.Process(relay.process.pid).children()


# What is found is looked at after the browsers have gone: within, it would be wrapped in as many
# exception groups as there are browsers.


async def test_the_agent_that_was_dialled_at_the_post_is_the_one_of_the_session(stage):
    relay = await start(stage)
    for times in range(1, 21):  # the system may give one worker all that come for a while
        async with stage.people(random.Random(times), PEOPLE):
            used = await total(stage, relay, "relay_dialled_ahead_total", outcome="used")
            dials = await total(stage, relay, "relay_dials_total", outcome="opened")
            handed_over = await total(stage, relay, "relay_handed_over_total")
        assert (used, dials) == (PEOPLE * times, PEOPLE * times)
        if handed_over:
            return
    pytest.fail("nobody came to another worker than the one that had dialled")


async def test_who_comes_back_finds_the_session_and_its_agent(stage):
    relay = await start(stage)
    returned = []
    async with stage.people(random.Random(1), PEOPLE) as browsers:
        for times in range(1, 21):  # the system may give one worker all that come for a while
            for browser in browsers:
                browser.cut()
            for browser in browsers:
                returned.append(await browser.until(partial(has_returned, browser, times), 30))
                await browser.turn_at_last(30)
            handed_over = await total(stage, relay, "relay_handed_over_total")
            if handed_over and times >= 3:
                break
        dials = await total(stage, relay, "relay_dials_total", outcome="opened")

    assert all(returned)
    assert [browser.refusals for browser in browsers] == [[]] * PEOPLE
    assert sum(browser.takeovers for browser in browsers) == 0
    assert [browser.sessions for browser in browsers] == [1] * PEOPLE
    assert dials == PEOPLE
    assert handed_over > 0
    await stage.settle(browsers)


def has_returned(browser, times):
    return browser.returns >= times


async def test_a_worker_that_is_killed_hurts_its_sessions_alone_and_they_come_back(stage):
    relay = await start(stage)
    async with stage.people(random.Random(1), PEOPLE) as browsers:
        before = await by_worker(stage, relay, "relay_sessions_live")
        busiest = max(before, key=before.get)
        workers_of(relay)[busiest].kill()
        await asyncio.gather(*(browser.turn_at_last(30) for browser in browsers))
        lost = [browser for browser in browsers if browser.codes]
        taken_over = [browser for browser in browsers if browser.takeovers]

    assert len(lost) == before[busiest]
    assert taken_over == lost
    assert [browser.sessions for browser in browsers] == [1] * PEOPLE
    verdict = await stage.settle(browsers, hurry=True)
    assert verdict.told > 0


async def test_the_sessions_of_a_worker_that_hangs_go_on_at_the_others(stage):
    relay = await start(stage)
    async with stage.people(random.Random(1), PEOPLE) as browsers:
        before = await by_worker(stage, relay, "relay_sessions_live")
        frozen, _ = workers_of(relay)
        frozen.suspend()
        try:
            for browser in browsers:
                browser.cut()
            await asyncio.gather(*(browser.turn_at_last(60) for browser in browsers))
        finally:
            frozen.resume()
        taken_over = sum(browser.takeovers for browser in browsers)

    assert taken_over in before.values()
    assert [browser.sessions for browser in browsers] == [1] * PEOPLE


async def test_sessions_are_spread_evenly_over_the_workers(stage):
    # One after the other: how even it is with many at once is measured by loadtests/workers.py.
    relay = await start(stage, workers=3)
    async with AsyncExitStack() as stack:
        for _ in range(12):
            await attach(stack, (await begin(stage, relay)).json())
        live = await by_worker(stage, relay, "relay_sessions_live")
        used = await total(stage, relay, "relay_dialled_ahead_total", outcome="used")

    assert list(live.values()) == [4] * 3
    assert used == 12


async def test_the_limit_of_an_address_is_one_for_all_workers(stage):
    relay = await start(stage, RELAY_SESSIONS_PER_ADDRESS="4")
    begun = [await begin(stage, relay) for _ in range(8)]
    assert [one.status_code for one in begun] == [201] * 8  # nobody has attached yet

    async with AsyncExitStack() as stack:
        refused = []
        for one in begun:
            try:
                await attach(stack, one.json())
            except InvalidStatus as error:
                refused.append(error.response.status_code)
        live = await by_worker(stage, relay, "relay_sessions_live")
        late = [(await begin(stage, relay)).json() for _ in range(8)]

    assert refused == [429] * 4
    assert all(live.values()), "both workers have some"
    assert [one["code"] for one in late] == ["address_sessions"] * 8


async def test_whichever_worker_is_asked_a_session_is_ended(stage):
    relay = await start(stage)
    async with AsyncExitStack() as stack:
        sockets = {}
        for _ in range(8):
            one = (await begin(stage, relay)).json()
            sockets[one["session_id"]] = await attach(stack, one)
        live = await by_worker(stage, relay, "relay_sessions_live")
        for session_id, socket in sockets.items():
            ended = await stage.http.delete(f"{relay.url}/api/v1/voice/session/{session_id}")
            assert ended.status_code == 204
            async with asyncio.timeout(20):
                async for _ in socket:
                    pass
            await until(
                partial(is_ended, stage, relay, session_id), 20
            )  # the journal has written it

    assert all(live.values())
    assert {socket.close_code for socket in sockets.values()} == {1000}


async def is_ended(stage, relay, session_id):
    shown = await stage.http.get(f"{relay.url}/api/v1/voice/session/{session_id}")
    return shown.json()["state"] == "ended"


async def begin(stage, relay):
    # A connection of its own, as of another browser: a kept one is always of the same worker.
    headers = {"Connection": "close"}
    return await stage.http.post(f"{relay.url}/api/v1/voice/session", json={}, headers=headers)


async def attach(stack, begun):
    protocols = ["relay.v1", begun["ticket"]]
    # What it does not read must not be in the way of the close.
    socket = await stack.enter_async_context(
        connect(begun["websocket_url"], subprotocols=protocols, max_queue=None)
    )
    async with asyncio.timeout(20):
        async for frame in socket:
            if isinstance(frame, str) and json.loads(frame)["type"] == "SettingsApplied":
                return socket
    raise AssertionError("it was closed")
