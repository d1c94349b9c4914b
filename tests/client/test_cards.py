"""The card of a call that is saved for later: what it says, until it is over."""

from __future__ import annotations

import pytest
import pytest_asyncio

from tests.client.conftest import PHONE, needs_chromium
from tests.client.stack import standing
from tests.client.test_page import shoot
from tests.conftest import copy_database

__all__ = ["shoot"]

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

WAITS = "() => document.querySelector('.card .left')?.textContent.startsWith('Sent again in ')"
CHIP = "text => document.querySelector('.card .chip')?.textContent === text"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(postgres, template):
    """The agent does not wait long for the Orchestrator."""

    def hasten(intents):
        return intents.replace("timeout: 10", "timeout: 1")

    async with standing(await copy_database(postgres, template), ("intents.yaml", hasten)) as made:
        yield made


async def test_a_saved_call_says_why_and_when_until_it_is_done_with_or_without_a_session(
    stack, tab, shoot
):
    await stack.say(hasty=True)
    page = await tab(size=PHONE, device_scale_factor=2)
    stack.planner.status = 503
    await page.type("I want to run a marathon in April")

    await page.until(CHIP, "Saved, sent later", 20)
    await page.says("it will be passed on later")
    assert "Done" not in await page.by("#transcript").inner_text()
    assert (await page.by(".card .why").inner_text()).startswith("The planner ")
    await page.until(WAITS, None, 30)  # for a moment it says that it is being sent
    await shoot(page, "phone-saved")
    first = await page.by(".card .left").get_attribute("data-until")
    # It is tried again, and waits again: the session tells nothing of that.
    await page.until(
        "first => document.querySelector('.card .left').dataset.until !== first", first, 30
    )

    await page.page.reload()
    await page.until(CHIP, "Saved, sent later")
    assert (await page.by(".card .why").inner_text()).startswith("The planner ")
    assert "(" not in await page.by(".card").inner_text()  # what is for operators
    stack.planner.status = None
    await page.until(CHIP, "Done", 60)

    assert await page.page.evaluate("heard.sockets.length") == 0  # there is no session
    assert await page.by(".card .why, .card .left").count() == 0
