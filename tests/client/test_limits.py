"""What ends a session, or lets none begin, is said: which limit, and how it goes on."""

from __future__ import annotations

import pytest
import pytest_asyncio

from tests.client.conftest import every_engine, needs_chromium
from tests.client.stack import standing
from tests.client.test_states import ECHO, answered, notice
from tests.conftest import copy_database

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(90)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(postgres, template):
    limits = {"RELAY_SESSIONS_PER_ADDRESS": "1", "RELAY_IDLE_SECONDS": "6"}
    async with standing(await copy_database(postgres, template), **limits) as made:
        await made.say(ECHO)
        yield made


@every_engine
async def test_a_limit_is_named_with_when_to_try_again(tab):
    first = await tab()
    page = await tab()
    page.expected.append("429")
    await answered(first)

    await page.type("Hello")
    await notice(page, "too many sessions from your network")
    assert "in" in await page.by("#notice-action").inner_text()
    assert await page.by("#notice-action").is_disabled()
    assert await page.by("#word").inner_text() == ""  # hidden: ready
    await page.page.evaluate("performance.now = () => 1e9")  # its time has come
    await first.by("#new").click()  # that ends its session
    await page.by("#notice-action:enabled").click()
    await page.stored(2)
    await page.by("#new").click()
    await page.word("ready")


@every_engine
async def test_why_a_session_ended_is_said(tab):
    page = await tab()
    await answered(page)

    await notice(page, "The session ends soon")
    await notice(page, "The session has ended")
    assert "Nobody spoke" in await page.by("#notice").inner_text()
    await answered(page, "Still here")  # typing begins another
    await page.by("#new").click()  # that ends it
    await page.word("ready")
