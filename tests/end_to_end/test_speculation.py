"""Functions are called before it is sure that the user has finished: real speech with a pause."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

import config
from control.talk.audio import write_wav
from relay.sandbox.audio import Format
from relay.sandbox.speech import Speech
from tests.end_to_end.conftest import talk
from tests.end_to_end.test_relay import whole

pytestmark = [pytest.mark.speech, pytest.mark.timeout(150)]

RATE = 16_000
PAUSE = 3.0  # seconds: long enough to recognise what was said before it
LOOK = 0.1  # for what the outbox does there is no event
SHIPPED = Path(config.__file__).parent


@pytest.fixture(scope="module")
def speech():
    return Speech.load()


@pytest.fixture
def marathon(speech, tmp_path):
    """ "I want to run a marathon", and after a pause when."""
    one, other = (
        speech.speak(words, Format("linear16", RATE))
        for words in ("I want to run a marathon", "in the month of April")
    )
    path = tmp_path / "marathon.wav"
    write_wav(path, RATE, one + bytes(2 * int(PAUSE * RATE)) + other)
    return path


def patient(speech):
    """A sandbox whose model calls as soon as it can, and which waits longer than the pause."""
    return {"speech": speech, "hasty": True, "silence": PAUSE + 1.0, "pace": 2.0}


async def spoken(program, wav):
    """Say it: the lines of the user, the calls as they ended, and the goals of the planner."""
    url = str(program.http.base_url)
    events = await asyncio.to_thread(talk, url, "--wav", wav)
    conversation = f"/conversations/{events[-1]['conversation_id']}"
    said = (await program.get(f"{conversation}/messages"))["items"]
    calls = (await program.get(f"{conversation}/intents"))["items"]
    async with asyncio.timeout(20):
        while any(call["status"] in ("submitting", "cancelling") for call in calls):
            await asyncio.sleep(LOOK)
            calls = (await program.get(f"{conversation}/intents"))["items"]
    goals = (await program.http.get(f"{program.orchestrator}/goals")).json()["items"]
    lines = {line["seq"]: line["content"].lower() for line in said if line["role"] == "user"}
    return lines, calls, [goal["title"].lower() for goal in goals]


async def test_who_pauses_and_goes_on_has_one_goal_and_it_is_complete(
    database_url, tmp_path, speech, marathon
):
    async with whole(database_url, tmp_path / "data", **patient(speech)) as program:
        lines, [call], [goal] = await spoken(program, marathon)

    assert "marathon" in goal
    assert "april" in goal
    assert call["status"] == "submitted"
    assert list(lines) == [call["after_seq"]]
    assert "april" in lines[call["after_seq"]]


@pytest.fixture
def early(tmp_path):
    """`early(...)`: the configuration that ships, but goals do not wait for the end of the turn."""

    def configured(*, may_be_undone):
        folder = shutil.copytree(SHIPPED, tmp_path / "config")
        intents = folder / "intents.yaml"
        lines = [line for line in intents.read_text().splitlines() if "/goals/cancel" not in line]
        undo = ["    cancel_path: /goals/cancel"] if may_be_undone else []
        place = lines.index("    path: /goals") + 1
        lines[place:place] = ["    defer: false", *undo]
        intents.write_text("\n".join(lines))
        return folder

    return configured


def check_early(lines, early, call):
    """The early call and the whole one stand after the same words."""
    assert "april" not in early["arguments"]["title"].lower()
    assert "april" in call["arguments"]["title"].lower()
    assert early["call_id"] != call["call_id"]
    assert list(lines) == [early["after_seq"]] == [call["after_seq"]]
    assert (call["status"], call["taken_back"]) == ("submitted", False)


@pytest.mark.long
async def test_without_defer_the_early_call_is_undone_and_there_is_one_goal(
    database_url, tmp_path, speech, marathon, early
):
    """The planner had the early call before it was taken back."""
    folder = early(may_be_undone=True)
    async with whole(database_url, tmp_path / "data", folder=folder, **patient(speech)) as program:
        lines, [first, call], [goal] = await spoken(program, marathon)

    check_early(lines, first, call)
    assert (first["status"], first["taken_back"]) == ("cancelled", True)
    assert "april" in goal


@pytest.mark.long
async def test_what_cannot_be_undone_is_said_to_be_carried_out(
    database_url, tmp_path, speech, marathon, early
):
    folder = early(may_be_undone=False)
    async with whole(database_url, tmp_path / "data", folder=folder, **patient(speech)) as program:
        lines, [first, call], goals = await spoken(program, marathon)
        agent = await program.sandbox.session(0)
        told = [message["prompt"] for message in agent.messages("UpdatePrompt")]

    check_early(lines, first, call)
    assert (first["status"], first["taken_back"]) == ("submitted", True)
    assert sum("april" in goal for goal in goals) == 1
    assert len(goals) == 2
    assert len(told) == 1
    assert "carried out all the same" in told[0]
