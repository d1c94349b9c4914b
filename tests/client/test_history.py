"""Past conversations: found, loaded page by page, renamed, exported, deleted; a failed call tried
again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from relay.sandbox.script import Call, Script, Turn
from tests.client.conftest import every_engine, needs_chromium

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

ECHO = Script(turns=(Turn(when="text", say=("All right.",), seconds=0.1),), loop=True)


async def say(stack, page, text):
    await stack.say(ECHO)
    await page.type(text)
    await page.stored(2)
    await page.until("text => document.querySelector('#title').textContent === text", text)
    return await page.conversation()


async def names(page):
    return await page.by("#list .name").all_inner_texts()


@every_engine
async def test_it_is_renamed_searched_for_and_deleted(stack, tab):
    page = await tab()
    conversation = await say(stack, page, "I want to learn to swim")
    await page.by("#new").click()
    await say(stack, page, "Buy milk")
    assert (await names(page))[:2] == ["Buy milk", "I want to learn to swim"]

    await page.by("#list a", has_text="swim").click()
    await page.stored(2)
    await page.by("#rename").click()
    await page.by("#rename-text").fill("Spring")
    await page.by("#rename-text").press("Enter")
    await page.until("() => document.querySelector('#list').innerText.includes('Spring')")
    assert await page.by("#title").inner_text() == "Spring"
    assert (await stack.get(f"/conversations/{conversation}"))["title"] == "Spring"

    await page.by("#search").press_sequentially("swi")
    await page.until("() => document.querySelectorAll('#list a').length === 1")
    assert await names(page) == ["Spring"]
    assert await page.by("#list .line").inner_text() == "I want to learn to swim"
    assert await page.by("#list mark").all_inner_texts() == ["swim"]
    await page.by("#search").fill("xylophone")
    await page.until("() => document.querySelector('#list-note').textContent")
    assert await page.by("#list-note").inner_text() == "Nothing was found."
    await page.by("#search").fill("")
    await page.until("() => document.querySelectorAll('#list a').length >= 2")

    await page.by("#erase").click()
    await page.by("#erase-dialog [data-close]").click()  # asked, and thought better of it
    assert (await stack.get(f"/conversations/{conversation}"))["id"] == conversation
    await page.by("#erase").click()
    await page.by("#erase-dialog [type=submit]").click()
    await page.until("() => !document.querySelector('#list').innerText.includes('Spring')")
    assert (await stack.get(f"/conversations/{conversation}"))["status"] == 404
    assert await page.bubbles() == []
    assert await page.by("#welcome").is_visible()


@every_engine
async def test_a_conversation_in_which_nothing_was_said_is_not_listed(stack, tab):
    await stack.say(ECHO)
    page = await tab()
    await page.talk()
    await page.word("listening")
    conversation = await page.conversation()
    await page.by("#new").click()
    await say(stack, page, "Something to be listed")

    ids = await page.page.evaluate(
        "[...document.querySelectorAll('#list a')].map((a) => a.dataset.id)"
    )
    assert conversation not in ids


async def test_more_is_loaded_when_asked_for_and_nothing_comes_twice(stack, tab):
    page = await tab(go=False, service_workers="block")
    page.expected.append("Service Worker registration blocked")
    asked = []

    async def two_at_a_time(route):
        url = re.sub(r"limit=\d+", "limit=2", route.request.url)
        asked.append(url)
        await route.continue_(url=url)

    for n in range(3):
        await page.open()
        await say(stack, page, f"Conversation {n}")
    await page.page.context.route("**/conversations?*", two_at_a_time)
    await page.open()
    await page.until("() => document.querySelectorAll('#list a').length === 2")

    while await page.by("#more").is_visible():
        before = await page.by("#list a").count()
        await page.by("#more").click()
        await page.until("n => document.querySelectorAll('#list a').length > n", before)
        await page.page.wait_for_load_state("networkidle")

    shown = await names(page)
    ids = await page.page.evaluate(
        "[...document.querySelectorAll('#list a')].map((a) => a.dataset.id)"
    )
    assert (
        len(set(ids))
        == len(ids)
        == len((await stack.get("/conversations?said=true&limit=200"))["items"])
    )
    assert shown[:3] == ["Conversation 2", "Conversation 1", "Conversation 0"]


@every_engine
async def test_a_text_in_a_bubble_is_a_text(stack, tab):
    page = await tab()
    evil = "<img src=x onerror=alert(1)><b>bold</b>"

    await say(stack, page, evil)

    assert (await page.bubbles())[0][1] == evil
    assert await page.by(".transcript img, .transcript b, #list img, #list b").count() == 0


@every_engine
async def test_a_call_that_failed_is_tried_again_with_a_tap(stack, tab):
    goal = Call("create_goal", {"title": "swim", "deadline": "none"})
    await stack.say(Script(turns=(Turn(when="text", calls=(goal,), say=("Hm.",), seconds=0.1),)))
    page = await tab()
    stack.planner.status = 302
    await page.type("I want to swim")
    await page.until("() => document.querySelector('.card[data-status=failed]')")

    stack.planner.status = None
    await page.by(".card button").click()

    await page.until("() => document.querySelector('.card[data-status=submitted]')")
    assert await page.by(".card button").count() == 0


def read(path):
    return Path(path).read_text("utf-8")


async def export(page, presses):
    """What the keys bring: the name of the file, and what is in it."""
    await page.by("#export").focus()
    await page.page.keyboard.press("Enter")
    await page.until("() => document.querySelector('#export-dialog').open")
    async with page.page.expect_download() as coming:
        for key in presses:
            await page.page.keyboard.press(key)
    download = await coming.value
    return download.suggested_filename, read(await download.path())


async def test_it_is_exported_with_the_keyboard_alone(stack, tab):
    page = await tab()
    conversation = await say(stack, page, "Keep this")

    name, text = await export(page, ["Enter"])
    assert re.fullmatch(r"conversation-[0-9-]{10}-[0-9a-f]{12}\.txt", name)
    assert text.startswith("Keep this\n")
    name, text = await export(page, ["Tab", "Enter"])
    assert name.endswith(".json")
    assert json.loads(text)["conversation"]["id"] == conversation
    assert [m["content"] for m in json.loads(text)["messages"]][-2:] == ["Keep this", "All right."]
    name, text = await export(page, ["Tab", "Tab", "Space"])
    assert name.endswith(".vcon")
    assert json.loads(text)["subject"] == "Keep this"
    kept = await page.page.evaluate(
        """async () => (await Promise.all((await caches.keys()).map(async (name) =>
            (await (await caches.open(name)).keys()).map((one) => one.url)))).flat()"""
    )
    assert not [url for url in kept if "/export" in url]

    await page.by("#export").click()
    await page.page.keyboard.press("Escape")
    await page.until("() => !document.querySelector('#export-dialog').open")
    assert await page.page.evaluate("document.activeElement.id") == "export"


@every_engine
async def test_who_opens_what_was_deleted_is_told_and_led_to_a_new_one(stack, tab):
    page = await tab(go=False)
    page.expected.append("404")
    await page.open("#01a21e62-739a-7220-9585-b13fa628de53")

    await page.until("() => !document.querySelector('#notice').hidden")
    assert "not there any more" in await page.by("#notice").inner_text()
    await page.by("#notice-action").click()

    await page.until("() => location.hash === '' && !document.querySelector('#welcome').hidden")
    assert not await page.by("#notice").is_visible()
    await say(stack, page, "Anew")


async def test_an_export_that_fails_is_said(stack, tab):
    page = await tab()
    await say(stack, page, "Never to be kept")
    page.expected.append("503")

    async def refuse(route):
        await route.fulfill(status=503, json={"code": "database_unavailable", "detail": "away"})

    await page.page.context.route("**/export?*", refuse)
    await page.by("#export").click()
    await page.by("#export-dialog [value=json]").click()

    await page.until("() => document.querySelector('#notice-title').textContent")
    assert await page.by("#notice-title").inner_text() == "The history cannot be reached."
