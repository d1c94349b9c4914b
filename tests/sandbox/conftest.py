"""The published schema, an agent on a clock of our own, and a small registry."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from relay.sandbox.agent import Agent
from relay.sandbox.options import Options
from relay.sandbox.output import Sentence
from relay.sandbox.script import Ending

DATA = Path(__file__).parent / "data"

# Sent by real servers, unknown to the published description.
NEWER = {"EndOfTurn", "EndOfThought", "FunctionCallCancelled"}


class Published:
    """Deepgram's own description of what a server and a client may send."""

    def __init__(self):
        text = (DATA / "asyncapi.agent.yml").read_text()
        self.document = yaml.safe_load(text)
        self.schemas = self.document["components"]["schemas"]
        self.server = self._payloads("publish")
        self.client = self._payloads("subscribe")

    def _payloads(self, operation):
        channel = self.document["channels"]["/v1/agent/converse"]
        names = [
            ref["$ref"].removeprefix("#/components/messages/")
            for ref in channel[operation]["message"]["oneOf"]
        ]
        messages = self.document["components"]["messages"]
        payloads = {}
        for name in names:
            schema = messages[name]["payload"]["$ref"].rsplit("/", 1)[1]
            short = schema.removeprefix("AgentV1_AgentV1")
            short = {
                "ReceiveFunctionCallResponse": "FunctionCallResponse",
                "SendFunctionCallResponse": "FunctionCallResponse",
            }.get(short, short)
            payloads[short] = schema
        return payloads

    def check(self, message, *, side="server"):
        """Raises if the message does not fit its schema or has fields that are not in it."""
        known = self.server if side == "server" else self.client
        name = message["type"]
        if name in NEWER:
            return
        assert name in known, f"{name} is not in the published description"
        schema = {
            "$ref": f"#/components/schemas/{known[name]}",
            "components": {"schemas": self.schemas},
        }
        jsonschema.validate(message, schema, cls=jsonschema.Draft7Validator)
        properties = self._properties(known[name])
        unknown = set(message) - properties - {"conversational_behavior", "stt_latency"}
        assert not unknown, f"{name} has fields that are not published: {unknown}"

    def _properties(self, name):
        schema = self.schemas[name]
        found = set(schema.get("properties", ()))
        for variant in schema.get("oneOf", ()):
            found |= self._properties(variant["$ref"].rsplit("/", 1)[1])
        return found


@pytest.fixture(scope="session")
def published():
    return Published()


class Line:
    """One agent, driven by hand: `tell` it something, let time pass with `run`."""

    def __init__(self, published, options):
        self.now = 100.0
        self.agent = Agent(options, self.now, request_id="r-1")
        self.log = []  # (time, message | bytes | Ending)
        self.voices = []  # sentences to be spoken
        self.others = []  # other actions
        self.published = published
        self._take()

    def _take(self):
        for action in self.agent.take(self.now):
            if isinstance(action, str):
                message = json.loads(action)
                self.published.check(message)
                self.log.append((self.now, message))
            elif isinstance(action, bytes | Ending):
                self.log.append((self.now, action))
            else:
                known = self.voices if isinstance(action, Sentence) else self.others
                known.append(action)

    def tell(self, message):
        text = message if isinstance(message, str) else json.dumps(message)
        self.agent.received(text, self.now)
        self._take()

    def hear(self, frame):
        self.agent.audio(frame, self.now)
        self._take()

    def starts(self):
        """The user begins to speak."""
        self.agent.dialogue.user_started(self.now)
        self._take()

    def pauses(self, text):
        """The user has said this so far."""
        self.agent.dialogue.user_paused(text, self.now)
        self._take()

    def says(self, text):
        """The user has spoken these words; none: it was a cough."""
        self.agent.dialogue.user_finished(text, self.now)
        self._take()

    def voice(self, sentence, audio):
        self.agent.dialogue.playout.voice_ready(sentence, audio, self.now)
        self._take()

    def run(self, seconds, *, alive=True):
        """Let time pass; alive: with a KeepAlive every five seconds."""
        end = self.now + seconds
        alive_at = self.now + 5
        while True:
            at = self.agent.deadline
            if alive and alive_at < min(at, end):
                self.now = alive_at
                alive_at += 5
                self.tell({"type": "KeepAlive"})
            elif at <= end:
                self.now = max(at, self.now)
                self._take()
            else:
                break
        self.now = end

    def start(self, **agent):
        """Settings, and on to SettingsApplied; forget what was said until then."""
        self.tell(settings(**agent))
        self.run(0.06)
        self.log.clear()

    @property
    def messages(self):
        return [entry for _, entry in self.log if isinstance(entry, dict)]

    @property
    def types(self):
        return [message["type"] for message in self.messages]

    @property
    def shape(self):
        """Types in order; runs of frames as one "audio"."""
        names = []
        for _, entry in self.log:
            name = (
                "audio"
                if isinstance(entry, bytes)
                else "end"
                if isinstance(entry, Ending)
                else entry["type"]
            )
            if name != "audio" or names[-1:] != ["audio"]:
                names.append(name)
        return names

    @property
    def frames(self):
        return [entry for _, entry in self.log if isinstance(entry, bytes)]

    @property
    def ending(self):
        return next((e for _, e in self.log if isinstance(e, Ending)), None)

    def time_of(self, name, nth=0):
        times = [at for at, e in self.log if isinstance(e, dict) and e["type"] == name]
        return times[nth]

    def said(self, role="assistant"):
        return [
            m["content"]
            for m in self.messages
            if m["type"] == "ConversationText" and m["role"] == role
        ]


@pytest.fixture
def line(published):
    def make(**options):
        return Line(published, Options(**options))

    return make


def settings(*, top=None, audio=None, **agent):
    return {"type": "Settings", "audio": audio or {}, "agent": agent, **(top or {})}


@pytest.fixture(name="settings")
def settings_fixture():
    return settings


def text(description):
    return {"type": "string", "description": description}


REGISTRY = [
    {
        "name": "create_goal",
        "description": "Create a goal: something the user wants to achieve over weeks or months. "
        "Not for a single thing to be done, that is a task.",
        "parameters": {
            "type": "object",
            "properties": {
                "title": text("what the user wants to achieve, in a few words"),
                "deadline": text('by when, or "none" if the user has no deadline'),
                "details": text("what else the user said about it"),
            },
            "required": ["title", "deadline"],
        },
    },
    {
        "name": "create_task",
        "description": "Add a task: a single thing to be done, such as a purchase or an errand.",
        "parameters": {
            "type": "object",
            "properties": {"title": text("what is to be done"), "due": text("when it is due")},
            "required": ["title"],
        },
    },
    {
        "name": "reschedule_task",
        "description": "Move an existing task or appointment to another date or time.",
        "parameters": {
            "type": "object",
            "properties": {"task": text("the existing task"), "when": text("the new date")},
            "required": ["task", "when"],
        },
    },
]


@pytest.fixture
def registry():
    return REGISTRY
