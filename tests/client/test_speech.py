"""Speak, and be heard: the sandbox agent with ears and a voice, a microphone that plays a file."""

from __future__ import annotations

import asyncio

import pytest

from relay.sandbox.speech import Speech
from tests.client.conftest import AUDIO, needs_chromium

MICROPHONE = f"{AUDIO / 'new_task_shoes.wav'}%noloop"

pytestmark = [
    needs_chromium,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.speech,
    pytest.mark.timeout(150),
]


async def test_what_is_spoken_is_understood_answered_aloud_and_submitted(stack, tab):
    speech = await asyncio.to_thread(Speech.load)
    await stack.say(speech=speech)
    page = await tab()

    await page.talk()
    await page.until("() => document.querySelector('.bubble.user')", seconds=60)
    await page.until(
        """() => { const last = [...document.querySelectorAll('.bubble')].at(-1);
            return last.classList.contains('assistant') && /right/i.test(last.dataset.text); }""",
        seconds=40,
    )
    await page.type("yes")
    await page.until("() => document.querySelector('.card[data-status=submitted]')", seconds=40)
    await page.until(
        "() => /anything else/i.test(document.querySelector('.transcript').innerText)", seconds=40
    )
    await page.stored(4, seconds=40)

    said = [(role, text.lower()) for role, text, _ in await page.bubbles()]
    assert "shoes" in said[0][1]
    assert [role for role, _ in said[:3]] == ["user", "assistant", "user"]
    assert "shoes" in (await page.by(".card").inner_text()).lower()
    heard = await page.page.evaluate("heard.ranges.filter(({ peak }) => peak > 0.02)")
    seconds = sum(one["end"] - one["start"] for one in heard)
    print(f"agent heard for {seconds:.1f} s")
    assert seconds > 1  # what was typed cut the rest

    conversation = await page.conversation()
    await page.open()
    await page.by("#list a").first.click()
    await page.stored(4)
    before = len(await page.bubbles())
    await page.talk()  # the microphone's file begins again: the same is said once more
    await page.until("n => document.querySelectorAll('.bubble').length > n", before + 1, seconds=60)
    assert await page.conversation() == conversation
    await page.talk()


async def test_opus_takes_a_tenth_of_the_bytes_and_is_understood(stack, tab):
    speech = await asyncio.to_thread(Speech.load)
    await stack.say(speech=speech)
    page = await tab(path="?codec=opus")

    await page.talk()
    await page.until("() => document.querySelector('.bubble.user')", seconds=60)

    assert "shoes" in (await page.bubbles())[0][1].lower()
    conversation = await page.conversation()
    session = await page.page.evaluate("heard.sockets.at(-1).url.split('/').at(-2)")
    figures = await stack.get(f"/session/{session}")
    size = figures["browser_bytes"] / figures["browser_frames"]
    print(f"opus: {size:.0f} bytes a frame of 20 ms; linear16 has 640")
    assert size < 100
    assert conversation == figures["conversation_id"]
    await page.talk()
