"""The Orchestrator is away, slow, answers nonsense, or does its work and dies before it answers."""

from __future__ import annotations

import shutil
import time

import pytest

from config.settings import CONFIG_DIR
from tests.chaos.link import Mood
from tests.chaos.stage import staged, until

pytestmark = pytest.mark.timeout(900)
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
    rounds = 10 if is_long else 1
    recovered = []
    async with staged(tmp_path, database_url) as stage:
        relay = stage.relay(RELAY_CONFIG_DIR=impatient)
        await relay.start()
        link = stage.planner_link
        async with stage.people(chance, 3) as browsers:
            for _ in range(rounds):
                for mood in chance.sample(FAULTS, len(FAULTS)):
                    link.mood, link.delay = mood, 5.0
                    for browser in browsers:
                        for _ in range(2):  # one of them has a call
                            answered = await browser.turn(seconds=6.0)
                            assert answered, f"the model was kept waiting: {mood}"
                link.mood = Mood.WELL
                well = time.monotonic()

                async def is_right():
                    return (await stage.audit(browsers)).is_right

                await until(is_right, 120)
                recovered.append(time.monotonic() - well)
            saved = sum(status == "submitting" for b in browsers for status in b.accepted.values())
            verdict = await stage.verdict(browsers)
    note = f"{len(FAULTS)} faults each; until all is delivered; {saved} saved at the end"
    publish("orchestrator", rounds, verdict, recovered, note)
