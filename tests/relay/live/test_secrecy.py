"""Whatever event carries the prompt or a function, it does not reach a browser."""

from __future__ import annotations

import json
from typing import Any

from relay.protocol import deepgram
from tests.relay.wires import agent_and_relay

SECRET = "you are the assistant of Acme and nobody may know"
CALL = {"id": "c1", "name": "create_goal", "arguments": json.dumps({"note": SECRET})}
FINISHED = CALL | {"client_side": True, "response": SECRET}
EVENTS: list[dict[str, Any]] = [
    {"type": "History", "function_calls": [FINISHED]},
    {"type": "History", "role": "system", "content": SECRET},
    {"type": "History", "role": "assistant", "content": [SECRET]},
    {"type": "FunctionCallRequest", "functions": [CALL | {"client_side": False}]},
    {"type": "FunctionCallRequest", "functions": SECRET},
    {"type": "FunctionCallRequest", "functions": [SECRET]},
    {"type": "FunctionCallResponse", "id": "c1", "name": "create_goal", "content": SECRET},
    {"type": "FunctionCallResponse", "id": "c1", "name": "create_goal", "content": {"x": SECRET}},
    {"type": "FunctionCallCancelled", "functions": [{"id": "c9", "name": SECRET}]},
    {"type": "FunctionCallCancelled", "functions": SECRET},
    {"type": "Warning", "code": "SLOW_THINK_REQUEST", "description": SECRET},
    {"type": "Warning", "code": "SLOW_THINK_REQUEST", "description": [SECRET]},
    {"type": "Error", "code": "UNPARSABLE", "description": [SECRET]},
    {"no": "type", "prompt": SECRET},
    # The last: it ends the agent.
    {"type": "Error", "code": "UNPARSABLE_CLIENT_MESSAGE", "description": SECRET},
]


def test_there_is_one_for_each_event_that_may_carry_it():
    kinds = {event.get("type") for event in EVENTS}
    known = {struct.__name__ for struct in deepgram.ServerMessage.__args__}
    assert {"History", "Error", "Warning"} <= kinds & known
    assert {kind for kind in known if kind.startswith("FunctionCall")} <= kinds


async def test_no_event_tells_a_browser_what_is_ours():
    async with agent_and_relay() as (agent, relay), relay.attach() as browser:
        await agent.greeted.wait()
        for number, event in enumerate(EVENTS):
            await agent.say(**event)
            if event is not EVENTS[-1]:
                await agent.say(type="EndOfTurn", trigger=f"after {number}")
        told = []
        while not (told and f'"after {len(EVENTS) - 2}"' in told[-1]):
            told.append(await browser.recv())
        told.append(await browser.recv())
        assert [text for text in told if SECRET in text] == []
        assert [text for text in told if '"type":"History"' in text.replace(" ", "")] == []
