"""The agent is lost while the user waits for an answer: the next one gives it, unasked."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from relay.sandbox.script import Ending, Script, Turn
from tests.chaos.audit import Verdict
from tests.chaos.stage import GOAL, staged

pytestmark = pytest.mark.timeout(900)

PLAIN = Turn(when="text", say=("All right.", "What else is there to do?"), seconds=0.4)
CALLING = Turn(when="text", calls=(GOAL,), say=("It is written down.", "What else?"), seconds=0.4)
THOUGHTLESS = Turn(when="text", end=Ending("error", "FAILED_TO_THINK"))
SLOW = {"think_delay": 0.2, "voice_delay": 0.3, "pace": 2.0}
# Moments by the second turn of an agent; the next agent begins with the first.
SCRIPTS = {
    "plain": (Script(turns=(PLAIN,), loop=True), ("words", "thought", "reply")),
    "with a call": (Script(turns=(PLAIN, CALLING), loop=True), ("words", "call", "reply")),
    "failed to think": (Script(turns=(PLAIN, THOUGHTLESS)), ("error",)),
}


@pytest.mark.parametrize("kind", SCRIPTS)
async def test_a_turn_is_answered_though_its_agent_is_lost(
    kind, database_url, tmp_path, chance, is_long, publish, say
):
    script, moments = SCRIPTS[kind]
    rounds = 20 if is_long else 1
    heard, verdict = [], Verdict()
    async with staged(tmp_path, database_url, script=script, **SLOW) as stage:
        relay = stage.relay()
        await relay.start()
        for moment in moments:
            seconds = []
            for _ in range(rounds):
                # Somebody else each time: five tries are all that an agent gets in half a minute.
                async with stage.people(chance, 1) as (browser,):
                    seconds.append(await lose(stage.agent_link, moment, browser, chance))
                    assert [text for role, text in browser.told if role == "user"] == [
                        browser.coming_line(number) for number in (-1, 0)
                    ], "the line was told once"
                    calls = len(browser.accepted)
                    assert calls == (kind == "with a call" and moment != "words")
                    assert (browser.sessions, browser.returns) == (1, 0)
                    verdict += await stage.settle([browser])
            worst = max(seconds)
            say(f"agent lost in mid-turn, {kind}, at {moment}: heard after {worst:.2f} s at most")
            heard += seconds
        again = await relay.metric(stage.http, 'relay_notes_total{what="turn_asked_again"}')
    assert again == rounds * len(moments)
    publish(
        f"agent lost in mid-turn, {kind}",
        rounds * len(moments),
        verdict,
        heard,
        "from the loss until the answer is heard",
    )


async def lose(link, moment, browser, chance):
    """The agent breaks off at this moment of a turn, which is answered all the same: how long it
    takes until the answer is heard."""
    line, quiet = browser.coming_line(), browser.audio_bytes
    async with asyncio.TaskGroup() as tasks:
        question = tasks.create_task(browser.turn(20.0))
        assert await browser.until(lambda: ("user", line) in browser.told, 10)
        match moment:
            case "thought":  # before the first audio
                await asyncio.sleep(chance.uniform(0.1, 0.4))
                assert browser.audio_bytes == quiet
            case "call":
                assert await browser.until(lambda: browser.accepted, 10), browser.told
            case "reply":
                assert await browser.until(lambda: browser.audio_bytes > quiet, 10)
        lost = time.monotonic()
        if moment != "error":
            link.cut()
        assert await browser.until(partial(is_back, browser, lost), 15), browser.told
        quiet = browser.audio_bytes
        assert await browser.until(lambda: browser.audio_bytes > quiet, 10)
        heard = time.monotonic()
    assert question.result(), "no answer came"
    return heard - lost


def is_back(browser, lost):
    return browser.reconnected_at > lost
