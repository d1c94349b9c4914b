from __future__ import annotations

import pytest

from relay.sandbox.options import Options
from relay.sandbox.script import Call, Script, Turn
from relay.sandbox.server import serve
from tests.control.admin.program import running

GOAL = Call("create_goal", {"title": "what only this person wants", "deadline": "none"})


@pytest.fixture
async def agent_url():
    """An agent that answers whatever is typed with a function call and a word."""
    script = Script(
        turns=(Turn(when="text", calls=(GOAL,), say=("Done.",), seconds=0.1),), loop=True
    )
    options = Options(script=script, greeting_delay=0.0, think_delay=0.01, call_delay=0.01)
    async with serve(options) as agent:
        yield agent.agent_url


@pytest.fixture
async def program(database_url, tmp_path, agent_url):
    async with running(database_url, tmp_path / "a", agent_url) as made:
        yield made
