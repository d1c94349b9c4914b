"""A spoken turn whose agent is lost is answered by the next one: real speech."""

from __future__ import annotations

import asyncio

import pytest

from relay.sandbox.script import Ending, Script, Turn
from relay.sandbox.speech import Speech
from tests.end_to_end.conftest import AUDIO, talk
from tests.end_to_end.test_relay import whole

pytestmark = [pytest.mark.speech, pytest.mark.timeout(150)]


async def test_who_is_not_answered_does_not_have_to_say_it_again(database_url, tmp_path):
    turns = (
        Turn(when="text", say=("All right.",)),
        Turn(when="text", end=Ending("error", "FAILED_TO_THINK")),
    )
    options = {"script": Script(turns=turns), "speech": Speech.load()}
    async with whole(database_url, tmp_path, **options) as program:
        spoken = "--wav", AUDIO / "hello.wav", "--wav", AUDIO / "goal_marathon.wav"
        events = await asyncio.to_thread(talk, str(program.http.base_url), *spoken)
        conversation = f"/conversations/{events[-1]['conversation_id']}"
        lines = (await program.get(f"{conversation}/messages"))["items"]
        (question,) = program.sandbox.sessions[-1].messages("InjectUserMessage")

    said = [(line["role"], line["content"]) for line in lines]
    assert [role for role, _ in said[-4:]] == ["user", "assistant"] * 2
    assert "marathon" in said[-2][1].lower()
    assert question["content"] == said[-2][1]
    assert said[-1] == ("assistant", "All right.")
    assert len(program.sandbox.sessions) == 2
