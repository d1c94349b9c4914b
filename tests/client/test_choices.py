"""Voice and language on the settings sheet: what policy.yaml offers, from the next session on."""

from __future__ import annotations

import pytest
import pytest_asyncio

from relay.sandbox.script import Script, Turn
from tests.client.conftest import needs_chromium
from tests.client.stack import standing
from tests.conftest import copy_database

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

ECHO = Script(turns=(Turn(when="text", say=("All right.",), seconds=0.1),), loop=True)
OFFERED = """voices:
  orion: {provider: {type: deepgram, model: aura-2-orion-en}}
  warm_voice: {provider: {type: deepgram, model: aura-2-thalia-en}}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(postgres, template, tmp_path_factory):
    def offer(policy):
        assert "voices: {}\n" in policy
        return policy.replace("voices: {}\n", OFFERED)

    async with standing(
        await copy_database(postgres, template),
        ("policy.yaml", offer),
        RELAY_RECORD_DIR=str(tmp_path_factory.mktemp("recordings")),
        RELAY_RECORD_AUDIO="on",
    ) as made:
        yield made


def model(stack):
    """The voice that the newest agent was given."""
    (settings,) = stack.sandbox.sessions[-1].messages("Settings")
    return settings["agent"]["speak"]["provider"]["model"]


async def test_a_voice_is_chosen_for_the_next_session_and_kept(stack, tab):
    await stack.say(ECHO)
    page = await tab()
    await page.type("Hello")
    await page.stored(2)
    own = model(stack)
    await page.by("#settings").click()
    assert await page.by("#voice option").all_inner_texts() == [
        "The agent's own",
        "Orion",
        "Warm voice",
    ]
    assert not await page.by("#language").is_visible()
    await page.by("#voice").select_option("orion")
    await page.by("#settings-dialog [data-close]").click()

    await page.by("#new").click()
    await page.type("Hello again")
    await page.stored(2)
    assert model(stack) == "aura-2-orion-en" != own

    await page.open()
    await page.type("And once more")
    await page.stored(2)
    assert model(stack) == "aura-2-orion-en"


async def test_a_kept_voice_that_is_not_offered_any_more_changes_nothing(stack, tab):
    await stack.say(ECHO)
    page = await tab()
    await page.page.evaluate("localStorage.setItem('relay.voice', 'nobody')")
    await page.page.reload()

    await page.type("Hello")
    await page.stored(2)
    assert model(stack) != "aura-2-orion-en"


async def test_the_sound_is_recorded_if_the_user_wants_it_and_the_page_says_so(stack, tab):
    await stack.say(ECHO)
    page = await tab()
    await page.type("Hello")
    await page.stored(2)
    assert await page.by("#recorded").inner_text() == ""

    await page.by("#settings").click()
    await page.by("#record").check()
    await page.by("#settings-dialog [data-close]").click()
    await page.by("#new").click()
    await page.type("Hello again")
    await page.stored(2)

    said = page.by("#recorded")
    assert await said.inner_text() == "The sound of this session is being recorded."
    assert await said.is_visible()
    assert await said.get_attribute("role") == "status"
