"""A browser that has no sound system, and refuses the microphone, by itself and not by a script.

WebKit is in neither: it plays into nothing, and asks nobody when a WebDriver controls it.
"""

from __future__ import annotations

import pytest
import pytest_asyncio

from tests.client.engines import chromium, missing
from tests.client.firefox import Firefox, firefox
from tests.client.test_states import ECHO, answered, notice

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

SILENT = {"PULSE_SERVER": "unix:/nowhere"}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[chromium, firefox])
async def engine(request):
    if why := missing(request.param.__name__):
        pytest.skip(why)
    async with request.param(SILENT, deny=True) as browser:
        yield browser


async def test_a_refused_microphone_and_the_lack_of_sound_are_told_and_typing_works(
    stack, engine, tab
):
    await stack.say(ECHO)
    page = await tab()

    await page.talk()
    await notice(page, "The microphone is blocked")
    await answered(page)
    if isinstance(engine, Firefox):  # Chromium plays into nothing
        await notice(page, "There is no sound")
