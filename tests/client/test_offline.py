"""Without a network, or with one that is not ours: what was seen stays, and nobody else sees it."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from relay.sandbox.script import Call, Script, Turn
from tests.client.conftest import LOST, every_engine, needs_chromium
from tests.client.stack import SIGNED_OUT

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

ECHO = Script(turns=(Turn(when="text", say=("All right.",), seconds=0.2),), loop=True)
INSTALLED = 30  # seconds: a worker that is installed fetches every file of the page
GOAL = Call("create_goal", {"title": "swim", "deadline": "none"})
PAGE = b"<!doctype html><title>Wi-Fi</title>Welcome! Sign in to our network."
PORTAL = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
    + b"Content-Length: %d\r\n\r\n" % len(PAGE)
    + PAGE
)


def token(user):
    """As a sign-in would make it; the mocked one looks at none."""
    part = base64.urlsafe_b64encode(json.dumps({"sub": user}).encode()).decode().rstrip("=")
    return f"x.{part}.x"


async def ready(stack, tab, script=ECHO):
    """A page whose service worker is at work."""
    await stack.say(script)
    page = await tab()
    page.expected += [*LOST, "401", "503"]
    await page.until("() => navigator.serviceWorker.controller", seconds=INSTALLED)
    return page


async def kept(page, count=2):
    """Wait until what was seen live is in the store."""
    await page.until(
        """async (count) => {
            const id = location.hash.slice(1);
            const at = `/api/v1/voice/conversations/${id}/messages?limit=200`;
            const copy = await caches.match(at);
            return copy && (await copy.json()).items.length >= count; }""",
        count,
    )


async def stores(page):
    return await page.page.evaluate(
        "caches.keys().then((names) => names.filter((name) => name.startsWith('history')))"
    )


async def sign_in(page, user):
    await page.page.evaluate("token => sessionStorage.setItem('relay.token', token)", token(user))


@every_engine
async def test_the_conversation_just_held_is_there_and_says_that_it_is_a_copy(stack, tab):
    turn = Turn(when="text", calls=(GOAL,), say=("Done.",), seconds=0.2)
    page = await ready(stack, tab, Script(turns=(turn,), loop=True))
    await page.type("I want to swim")
    await page.until("() => document.querySelector('.card[data-status=submitted]')")
    await page.stored(2)
    await kept(page)
    before = await page.bubbles()

    stack.network.cut()  # never loaded again, never asked for
    await page.page.reload()
    await page.stored(2)

    assert await page.bubbles() == before
    assert await page.by(".card").get_attribute("data-status") == "submitted"
    assert "copy from today" in await page.by("#copy").inner_text()
    stack.network.mend()
    await page.by("#copy-again").click()
    await page.until("() => document.querySelector('#copy').hidden")
    await page.stored(2)
    assert await page.bubbles() == before


async def test_who_is_offline_is_told_so_until_they_are_not(stack, tab):
    page = await ready(stack, tab)

    await page.page.context.set_offline(True)
    await page.talk()
    await page.until(
        "() => document.querySelector('#notice').innerText.includes('You are offline')"
    )
    await page.page.context.set_offline(False)

    await page.until("() => document.querySelector('#notice').hidden")


async def test_what_was_just_said_is_kept_by_who_turns_to_another_at_once(stack, tab):
    page = await ready(stack, tab)
    await page.type("Hello")
    await page.stored(2)

    await page.by("#new").click()
    await page.page.go_back()
    await kept(page)


@every_engine
async def test_another_user_never_sees_it_and_it_goes_when_they_are_here(stack, tab):
    page = await ready(stack, tab)
    await sign_in(page, "a")
    await page.page.reload()
    await page.type("A secret of a")
    await page.stored(2)
    await kept(page)
    await page.until("() => document.querySelector('#list').innerText.includes('secret')")
    mine = await stores(page)
    assert len(mine) == 1

    stack.network.cut()
    await sign_in(page, "b")
    await page.page.reload()
    await page.until("() => !document.querySelector('#notice').hidden")
    assert await page.bubbles() == []
    assert "secret" not in await page.page.evaluate("document.body.innerText")
    await sign_in(page, "a")
    await page.page.reload()
    await page.stored(2)

    stack.network.mend()
    await sign_in(page, "b")
    await page.open()
    await page.until(
        "async (mine) => !(await caches.keys()).some((name) => mine.includes(name))", mine
    )


ASK = """([path, token]) => { fetch('api/v1/voice/' + path,
    {headers: {Authorization: `Bearer ${token}`}}).then(() => { window.answered = path; }); }"""


@every_engine
async def test_an_answer_for_who_was_here_before_comes_too_late_to_be_kept(stack, tab):
    page = await ready(stack, tab)
    await sign_in(page, "b")
    await page.page.reload()
    stack.network.hold(b"/api/v1/voice/conversations?limit=1")
    await page.page.evaluate(ASK, ["conversations?limit=1", token("a")])
    await asyncio.wait_for(stack.network.is_held.wait(), 8)
    await page.page.evaluate(ASK, ["intents?of=b", token("b")])
    await page.until("async () => await caches.match('/api/v1/voice/intents?of=b')")
    of_b = await stores(page)

    stack.network.release()
    await page.until("() => window.answered === 'conversations?limit=1'")
    await page.page.evaluate("() => { fetch('icon.svg?later'); }")
    await page.until("async () => await caches.match('/icon.svg?later')")

    assert await stores(page) == of_b
    assert not await page.page.evaluate(
        "async () => Boolean(await caches.match('/api/v1/voice/conversations?limit=1'))"
    )


@every_engine
async def test_the_store_is_emptied_at_sign_out(stack, tab):
    page = await ready(stack, tab)
    await page.type("Hello")
    await page.stored(2)
    await kept(page)

    stack.network.impersonate(SIGNED_OUT)
    await page.page.evaluate("fetch('api/v1/voice/conversations?limit=1')")
    await page.until(
        "async () => !(await caches.keys()).some((name) => name.startsWith('history'))"
    )
    stack.network.mend()


@every_engine
async def test_the_page_of_a_network_that_wants_a_sign_in_is_no_answer(stack, tab):
    page = await ready(stack, tab)
    await page.type("Hello")
    await page.stored(2)
    await kept(page)
    conversation = await page.conversation()

    stack.network.impersonate(PORTAL)
    await page.page.reload()
    await page.stored(2)
    assert "copy" in await page.by("#copy").inner_text()
    await page.type("Anybody?")
    await page.until("() => !document.querySelector('#notice').hidden")
    assert "network wants something" in await page.by("#notice").inner_text()
    assert await page.by("#text").input_value() == "Anybody?"

    stack.network.cut()  # and none of it was kept
    await page.open("#" + conversation)
    await page.page.reload()
    await page.stored(2)


async def test_a_full_disk_makes_no_answer_worse(stack, tab):
    page = await ready(stack, tab)
    worker = page.page.context.service_workers[0]
    await worker.evaluate(
        """() => { Cache.prototype.put = async () => {
            throw new DOMException('full', 'QuotaExceededError'); }; }"""
    )

    await page.page.reload()
    await page.type("Hello")
    await page.stored(2)
    await page.open("#" + await page.conversation())
    await page.page.reload()
    await page.stored(2)

    assert not await page.by("#notice").is_visible()
    assert not await page.by("#copy").is_visible()


async def test_a_new_version_is_offered(stack, tab):
    page = await ready(stack, tab)
    await page.type("Hello")
    await page.stored(2)
    # The one before has something to do, and no end of it.
    worker = page.page.context.service_workers[0]
    await worker.evaluate(
        "() => { self.onmessage = (event) => event.waitUntil(new Promise(() => {})); }"
    )
    await page.page.evaluate("navigator.serviceWorker.controller.postMessage({})")

    await page.page.evaluate("navigator.serviceWorker.register('worker.js?another')")
    await page.until(
        "() => document.querySelector('#notice-title').textContent.includes('new version')",
        seconds=INSTALLED,
    )
    await page.page.evaluate("window.old = true")
    # The page that loads asks for worker.js: here that would be a newer one than the other.
    await page.page.add_init_script("navigator.serviceWorker.register = async () => {}")
    await page.by("#notice-action").click()

    await page.until("() => !window.old && document.body.dataset.word")
    await page.stored(2)
    assert not await page.by("#notice").is_visible()
