"""In what order a tap does what it needs: nothing waits that need not wait, and nobody is called
for nobody. Times are the business of `voice-relay loadtest --part greeting`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from relay.sandbox.script import Script, Turn
from tests.client.conftest import needs_chromium

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

HOSTILE = (Path(__file__).parent / "hostile.js").read_text("utf-8")
ECHO = Script(turns=(Turn(when="text", say=("All right.",), seconds=0.5),), loop=True)
# `steps`: what the page asked its browser for, in order. With `held` the
# microphone waits for `release()`.
STEPS = """(() => {
    const steps = window.steps = [];
    const { mediaDevices } = navigator;
    const ask = mediaDevices.getUserMedia.bind(mediaDevices);
    mediaDevices.getUserMedia = async (wanted) => {
        steps.push('microphone asked');
        const stream = await ask(wanted);
        if (window.held) await new Promise((resolve) => (window.release = resolve));
        steps.push('microphone there');
        return stream;
    };
    const real = window.fetch;
    window.fetch = async (url, options) => {
        if (options?.method !== 'POST') return real(url, options);
        steps.push('POST');
        const answer = await real(url, options);
        steps.push('POST answered');
        return answer;
    };
    const load = AudioWorklet.prototype.addModule;
    AudioWorklet.prototype.addModule = async function (url) {
        await load.call(this, url);
        steps.push('worklet');
    };
    for (const name of ['WebSocket', 'AudioWorkletNode']) {
        const Real = window[name];
        window[name] = class extends Real {
            constructor(...options) {
                super(...options);
                steps.push(name);
            }
        };
    }
    const Real = AudioContext;
    window.AudioContext = class extends Real {
        constructor(...options) {
            super(...options);
            window.context = this;
            steps.push('context');
        }
    };
    addEventListener('pointerdown', () => steps.push('tap'), { capture: true });
})()"""


async def watched(stack, tab, *takes, held=False):
    """A page whose steps are noted, in a browser that has been robbed of something."""
    await stack.say(ECHO)
    page = await tab(go=False)
    await page.page.add_init_script(HOSTILE)
    for take in takes:
        await page.page.add_init_script(f"hostile.{take}")
    await page.page.add_init_script(f"window.held = {str(held).lower()}; {STEPS}")
    await page.open()
    await page.until("() => steps.includes('worklet')")
    return page


def steps(page):
    return page.page.evaluate("steps")


async def test_sound_is_ready_before_the_tap_and_neither_heard_nor_asked_for(stack, tab):
    page = await watched(stack, tab)
    await page.until("() => context.state === 'suspended'")

    assert await steps(page) == ["context", "worklet"]  # no microphone, no session

    await page.talk()
    await page.word("listening")
    assert [step for step in await steps(page) if step in ("context", "worklet")] == [
        "context",
        "worklet",
    ]
    await page.talk()


async def test_the_microphone_does_not_wait_for_the_relay(stack, tab):
    page = await watched(stack, tab)
    release = asyncio.Event()

    async def hold(route):
        await release.wait()
        await route.continue_()

    await page.page.context.route("**/voice/session", hold)
    await page.talk()
    await page.until("() => steps.includes('microphone there') && steps.includes('POST')")
    await page.word("connecting")
    assert "POST answered" not in await steps(page)

    release.set()
    await page.word("listening")
    await page.page.context.unroute("**/voice/session")
    await page.talk()


async def test_the_websocket_does_not_wait_for_what_the_page_does_with_the_answer(stack, tab):
    page = await watched(stack, tab)

    await page.talk()
    await page.word("listening")

    made = [step for step in await steps(page) if step in ("WebSocket", "AudioWorkletNode")]
    assert made == ["WebSocket", "AudioWorkletNode", "AudioWorkletNode"]
    await page.talk()


async def test_the_relay_does_not_wait_for_a_microphone_that_is_allowed(stack, tab):
    page = await watched(stack, tab, held=True)

    await page.talk()
    await page.until("() => heard.last('SettingsApplied') && window.release")
    assert "microphone there" not in await steps(page)
    assert await page.by("#word").inner_text() == "connecting"  # nobody listens yet
    assert await page.page.evaluate("heard.sockets.at(-1).sizes") == {}

    await page.page.evaluate("release()")
    await page.word("listening")  # the greeting is heard first
    await page.until("() => heard.sockets.at(-1).sizes[640] > 5")
    await page.talk()


async def test_the_relay_does_not_wait_for_the_right_to_the_microphone(stack, tab):
    page = await watched(stack, tab, "slowLocks()")

    await page.talk()
    await page.until("() => steps.includes('POST answered') && window.grant")

    await page.page.evaluate("grant()")
    await page.word("listening")
    await page.talk()


async def test_a_tab_that_may_not_have_the_microphone_leaves_no_session(stack, tab):
    first = await watched(stack, tab)
    await first.talk()
    await first.word("listening")
    second = await tab.beside(first)

    await second.talk()
    await second.by("#notice").wait_for()

    assert "another tab" in await second.by("#notice").inner_text()
    await second.word("ready")
    await second.until("() => heard.sockets.every((socket) => socket.readyState > 1)")
    await first.talk()


async def test_a_right_that_comes_too_late_is_given_back(stack, tab):
    page = await watched(stack, tab, "slowLocks()", "refuse('NotReadableError')")
    await page.talk()
    await page.by("#notice").wait_for()
    await page.until("() => window.grant")
    await page.page.evaluate("grant()")

    await page.until("() => window.left")


@pytest.mark.parametrize("allowed", [True, False])
async def test_no_session_is_begun_before_the_user_has_allowed_the_microphone(stack, tab, allowed):
    page = await watched(stack, tab, "ask()")

    await page.talk()
    await page.by("#notice").wait_for()  # it asks
    assert "POST" not in await steps(page)
    await page.page.evaluate("allowed => answer(allowed)", allowed)

    if allowed:
        await page.word("listening")
        await page.talk()
    else:
        await page.until(
            "() => !document.querySelector('#notice-title').textContent.includes('ask')"
        )
        assert "POST" not in await steps(page)


async def test_a_microphone_that_fails_after_all_leaves_no_session(stack, tab):
    page = await watched(stack, tab, "refuse('NotReadableError')")

    await page.talk()
    await page.by("#notice").wait_for()

    assert "cannot be used" in await page.by("#notice-title").inner_text()
    await page.word("ready")
    assert await page.by("#mic").get_attribute("aria-pressed") == "false"
    await page.until("() => heard.sockets.every((socket) => socket.readyState > 1)")


async def test_a_second_tap_while_it_connects_hangs_up(stack, tab):
    page = await watched(stack, tab, held=True)
    await page.talk()
    await page.until("() => window.release")

    await page.talk()

    await page.until("() => document.body.dataset.word === 'ready'")
    await page.page.evaluate("release()")
    await page.until("() => steps.includes('microphone there')")
    await page.until("() => heard.sockets.every((socket) => socket.readyState > 1)")
    assert await page.by("#mic").get_attribute("aria-pressed") == "false"
    assert not await page.by("#notice").is_visible()


async def test_the_request_of_a_tap_does_not_wake_the_service_worker(stack, tab):
    page = await watched(stack, tab)
    await page.until("() => navigator.serviceWorker.controller")

    await page.talk()
    await page.word("listening")

    [session] = await page.page.evaluate(
        """() => performance.getEntriesByType('resource')
            .filter(({ name }) => name.endsWith('/voice/session')).map((entry) => entry.toJSON())"""
    )
    assert session["workerFinalSourceType"] == "network"
    await page.talk()


async def test_a_finger_on_its_way_finds_a_connection(stack, tab):
    page = await watched(stack, tab)
    page.expected += ["ERR_", "WebSocket connection"]
    stack.network.cut()  # as relays and balancers do with a connection that nobody uses
    stack.network.mend()
    before = stack.network.taken_in

    await page.by("#mic").hover()
    await page.page.mouse.down()
    async with asyncio.timeout(8):
        while stack.network.taken_in == before:
            await page.page.evaluate("new Promise(requestAnimationFrame)")
    assert "POST" not in await steps(page)

    await page.page.mouse.up()
    await page.word("listening")
    await page.talk()
