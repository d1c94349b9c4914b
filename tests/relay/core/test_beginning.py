"""Whose words a session is about to have."""

import pytest

from config.loader import load
from config.policy import Policy
from config.settings import CONFIG_DIR
from relay.core.beginning import Beginning, Chance
from relay.core.deepgram_session import DeepgramSession
from relay.core.session import Session
from tests.relay.conftest import BEGAN, LIMITS, numbered_ids, numbered_tickets


@pytest.mark.parametrize(
    ("client", "rules"), [(None, Session), (load(CONFIG_DIR, {}).agent, DeepgramSession)]
)
def test_who_brings_settings_of_its_own_hears_only_words_of_deepgram(
    admitted, settings, client, rules
):
    beginning = Beginning(
        admitted=admitted,
        limits=LIMITS,
        policy=Policy(),
        now=1.0,
        began=BEGAN,
        deepgram_client=client,
    )
    chance = Chance(numbered_ids(), lambda: 1.0, numbered_tickets())
    assert type(beginning.rules(lambda history, context: settings, chance)) is rules
