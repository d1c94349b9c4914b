"""What the tests of Deepgram's own clients share: the script, and what each client has to see."""

from __future__ import annotations

import json
import re
from pathlib import Path

from deepgram.environment import DeepgramClientEnvironment

from relay.sandbox.script import Script, Turn
from tests.end_to_end.test_relay import GOAL

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
WAV = Path(__file__).parents[1] / "audio" / "goal_marathon.wav"

SPOKEN = "I want to run a marathon in April."
TURN = Turn(when="audio", after=0.4, user=SPOKEN, calls=(GOAL,), say=("Done.", "What else?"))
SCRIPT = Script(turns=(TURN,))


async def check(program, received, *, number=0):
    """`received`: the JSON messages that a client of the `number`-th session got, in order."""
    types = [message["type"] for message in received]
    texts = [(m["role"], m["content"]) for m in received if m["type"] == "ConversationText"]
    assert types[0] == "Welcome"
    assert types.count("SettingsApplied") == types.count("Welcome") == 1
    assert texts[0][0] == "assistant"
    assert texts[1:] == [("user", SPOKEN), ("assistant", "Done."), ("assistant", "What else?")]
    assert "Error" not in types

    agent = await program.sandbox.session(number)
    everything = json.dumps(received)
    think = agent.settings["agent"]["think"][0]
    secrets = [line for line in think["prompt"].splitlines() if len(line) > 20]
    secrets += [function["name"] for function in think["functions"]] + ["the-real-key"]
    assert len(secrets) > 5
    assert [secret for secret in secrets if secret in everything] == []
    assert "Relay" not in everything

    session = await program.ended({"session_id": received[0]["request_id"]})
    assert session["close_reason"] == "browser_left"
    conversation = f"/conversations/{session['conversation_id']}"
    stored = (await program.get(f"{conversation}/messages"))["items"]
    assert [(m["role"], m["content"]) for m in stored] == texts
    (call,) = (await program.get(f"{conversation}/intents"))["items"]
    assert (call["intent"], call["status"]) == ("GOAL", "submitted")
    return agent


def readme(language, program):
    """The code in this language of the README's section on these clients, for this program."""
    section = README.split("## Use an official Deepgram client")[1].split("\n## ")[0]
    (code,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert "127.0.0.1:8080" in code
    return code.replace("127.0.0.1:8080", f"127.0.0.1:{program.http.base_url.port}")


def environment(program):
    http = str(program.http.base_url).rstrip("/")
    ws = http.replace("http", "ws", 1)
    return DeepgramClientEnvironment(base=http, production=ws, agent=ws, agent_rest=http)
