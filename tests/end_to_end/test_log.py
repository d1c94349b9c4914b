"""All that a relay logs at debug of a whole session with a call, an agent that is lost, refusals
and requests that fail: every line can be read by a strict reader, and none has what is secret."""

from __future__ import annotations

import json

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from config.prompt import load_prompt
from config.settings import CONFIG_DIR
from relay.sandbox.script import Call, Script, Turn
from tests.chaos.stage import QUICK, staged, until
from tests.logfmt import read_lines
from tests.relay.wires import listening, next_event

TYPED = "a sentence that nobody may log 2c9b"
SAID = "an answer that nobody may log 8d1e"
ARGUMENT = "an argument that nobody may log 0d4e"
RESULT = "a result that nobody may log 71aa"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SCRIPT = Script(
    turns=(
        Turn(
            when="text",
            calls=(Call("create_goal", {"title": ARGUMENT, "deadline": "none"}),),
            say=(SAID,),
        ),
    ),
    loop=True,
)


class Planner:
    """An Orchestrator that remembers with which headers it was asked."""

    def __init__(self):
        self.headers = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.headers.append((scope["method"], headers))
        while (await receive()).get("more_body"):
            pass
        start = {"type": "http.response.start", "status": 200, "headers": []}
        await send(start)
        body = json.dumps({"note": RESULT}).encode()
        await send({"type": "http.response.body", "body": body})


def read_json(text):
    return [json.loads(line) for line in text.splitlines()]


async def converse(relay, stage):
    """A session that has all of that; its ids and what must not be logged."""
    api = f"{relay.url}/api/v1/voice"
    asked = {"X-Request-Id": "asked-1", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(f"{api}/session", headers=asked)
        begun = answer.json()
        assert answer.headers["X-Request-Id"] == "asked-1"
        refused = await http.post(f"{api}/session", content=b"{", headers=asked)
        assert (refused.status_code, refused.headers["X-Request-Id"]) == (400, "asked-1")
        assert (await http.get(f"{relay.url}/no//path")).headers["X-Request-Id"]
    url = begun["websocket_url"]
    with pytest.raises(InvalidStatus, match="401") as told:
        await connect(url, subprotocols=["relay.v1", "wrong"], additional_headers=asked)
    assert told.value.response.headers["X-Request-Id"] == "asked-1"
    tickets = [begun["ticket"]]
    headers = asked | {"X-Request-Id": "attached-1"}
    protocols = ["relay.v1", begun["ticket"]]
    async with connect(url, subprotocols=protocols, additional_headers=headers) as browser:
        assert browser.response.headers["X-Request-Id"] == "attached-1"
        tickets.append((await next_event(browser, "RelaySession"))["resume_ticket"])
        agents = [(await next_event(browser, "Welcome"))["request_id"]]
        await next_event(browser, "SettingsApplied")
        await browser.send(json.dumps({"type": "InjectUserMessage", "content": TYPED}))
        while (await next_event(browser, "ConversationText"))["content"] != SAID:
            pass
        await next_event(browser, "AgentAudioDone")
        stage.agent_link.cut()
        await next_event(browser, "RelayReconnected")
        await browser.send("{" + TYPED)
        await next_event(browser, "RelayError")
    await until(lambda: _has(relay, "session_ended"), 20)
    return begun["session_id"], agents[0], tickets


async def _has(relay, event):
    return event in relay.output


@pytest.mark.parametrize(("form", "read"), [("logfmt", read_lines), ("json", read_json)])
async def test_every_line_can_be_read_and_none_has_a_secret(database_url, tmp_path, form, read):
    planner = Planner()
    async with (
        listening(planner) as (port, _),
        staged(tmp_path, database_url, **QUICK | {"script": SCRIPT}) as stage,
    ):
        relay = stage.relay(
            ORCHESTRATOR_URL=f"http://127.0.0.1:{port}",
            RELAY_LOG_LEVEL="debug",
            RELAY_LOG_FORMAT=form,
            RELAY_ACCESS_LOG="on",
        )
        await relay.start()
        session_id, agent, tickets = await converse(relay, stage)
        await stage.stop_relays()
        output = relay.output

    lines = read(output)
    for line in lines:
        assert {"time", "level", "logger", "event"} <= line.keys()
        assert line["time"].endswith("Z")
    of = {}
    for line in lines:
        of.setdefault(line["event"], []).append(line)
    (began,), (ended,), (call,) = of["session_began"], of["session_ended"], of["function_call"]
    assert of["relay_started"]
    for line in (began, ended, call):
        assert (line["session"], line["request"]) == (session_id, "attached-1")
    assert call["agent_request"] == agent
    (lost,) = of["agent_redialled"]
    assert (lost["session"], lost["agent_request"]) == (session_id, agent)
    assert "agent_request" not in began
    assert ended["agent_request"] != agent, "the newest one"
    assert (str(ended["redials"]), ended["reason"]) == ("1", "browser_left")
    answered = {(line["request"], str(line["status"])) for line in of["request_answered"]}
    wanted = {("asked-1", "201"), ("asked-1", "400"), ("asked-1", "401"), ("attached-1", "101")}
    assert wanted <= answered
    asked = {(method, headers["x-request-id"]) for method, headers in planner.headers}
    assert ("POST", "attached-1") in asked
    traces = [headers["traceparent"].split("-")[1] for _, headers in planner.headers]
    assert set(traces) == {TRACE}
    prompt = load_prompt(CONFIG_DIR / "system_prompt.md").text
    phrases = [text for text in prompt.splitlines() if len(text) > 40 and "{" not in text]
    for secret in (TYPED, SAID, ARGUMENT, RESULT, *tickets, *phrases):
        assert secret not in output
