"""The page itself: how it looks, who can use it, and that it is an app."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe

from control.api.web_client import load_files
from relay.sandbox.script import Call, Script, Turn
from tests.client.conftest import DESKTOP, LOST, PHONE, every_engine, needs_chromium

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

SHOTS = Path(__file__).parents[2] / "build" / "client"
SIZES = {"phone": PHONE, "desktop": DESKTOP}
LOOKS = [(size, scheme) for size in SIZES for scheme in ("light", "dark")]
TITLES = {
    "phone-light": "Groceries for Saturday",
    "phone-dark": "What the garden needs",
    "desktop-light": "Before the holidays",
}  # so that the list of the next look is one of a person

GOAL = Call("create_goal", {"title": "run a marathon in April", "deadline": "none"})
MOVE = Call("reschedule_task", {"task": "dentist appointment", "when": "Friday"})
CHAT = (
    ("I want to run a marathon in April.", Turn(
        when="text", say=("Run a marathon in April.", "What is the deadline, if there is one?"))),
    ("There is no deadline.", Turn(
        when="text", say=("Create a goal: run a marathon in April.", "Is that right?"))),
    ("Yes, that's right.", Turn(when="text", calls=(GOAL,), say=("Done.", "Anything else?"))),
    ("Please move my dentist appointment to Friday.", Turn(
        when="text", calls=(MOVE,), say=("There is no task called dentist appointment.",))),
)  # fmt: skip


async def axe(page):
    """What axe finds, of any level."""
    results = await Axe().run(page.page)
    return [
        (v["id"], v["impact"], [node["html"] for node in v["nodes"]])
        for v in results.response["violations"]
    ]


@pytest.fixture
def shoot(request):
    """`await shoot(page, name)` takes a picture into build/client."""
    SHOTS.mkdir(parents=True, exist_ok=True)

    async def take(page, name):
        # Animations are over, and no caret blinks.
        await page.page.screenshot(path=SHOTS / f"{name}.png", animations="disabled")

    return take


async def chat(stack, page):
    turns = tuple(turn for _, turn in CHAT)
    turns = tuple(Turn(when=t.when, calls=t.calls, say=t.say, seconds=0.2) for t in turns)
    await stack.say(Script(turns=turns))
    for count, (line, turn) in enumerate(CHAT, 1):
        await page.type(line)
        await page.says(turn.say[-1])
        await page.until(
            "count => document.querySelectorAll('.bubble.user').length >= count", count
        )
    await page.until("() => document.querySelector('.card[data-status=rejected]')")
    await page.stored(8)


STILL = """() => document.getAnimations().every((one) => one.playState !== 'running'
    || one.effect.getComputedTiming().endTime === Infinity)"""


@pytest.mark.parametrize(
    "engine",
    ["chromium", *(pytest.param(other, marks=pytest.mark.long) for other in ("firefox", "webkit"))],
    indirect=True,
)
async def test_axe_finds_nothing(stack, tab):
    page = await tab()
    found = {"empty": await axe(page)}
    await chat(stack, page)
    await page.page.evaluate(
        """() => { navigator.mediaDevices.getUserMedia = async () => {
            throw new DOMException("no", "NotAllowedError"); }; }"""
    )
    await page.talk()
    await page.by("#notice").wait_for()
    await page.until(STILL)
    found["conversation"] = await axe(page)
    for dialog in ("export", "settings"):
        await page.by(f"#{dialog}").click()
        await page.until(f"() => document.querySelector('#{dialog}-dialog').open")
        await page.until(STILL)
        found[dialog] = await axe(page)
        await page.by(f"#{dialog}-dialog [data-close]").click()

    assert found == {"empty": [], "conversation": [], "export": [], "settings": []}


@every_engine
async def test_what_the_console_says_is_a_problem_of_the_test(tab):
    page = await tab()

    await page.page.evaluate("console.error('first')")
    await page.page.evaluate(
        """new Promise((resolve) => { addEventListener('error', () => resolve(1));
            setTimeout(() => { throw new Error('second'); }); })"""
    )
    await page.page.evaluate("1")  # what was said comes at the latest with the next answer

    assert any("first" in problem for problem in page.problems)
    assert any("second" in problem for problem in page.problems)
    page.problems.clear()


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
async def test_it_looks_well_and_everybody_can_use_it(stack, tab, shoot, size, scheme):
    scale = 2 if size == "phone" else 1
    page = await tab(
        size=SIZES[size], color_scheme=scheme, reduced_motion="reduce", device_scale_factor=scale
    )
    look = f"{size}-{scheme}"
    page.expected += LOST
    await shoot(page, f"{look}-empty")
    assert await axe(page) == []

    await chat(stack, page)
    await page.talk()
    await page.word("listening")
    await page.until("() => document.querySelector('#mic').style.getPropertyValue('--level') > 0.5")
    await shoot(page, f"{look}-conversation")
    assert await axe(page) == []
    assert (
        await page.page.evaluate(
            """() => [...document.querySelectorAll('.page *')]
            .filter((node) => node.getBoundingClientRect().right > innerWidth)
            .map((node) => node.outerHTML.slice(0, 80))"""
        )
        == []
    )

    stack.network.cut()
    await page.word("reconnecting")
    await shoot(page, f"{look}-reconnecting")
    stack.network.mend()
    await page.word("listening")
    await page.talk()

    if size == "phone":
        await page.by("#menu").click()
        await shoot(page, f"{look}-list")
        assert await axe(page) == []
        await page.page.keyboard.press("Escape")
    await page.page.evaluate(
        """() => { navigator.mediaDevices.getUserMedia = async () => {
            throw new DOMException("no", "NotAllowedError"); }; }"""
    )
    await page.talk()
    await page.by("#notice").wait_for()
    await shoot(page, f"{look}-refused")
    assert await axe(page) == []
    await page.by("#erase").click()
    await shoot(page, f"{look}-erase")
    assert await axe(page) == []
    await page.page.keyboard.press("Escape")
    await page.by("#rename").click()
    await page.by("#rename-text").fill(TITLES.get(look, look))
    await page.by("#rename-text").press("Enter")
    await page.until("title => document.title.startsWith(title)", TITLES.get(look, look))


async def test_the_page_is_under_the_policy(stack, tab):
    page = await tab()

    answer = await page.page.request.get(stack.url)

    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    page.expected += ["CSP: ", "Content Security Policy"]
    await page.page.evaluate(
        """() => { const script = document.createElement('script');
            script.textContent = 'window.ran = true'; document.head.append(script); }"""
    )
    await page.page.wait_for_timeout(100)  # a violation is told, but not that it is the last
    assert await page.page.evaluate("window.ran") is None
    assert any("script-src-elem inline" in problem for problem in page.problems)


async def test_the_manifest_and_the_icons_are_valid(stack, tab):
    page = await tab()
    cdp = await page.page.context.new_cdp_session(page.page)

    told = await cdp.send("Page.getAppManifest")
    manifest = json.loads(told["data"])

    assert told["errors"] == []
    assert {"name", "start_url", "display", "icons"} <= set(manifest)
    for icon in manifest["icons"]:
        answer = await page.page.request.get(stack.url + icon["src"])
        assert answer.headers["content-type"] == icon["type"]
        if icon["type"] == "image/png":
            width = int.from_bytes((await answer.body())[16:20])
            assert icon["sizes"] == f"{width}x{width}"
    found = (await cdp.send("Page.getInstallabilityErrors"))["installabilityErrors"]
    # Contexts of a test are private windows, which install nothing.
    assert [error["errorId"] for error in found if error["errorId"] != "in-incognito"] == []


async def test_without_a_network_the_page_opens_and_shows_what_it_has_seen(stack, tab):
    await stack.say(Script(turns=(Turn(when="text", say=("All right.",), seconds=0.2),)))
    page = await tab()
    page.expected += LOST
    await page.type("Remember this")
    await page.stored(2)
    await page.page.evaluate("navigator.serviceWorker.ready")
    await page.until("() => navigator.serviceWorker.controller")
    await page.page.reload()
    await page.stored(2)

    await page.page.context.set_offline(True)
    stack.network.cut()
    await page.page.reload()
    await page.stored(2)

    assert await page.bubbles() == [
        ["user", "Remember this", True],
        ["assistant", "All right.", True],
    ]
    assert await page.by("#word").inner_text() == "offline"
    assert "Remember this" in await page.by("#list").inner_text()
    await page.talk()
    await page.by("#notice-title").wait_for()
    assert "offline" in await page.by("#notice").inner_text()
    await page.page.context.set_offline(False)


async def test_the_service_worker_keeps_every_file_that_is_served(stack, tab):
    page = await tab()
    await page.page.evaluate("navigator.serviceWorker.ready")

    kept = await page.page.evaluate(
        """async () => { const keys = await (await caches.open('shell')).keys();
            return keys.map(({ url }) => new URL(url).pathname.slice(1)); }"""
    )

    others = {"worker.js", "index.js"}  # for pages of their own
    assert sorted(kept) == sorted(set(load_files()) - others)
