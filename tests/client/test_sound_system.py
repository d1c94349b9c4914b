"""A real microphone and a real loudspeaker, in each engine: spoken to, understood, and heard."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

from relay.sandbox.speech import Speech
from tests.client.conftest import AUDIO, DESKTOP, TAP, Page
from tests.client.engines import ENGINES, missing
from tests.client.sound_system import PULSEAUDIO, RATE, loudness

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(PULSEAUDIO is None, reason="there is no pulseaudio"),
    pytest.mark.speech,
    pytest.mark.timeout(150),
]

SILENCE = 0.001
LOUD = 0.01


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def speech():
    return await asyncio.to_thread(Speech.load)


def silent_for_a_second(session):
    last = session.audio[-2 * RATE :]
    return len(last) == 2 * RATE and loudness(last) < SILENCE


@pytest.mark.parametrize("engine", ENGINES)
async def test_who_speaks_is_understood_and_hears_the_agent(stack, speech, system, engine):
    if why := missing(engine):
        pytest.skip(why)
    await stack.say(speech=speech, keep_audio=True)
    async with ENGINES[engine](system.environ) as browser, system.listening() as heard:
        context = await browser.new_context(TAP, DESKTOP)
        page = Page(await context.new_page(), stack.url)
        await page.open()
        heard.skip()
        assert await heard.grow(0.5) < SILENCE

        await page.talk()
        await page.word("speaking", 20)
        greeting = await heard.until(LOUD)
        await page.word("listening", 20)
        agent = stack.sandbox.sessions[-1]
        await agent.until(silent_for_a_second)
        spoken = len(agent.audio)
        heard.skip()
        await system.say(AUDIO / "hello.wav")
        await page.until("() => document.querySelector('.bubble.user')", seconds=40)
        await page.word("speaking", 20)
        answer = await heard.until(LOUD)

        arrived = loudness(agent.audio[spoken:])
        said = [text for role, text, _ in await page.bubbles() if role == "user"]
        print(f"{engine}: {arrived:.3f} {said}; {greeting:.3f} {answer:.3f}")
        assert arrived > LOUD
        await page.talk()
        await page.word("ready")
        await context.close()
        page.check()
