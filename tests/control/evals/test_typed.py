"""The whole of an evaluation with typed lines, against an agent that is not of its own."""

from __future__ import annotations

import asyncio
import io

import pytest

from control.evals.cli import EvalOptions, evaluate
from relay.sandbox.options import Options
from relay.sandbox.server import serve

pytestmark = pytest.mark.timeout(120)
KEY = "not-a-real-one"
REFUSED = """
about: What the Orchestrator refuses is told.
lines: [{type: Please move my haircut to Friday.}]
answers: [{when: is that right, type: "yes"}]
orchestrator: [{intent: RESCHEDULE_TASK, status: 404, detail: there is no such haircut}]
expect:
  intents: [{intent: RESCHEDULE_TASK, status: rejected, arguments: {task: {exact: haircut}}}]
  said: [no such haircut]
"""
TAKEN = """
about: What the Orchestrator takes is done.
lines: [{type: Add a task to buy milk tomorrow.}]
answers: [{when: is that right, type: "yes"}]
expect:
  intents: [{intent: NEW_TASK, arguments: {title: {exact: buy milk}}}]
  said: [done]
  turns: 2
"""
WRONG = TAKEN.replace("milk}", "bread}")


async def evaluated(folder, scenarios, **options):
    """Exit code and report; the agent is where Deepgram's would be."""
    for name, text in scenarios.items():
        (folder / f"{name}.yaml").write_text(text)
    files = tuple(folder / f"{name}.yaml" for name in scenarios)
    out = io.StringIO()
    async with serve(Options(api_key=KEY)) as agent, asyncio.timeout(100):
        environ = {"DEEPGRAM_API_KEY": KEY, "DEEPGRAM_AGENT_URL": agent.agent_url}
        options = EvalOptions(
            files=files, agent="deepgram", last=folder / "last.json", timeout=60.0, **options
        )
        code = await evaluate(options, out, io.StringIO(), environ)
        return code, out.getvalue(), len(agent.sessions)


async def test_an_agent_elsewhere_is_evaluated_several_times_and_refusals_are_played(tmp_path):
    code, report, sessions = await evaluated(
        tmp_path, {"taken": TAKEN, "refused": REFUSED, "wrong": WRONG}, repeat=2, at_once=6
    )

    rows = {line.split()[0]: line for line in report.splitlines() if "%" in line}
    assert code == 1, report
    assert "2/2" in rows["taken"]
    assert "2/2" in rows["refused"]
    assert "0/2" in rows["wrong"]
    assert report.count('NEW_TASK.title: expected "buy bread", got "buy milk"') == 2
    assert "2 passed, 1 failed (wrong), 0 failed as known" in report
    assert sessions >= 6
