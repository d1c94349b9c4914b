"""The page is honest: what it cannot do it says, and what it can do goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.sandbox.script import Script, Turn
from tests.client.conftest import LOST, PHONE, every_engine, needs_chromium
from tests.client.stack import SIGNED_OUT

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

HOSTILE = (Path(__file__).parent / "hostile.js").read_text("utf-8")
ECHO = Script(turns=(Turn(when="text", say=("All right.",), seconds=0.5),), loop=True)
ANSWERED = [("user", "Hello"), ("assistant", "All right.")]


async def hostile(stack, tab, *takes, **options):
    """A page in a browser that has been robbed of something."""
    await stack.say(ECHO)
    return await tab(HOSTILE, *(f"hostile.{take}" for take in takes), **options)


async def notice(page, title):
    await page.until(
        """title => !document.querySelector('#notice').hidden
            && document.querySelector('#notice-title').textContent.includes(title)""",
        title,
    )


async def no_notice(page):
    await page.until("() => document.querySelector('#notice').hidden")


async def answered(page, text="Hello"):
    count = len(await page.bubbles())
    await page.type(text)
    await page.stored(count + 2)
    assert [(role, said) for role, said, _ in await page.bubbles()][count:] == [
        ("user", text),
        ("assistant", "All right."),
    ]


# --- sound ---------------------------------------------------------------------------------------


@every_engine
async def test_typing_needs_no_sound_and_its_lack_is_told(stack, tab):
    page = await hostile(stack, tab, "silence()")

    await answered(page)
    await notice(page, "There is no sound")


@every_engine
async def test_a_microphone_without_sound_does_not_claim_to_listen(stack, tab):
    page = await hostile(stack, tab, "silence()")

    await page.talk()
    await page.word("paused")
    await notice(page, "There is no sound")
    await answered(page)
    await page.talk()
    await page.word("ready")


@every_engine
async def test_sound_that_stops_in_mid_call_is_told_and_goes_on_with_a_tap(stack, tab):
    page = await hostile(stack, tab)
    await page.talk()
    await page.word("listening")
    await page.type("Hello")  # so that the context is at hand: something is heard
    await page.stored(2)
    await page.until("() => heard.context")

    await page.page.evaluate("heard.context.suspend()")
    await page.word("paused")
    await notice(page, "The sound has stopped")
    await page.by("#welcome, #transcript").last.click()

    await page.word("listening")
    await no_notice(page)
    await page.talk()


@every_engine
async def test_worklets_that_do_not_load_are_asked_for_again(stack, tab):
    await stack.say(ECHO)
    page = await tab(go=False)
    page.expected += LOST
    stack.network.lose(b"/worklet.js")
    await page.open()

    await page.talk()
    await notice(page, "There is no sound")
    stack.network.mend()
    await page.talk()

    await page.word("listening")
    await no_notice(page)
    await page.talk()


# --- a browser that keeps nothing, a page that is not secure -------------------------------------


@every_engine
async def test_a_browser_that_keeps_nothing_talks_and_types(stack, tab):
    page = await hostile(stack, tab, "noStorage()", path="?codec=linear16")

    await answered(page)
    await page.talk()
    await page.word("listening")
    await page.talk()
    await page.word("ready")


async def test_over_plain_http_only_the_microphone_is_missing(stack, tab):
    await stack.say(ECHO)
    page = await tab(go=False)
    page.expected.append("Cross-Origin-Opener-Policy")  # it is for secure origins
    page.url = page.url.replace("127.0.0.1", "relay.test")
    await page.open()
    assert not await page.page.evaluate("isSecureContext")

    await page.talk()
    await notice(page, "may not use a microphone")
    assert await page.by("#mic").get_attribute("aria-pressed") == "false"
    await answered(page)
    await page.until("() => heard.ranges.some(({ peak }) => peak > 0.05)")


# --- the microphone ------------------------------------------------------------------------------


@every_engine
async def test_a_microphone_that_is_asked_for_says_so_and_is_not_in_use(stack, tab):
    page = await hostile(stack, tab, size=PHONE)
    await page.page.evaluate("hostile.ask()")  # here, and not in the other one
    await page.talk()
    await notice(page, "asks for the microphone")

    other = await tab.beside(page)  # the same person: nobody talks in the first tab
    await other.talk()
    await other.word("listening")
    assert not await other.by("#notice").is_visible()
    await other.talk()
    await other.word("ready")

    await page.page.bring_to_front()  # Firefox opens a microphone for who is seen
    await page.page.evaluate("answer(true)")
    await page.word("listening")
    await no_notice(page)
    await page.talk()


async def test_the_hint_goes_when_the_user_refuses(stack, tab):
    page = await hostile(stack, tab, "ask()")
    await page.talk()
    await notice(page, "asks for the microphone")

    await page.page.evaluate("answer(false)")

    await notice(page, "The microphone is blocked")


async def test_what_is_allowed_after_it_was_given_up_is_let_go(stack, tab):
    page = await hostile(stack, tab, "keepStream()", "ask()")
    await page.talk()
    await notice(page, "asks for the microphone")
    await page.type("Hello")
    await page.stored(2)

    await page.by("#new").click()  # that ends the session
    await page.page.evaluate("answer(true)")
    await page.until("() => window.stream?.getAudioTracks()[0].readyState === 'ended'")

    assert await page.by("#mic").get_attribute("aria-pressed") == "false"


@every_engine
async def test_why_there_is_no_microphone_is_told_and_typing_works(stack, tab):
    page = await hostile(stack, tab)
    for name, title in [
        ("NotAllowedError", "The microphone is blocked"),
        ("NotFoundError", "No microphone was found"),
        ("NotReadableError", "The microphone cannot be used"),
    ]:
        await page.page.evaluate(f"hostile.refuse('{name}')")
        await page.talk()
        await notice(page, title)
        assert await page.by("#mic").get_attribute("aria-pressed") == "false"
        await answered(page, name)


@every_engine
async def test_a_microphone_that_is_lost_leaves_a_typed_session(stack, tab):
    page = await hostile(stack, tab, "keepStream()")
    await page.talk()
    await page.word("listening")

    await page.page.evaluate("hostile.unplug()")

    await notice(page, "The microphone is gone")
    assert await page.by("#mic").get_attribute("aria-pressed") == "false"
    await answered(page)
    assert await page.page.evaluate("heard.sockets.length") == 1  # the same session
    await page.talk()
    await page.word("listening")
    await page.talk()


@every_engine
async def test_a_silenced_microphone_is_told_until_it_is_heard_again(stack, tab):
    page = await hostile(stack, tab, "keepStream()")
    await page.talk()
    await page.word("listening")

    await page.page.evaluate("stream.getAudioTracks()[0].dispatchEvent(new Event('mute'))")
    await notice(page, "gives no sound")
    await page.page.evaluate("stream.getAudioTracks()[0].dispatchEvent(new Event('unmute'))")
    await no_notice(page)
    await page.talk()


async def test_devices_are_chosen_kept_and_survive_their_absence(stack, tab):
    page = await hostile(stack, tab, "keepStream()")
    await page.talk()
    await page.word("listening")
    await page.by("#settings").click()
    names = await page.by("#microphone option").all_inner_texts()
    assert names[0] == "The browser's choice"
    assert len(names) > 2  # Chromium's test devices
    await page.by("#microphone").select_option(index=2)
    await page.by("#speaker").select_option(index=1)
    await page.by("#settings-dialog [data-close]").click()

    await page.until("() => window.wanted?.audio.deviceId")
    chosen = await page.page.evaluate("wanted.audio.deviceId.exact")
    await page.until("id => stream.getAudioTracks()[0].getSettings().deviceId === id", chosen)
    await page.until("() => heard.context?.sinkId")
    await page.word("listening")

    # They go, and come again.
    await page.page.evaluate(
        """() => { window.real = navigator.mediaDevices.enumerateDevices;
            navigator.mediaDevices.enumerateDevices = async () => [];
            navigator.mediaDevices.dispatchEvent(new Event('devicechange')); }"""
    )
    await page.until("() => heard.context.sinkId === ''")
    await page.word("listening")
    await page.page.evaluate(
        """() => { navigator.mediaDevices.enumerateDevices = window.real;
            navigator.mediaDevices.dispatchEvent(new Event('devicechange')); }"""
    )
    await page.until("() => heard.context.sinkId")
    await page.talk()

    await page.open()  # the next time
    await page.talk()
    await page.word("listening")
    assert await page.page.evaluate("wanted.audio.deviceId.exact") == chosen
    await page.talk()


# --- what the relay refuses, and sign-in ---------------------------------------------------------


async def test_a_typed_turn_that_the_relay_refuses_comes_back(stack, tab):
    await stack.say(ECHO)
    page = await tab()
    for n in range(90):  # 30 a minute, and half a one a second
        await page.type(f"Line {n}")
        if await page.by("#notice").is_visible():
            break

    await notice(page, "too much at once")
    refused = await page.by("#text").input_value()
    assert refused.startswith("Line ")
    await page.until("() => !document.querySelector('.bubble.pending')")


@every_engine
async def test_who_is_signed_out_reads_the_same_however_they_begin(stack, tab):
    await stack.say(ECHO)
    page = await tab()
    page.expected += [*LOST, "401"]
    await page.talk()  # what the sound needs is loaded
    await page.word("listening")
    await page.talk()
    await page.word("ready")
    for begin in (page.talk, lambda: page.type("Hello")):
        stack.network.impersonate(SIGNED_OUT)
        await begin()
        await notice(page, "You are signed out")
        assert await page.by("#notice-action").inner_text() == "Try again"
        typed = await page.by("#text").input_value()

        stack.network.mend()
        await page.by("#notice-action").click()
        if begin == page.talk:
            await page.word("listening")
            await page.talk()
            await page.word("ready")
    assert typed == "Hello"
    await page.stored(2)
    assert await page.by("#text").input_value() == ""


@every_engine
async def test_a_session_that_goes_on_elsewhere_can_be_taken_back(stack, tab):
    page = await hostile(stack, tab)
    await answered(page)
    other = await tab(path="#" + await page.conversation())
    await other.stored(2)
    await answered(other, "From here")

    await notice(page, "goes on in another place")
    await page.by("#notice-action").click()

    await page.word("listening")
    await notice(other, "goes on in another place")
    await page.stored(4)
    await page.talk()
