"""The page of administrators, in a real browser, on a real relay: with the keyboard alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from uuid_utils.compat import uuid7

from control.db.conversations import create_conversation
from relay.journal.condemned import NAME, condemn
from relay.protocol.relay_events import IntentStatus
from relay.sandbox.options import Options
from relay.sandbox.script import Script, Turn
from relay.sandbox.server import serve
from tests.client.conftest import DESKTOP, PHONE, needs_chromium
from tests.client.test_page import SHOTS, axe
from tests.conftest import copy_database
from tests.control.admin.program import KEY, running, talking
from tests.control.admin.test_people import said, to_the_end
from tests.control.db.test_conversations import called

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]

PERSON = "7b0c1f9e-0c67-4d6c-9f0e-3f5b1a2c4d5e"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def program(postgres, template, tmp_path_factory):
    url = await copy_database(postgres, template)
    turn = Turn(when="text", say=("All right.",), seconds=0.1)
    options = Options(script=Script(turns=(turn,), loop=True), greeting_delay=0.0, think_delay=0.01)
    async with (
        serve(options) as agent,
        running(url, tmp_path_factory.mktemp("admin"), agent.agent_url) as program,
    ):
        yield program


class AdminPage:
    """The page in one tab; `problems` is what its console said."""

    def __init__(self, page):
        self.page = page
        self.problems = []
        page.set_default_timeout(8000)
        page.on("console", lambda said: self.problems.append(said.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))

    async def enter(self, key=KEY):
        await self.page.keyboard.type(key)
        await self.page.keyboard.press("Enter")

    async def tab_to(self, selector):
        """Go there with the Tab key, as one does without a mouse."""
        for _ in range(60):
            await self.page.keyboard.press("Tab")
            if await self.page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"{selector} cannot be reached")

    async def press(self, selector):
        await self.tab_to(selector)
        await self.page.keyboard.press("Enter")

    async def part(self, name):
        await self.press(f"nav a[href='#{name}']")
        await self.shows(f"#{name} h2")

    async def shows(self, selector, text=""):
        await self.page.locator(selector, has_text=text).first.wait_for(state="visible")

    async def until(self, condition):
        await self.page.wait_for_function(f"() => {condition}", timeout=15_000)

    async def shoot(self, name):
        SHOTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


@pytest_asyncio.fixture(loop_scope="module")
async def admin_page(program, chromium):
    """`await admin_page()` opens the page in a browser of its own."""
    opened = []

    async def make(size=DESKTOP, scheme="light"):
        context = await chromium.new_context(
            viewport=size, color_scheme=scheme, accept_downloads=True, reduced_motion="reduce"
        )
        made = AdminPage(await context.new_page())
        opened.append(made)
        await made.page.goto(f"{program.admin_url}/admin")
        await made.until("document.activeElement.id === 'key'")
        return made

    yield make
    for one in opened:
        await one.page.context.close()
    assert [problem for one in opened for problem in one.problems] == []


async def add_failed(program):
    conversation = uuid7()
    await create_conversation(program.store, conversation, user_id=PERSON)
    call = called(
        conversation,
        id=uuid7(),
        status=IntentStatus.FAILED,
        at=datetime.now(UTC),
        intent="GOAL",
        error="the planner did not answer in time (timeout)",
    )
    await program.store.write([call])
    return call


async def test_a_session_is_seen_and_hung_up_with_the_keyboard_alone(program, admin_page):
    page = await admin_page()
    async with talking(program, PERSON) as talk:
        await talk.type("Hello")
        await page.enter()
        await page.shows("#sessions td", PERSON)
        await page.shoot("admin-sessions")
        assert await axe(page) == []

        await page.press("#sessions button")
        await page.shows("#sure h2", "Hang up?")
        assert await axe(page) == []
        await page.page.keyboard.press("Escape")  # not yet
        assert await page.page.evaluate("document.activeElement.textContent") == "Hang up"
        await page.page.keyboard.press("Enter")
        await page.press("#sure-yes")

        await to_the_end(talk)
        assert talk.socket.close_code == 1000
    await page.until("document.querySelector('#sessions .table').textContent === 'None.'")


async def test_a_node_is_drained_and_undrained(program, admin_page):
    page = await admin_page(size=PHONE, scheme="dark")
    await page.enter()
    await page.part("nodes")
    await page.press("#nodes button")
    await page.shows("#nodes td", "no: drained")
    await page.shoot("admin-nodes-phone-dark")
    assert await axe(page) == []
    assert await page.page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    await page.press("#nodes button")
    await page.shows("#nodes td", "yes")


async def test_the_state_shows_what_is_wrong_and_puts_records_back(program, admin_page):
    page = await admin_page()
    async with talking(program, "somebody") as talk:
        await talk.type("Hello")
        condemn(program.journal / NAME, said(talk, "x"), "CheckViolationError 23514")
        await page.enter()
        await page.part("state")
        await page.shows("#state .bad", "1, since")
        await page.shoot("admin-state")
        assert await axe(page) == []

        await page.press("#restore")
        await page.shows("#done", "1 record back in the journal.")
        await page.until("document.querySelector('#restore').hidden")


async def test_failed_intents_are_submitted_again_and_given_up(program, admin_page):
    page = await admin_page()
    again, given_up = await add_failed(program), await add_failed(program)
    await page.enter()
    await page.part("intents")
    await page.shows("#intents td", "did not answer in time")
    await page.shoot("admin-intents")
    assert await axe(page) == []

    await page.press(f"[data-key='Give up {given_up.id}']")
    await page.shows("#sure h2", "Give 1 failed intent up?")
    await page.press("#sure-yes")
    await page.shows("#done", "1 intent: done.")
    await page.tab_to("#reason")
    await page.page.keyboard.type("TIMEOUT")
    await page.page.keyboard.press("Enter")
    await page.press("#retry")
    await page.shows("#sure h2", "Submit 1 failed intent again?")
    await page.press("#sure-yes")
    await page.until("document.querySelector('#intents .table').textContent === 'None.'")

    rows = await program.fetch("SELECT id, status FROM voice.intents")
    statuses = {row["id"]: row["status"] for row in rows}
    assert statuses[given_up.id] == "cancelled"
    assert statuses[again.id] == "submitting"


async def test_a_person_is_exported_and_erased(program, admin_page):
    page = await admin_page()
    async with talking(program, "the person") as talk:
        await talk.type("Words of mine")
        await page.enter()
        await page.part("person")
        await page.tab_to("#user")
        await page.page.keyboard.type("the person")
        await page.page.keyboard.press("Enter")
        await page.shows("#person td", "Words of mine")
        await page.shows("#stored", "1 live session.")
        await page.shoot("admin-person")
        assert await axe(page) == []

        async with page.page.expect_download() as download:
            await page.press("#export")
        export = json.loads((await (await download.value).path()).read_bytes())
        await page.press("#erase")
        await page.shows("#sure p", "of the person. There is no way back.")
        await page.shoot("admin-erase")
        await page.press("#sure-yes")
        await page.shows("#proof dt", "Receipt")
        await page.shoot("admin-proof")
        assert await axe(page) == []

    assert "Words of mine" in [one["content"] for one in export["tables"]["messages"]]
    assert (await program.ask("GET", "/user", params={"id": "the person"}))["rows"][
        "conversations"
    ] == 0
    await page.part("audit")
    await page.shows("#audit td", "user.erase")
    await page.shoot("admin-audit")
    assert "the person" not in await page.page.inner_text("body")


async def test_a_wrong_key_is_told_and_the_right_one_is_kept_nowhere(program, admin_page):
    page = await admin_page()
    await page.enter("a wrong key of some letters")
    await page.shows("#notice", "the key")
    await page.shoot("admin-wrong-key")
    assert await axe(page) == []
    page.problems.clear()  # the browser logs each 401

    await page.enter()
    await page.shows("#sessions h2")

    kept = await page.page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href,"
        " document.querySelector('#key').value])"
    )
    assert KEY not in kept
    await page.page.reload()
    await page.until("document.activeElement.id === 'key'")
    assert await page.page.locator("#nav").is_hidden()
    await page.enter()
    await page.press("#leave")
    await page.until("document.activeElement.id === 'key'")


async def test_the_page_is_under_the_policy_of_the_client(program, admin_page):
    page = await admin_page()

    answer = await page.page.request.get(f"{program.admin_url}/admin")

    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
