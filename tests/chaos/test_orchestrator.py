"""The Orchestrator is away, slow, answers nonsense, or does its work and dies before it answers."""

from __future__ import annotations

import shutil
import time

import pytest

from config.settings import CONFIG_DIR
from tests.chaos.link import Mood
from tests.chaos.stage import staged

pytestmark = pytest.mark.timeout(1800)
FAULTS = [Mood.REFUSING, Mood.SLOW, Mood.GARBAGE, Mood.ANSWERLESS]


@pytest.fixture
def impatient(tmp_path):
    """The intents that ship, but the model waits for one second."""
    folder = tmp_path / "config"
    shutil.copytree(CONFIG_DIR, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    intents = folder / "intents.yaml"
    text = intents.read_text("utf-8")
    assert "timeout: 10" in text
    intents.write_text(text.replace("timeout: 10", "timeout: 1"), "utf-8")
    return str(folder)


async def test_every_accepted_call_reaches_a_broken_orchestrator_once(
    database_url, tmp_path, chance, is_long, publish, impatient
):
    # Few failures in the short form: the circuit breaker would open for longer and longer.
    rounds, people, faults = (5, 3, len(FAULTS)) if is_long else (1, 1, 2)
    recovered = []
    async with staged(tmp_path, database_url) as stage:
        relay = stage.relay(RELAY_CONFIG_DIR=impatient)
        await relay.start()
        link = stage.planner_link
        async with stage.people(chance, people) as browsers:
            for _ in range(rounds):
                for mood in chance.sample(FAULTS, faults):
                    link.mood, link.delay = mood, 5.0
                    for browser in browsers:
                        for _ in range(2):  # one of them has a call
                            answered = await browser.turn(15)
                            assert answered, f"the model was kept waiting: {mood}"
                link.mood = Mood.WELL
                well = time.monotonic()
                verdict = await stage.settle(browsers, 240)
                recovered.append(time.monotonic() - well)
        assert "status=saved" in relay.output
    note = "from when it is well until all is delivered"
    publish("orchestrator", rounds * faults, verdict, recovered, note)
