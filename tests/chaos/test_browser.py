"""The browser's network is gone, goes mute without closing, or the browser does not read."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial

import pytest

from relay.sandbox.script import Script, Turn
from tests.chaos.link import Link
from tests.chaos.stage import staged, until

pytestmark = pytest.mark.timeout(900)


async def test_a_browser_that_is_cut_off_comes_back_and_misses_nothing(
    database_url, tmp_path, chance, is_long, publish
):
    rounds = 50 if is_long else 3
    async with staged(tmp_path, database_url) as stage, AsyncExitStack() as stack:
        relay = stage.relay()
        await relay.start()
        links = [await stack.enter_async_context(Link(relay.port)) for _ in range(2)]
        for fault in ("gone", "half-open"):
            recovered = []
            async with (
                stage.people(chance, 1, links[0].url) as (one,),
                stage.people(chance, 1, links[1].url) as (other,),
            ):
                for _ in range(rounds):
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(one.turn(2))
                        untouched = tasks.create_task(other.turn(15))
                        await asyncio.sleep(chance.uniform(0.0, 0.4))  # any moment of a turn
                        if fault == "half-open":
                            links[0].mute()  # the relay's side stays open
                        one.cut()
                        broken = time.monotonic()
                        assert await one.until(partial(is_back, one), 15)
                        recovered.append(time.monotonic() - broken)
                    assert untouched.result(), "one browser's trouble touched another's"
                    await one.turn_at_last(30)
                assert (one.sessions, one.returns) == (1, rounds)
                verdict = await stage.settle([one, other])
            publish(f"browser {fault}", rounds, verdict, recovered, "until it is back")


def is_back(browser):
    return browser.is_connected


async def test_a_half_open_browser_is_found_and_its_session_ends(
    database_url, tmp_path, chance, is_long, publish
):
    # In the long form as it ships: 10 s until a ping, 10 s for its answer.
    pings, grace = (10.0, 2.0) if is_long else (0.5, 0.5)
    environ = {"RELAY_PING_SECONDS": f"{pings:g}", "RELAY_GRACE_SECONDS": f"{grace:g}"}
    async with staged(tmp_path, database_url) as stage, AsyncExitStack() as stack:
        relay = stage.relay(**environ)
        await relay.start()
        link = await stack.enter_async_context(Link(relay.port))
        async with stage.people(chance, 1, link.url) as (browser,):
            link.mute()

            async def is_over():
                return await relay.metric(stage.http, "relay_sessions_live") == 0

            seconds = await until(is_over, 2 * pings + grace + 10)
            browser.vanish()
            verdict = await stage.settle([browser])

        async def is_said():
            return "reason=browser_lost" in relay.output

        await until(is_said, 10)
    note = f"found and ended: two pings of {pings:g} s and {grace:g} s of grace"
    publish("browser half-open, away", 1, verdict, [seconds], note)


TOO_MUCH = 12_000_000  # bytes of audio: several times what the kernel may hold


async def count_bytes(stage, relay, browser):
    """Agent audio that its session has carried so far."""
    url = f"{relay.url}/api/v1/voice/session/{browser.session_id}"
    return (await stage.http.get(url)).json()["agent_bytes"]


async def test_a_browser_that_never_reads_is_bounded_and_touches_nobody(
    database_url, tmp_path, chance, is_long, publish
):
    rounds = 10 if is_long else 1
    # One sentence: the text of a second one would come after the first was spoken in real time.
    turn = Turn(when="text", say=("A long story.",), seconds=40.0, pace=400.0)
    script = Script(turns=(turn,), loop=True)
    recovered = []
    shouted = []
    async with staged(tmp_path, database_url, script=script) as stage, AsyncExitStack() as stack:
        relay = stage.relay(RELAY_LANE_BYTES="131072")
        await relay.start()
        link = await stack.enter_async_context(Link(relay.port))
        async with (
            stage.people(chance, 1, link.url) as (deaf,),
            stage.people(chance, 1) as (other,),
        ):
            for _ in range(rounds):
                most = await count_bytes(stage, relay, deaf) + TOO_MUCH
                link.stop_reading()
                # Usually in 3 s; after 20 s without a byte read it would be sent away.
                async with asyncio.timeout(60):
                    while await count_bytes(stage, relay, deaf) < most:
                        # Each line interrupts the story before, which may have hardly begun.
                        shouted.append(f"{deaf.name} does not listen {len(shouted)}")
                        await deaf.shout(shouted[-1])
                        assert await other.turn(10), "one browser's trouble touched another's"
                reads = time.monotonic()
                link.read_again()
                assert await deaf.turn(60)
                recovered.append(time.monotonic() - reads)
            verdict = await stage.settle([deaf, other])
            await deaf.leave()

        async def is_over():
            return await relay.metric(stage.http, "relay_sessions_live") == 0

        await until(is_over, 10)  # only then it is counted
        dropped = await relay.metric(stage.http, 'relay_audio_dropped_total{towards="browser"}')
    assert dropped > 0
    assert (deaf.sessions, deaf.returns) == (1, 0), "it was sent away"
    assert [text for role, text in deaf.told if role == "user" and text in shouted] == shouted
    note = f"from when it reads again; {dropped:.0f} frames of audio thrown away"
    publish("browser not reading", rounds, verdict, recovered, note)
