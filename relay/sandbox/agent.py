"""The rules of one session of the sandbox agent: told what happens, it says what to do. Pure.

Two small machines. The connection (`State`, here) knows what may be said at all: Settings first and
once, nothing for too long is the end. The turn (`dialogue.Phase`) knows what the agent does about
the user. What happens later is a step of the scheduler; time is an argument, and `deadline` says
when `take` has to be called again.

The order on the wire is that of the recordings (docs/protocol.md): see `Dialogue.user_said` and
`user_started` (barge-in), `Playout` (sentences) and `FunctionCalls` (functions).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any

import msgspec

from relay.protocol import deepgram
from relay.sandbox import settings_check
from relay.sandbox.dialogue import Dialogue
from relay.sandbox.options import Options
from relay.sandbox.output import Action, Listen, Output
from relay.sandbox.scheduler import Scheduler
from relay.sandbox.script import Ending
from relay.sandbox.settings import AppliedSettings, one_or_more, read_settings
from relay.sandbox.slots import read_function

ACK_DELAY = 0.2  # seconds until an update is acknowledged
SESSION_SECONDS = 7200.0
WARNING_SECONDS = 300.0  # before the end of the longest session
SILENT_MICROPHONE = (
    "We waited too long for a websocket message. "
    "Please ensure that you're sending binary messages containing user speech."
)
SILENT_OPENING = (
    "We waited too long for a websocket message. "
    "Please ensure that you send a 'Settings' message at the beginning of the session."
)


class State(Enum):
    FRESH = "no Settings yet"
    APPLYING = "Settings taken, SettingsApplied not sent"
    OPEN = "in conversation"
    CLOSED = "nothing more to say"


class Agent:
    """One session. `dialogue` is told about the user; whatever was told, `take` comes next."""

    def __init__(self, options: Options, now: float, *, request_id: str) -> None:
        self.options = options
        self.state = State.FRESH
        self._scheduler = Scheduler()
        self._output = Output()
        self.dialogue = Dialogue(options, self._scheduler, self._output, end=self.end)
        self._active = now  # when the client was last heard of
        self._early: list[dict[str, Any]] = []  # messages between Settings and SettingsApplied
        if options.welcome_delay is not None:
            welcome = deepgram.Welcome(request_id=request_id)
            self._later(now + options.welcome_delay, lambda _: self._output.send(welcome))
        self._later(now + SESSION_SECONDS - WARNING_SECONDS, self._warn_of_the_end)
        self._later(now + SESSION_SECONDS, self._end_longest)

    def __repr__(self) -> str:
        return f"<Agent {self.state.name} {self.dialogue.phase.name} deadline={self.deadline}>"

    @property
    def settings(self) -> AppliedSettings:
        return self._output.settings

    @property
    def deadline(self) -> float:
        if self.state is State.CLOSED:
            return math.inf
        return min(self._active + self.options.timeout, self._scheduler.next)

    def take(self, now: float) -> list[Action]:
        """Do what is due, then hand over everything that is to be done outside."""
        for step in self._scheduler.due(now):
            step(now)
        if self.state is not State.CLOSED and now >= self._active + self.options.timeout:
            opened = self.state is not State.FRESH
            self.fail("CLIENT_MESSAGE_TIMEOUT", SILENT_MICROPHONE if opened else SILENT_OPENING)
        return self._output.take()

    # --- what comes from the client --------------------------------------------------------------

    def audio(self, frame: bytes, now: float) -> None:
        """A binary frame."""
        self._active = now
        if self.state is State.FRESH:
            self._refuse_early()
        elif self.state is State.OPEN:
            self.dialogue.audio(frame, now)
        # While Settings are applied it is thrown away without an error, as Deepgram does.

    def received(self, text: str, now: float) -> None:
        """A text frame."""
        self._active = now
        try:
            message = msgspec.json.decode(text)
        except msgspec.DecodeError:
            message = None
        if wrong := settings_check.misfit(message):
            self.fail("UNPARSABLE_CLIENT_MESSAGE", wrong)
            return
        if fault := self.options.faults.get(message["type"]):
            self.end(fault)
        if self.state is State.CLOSED:
            return
        if message["type"] == "Settings":
            self._settings(message, now)
        elif self.state is State.FRESH:
            self._refuse_early()
        elif self.state is State.APPLYING:
            self._early.append(message)
        else:
            self._obey(message, now)

    def _obey(self, message: dict[str, Any], now: float) -> None:
        dialogue = self.dialogue
        match message:
            case {"type": "InjectUserMessage", "content": content}:
                dialogue.user_said(content, "manual", now)
            case {"type": "InjectAgentMessage", "message": text}:
                dialogue.inject(text, message.get("behavior", "default"), now)
            case {"type": "FunctionCallResponse"}:
                dialogue.calls.answered(message, now)
            case {"type": "ForceEndTurn"}:
                dialogue.force_end()
            case {"type": str(name)} if name.startswith("Update"):
                if name == "UpdateThink":
                    self._think_settings(message["think"])
                ack = name.removeprefix("Update") + "Updated"
                self._later(now + ACK_DELAY, partial(self._acknowledge, ack))

    def _acknowledge(self, name: str, now: float) -> None:
        """Held back while the user speaks."""
        if self.dialogue.user_speaking:
            self._later(now + ACK_DELAY, partial(self._acknowledge, name))
        else:
            self._output.send({"type": name})

    # --- settings ------------------------------------------------------------------------------

    def _settings(self, settings: dict[str, Any], now: float) -> None:
        if self.state is not State.FRESH:
            self.fail("SETTINGS_ALREADY_APPLIED", "Settings have already been applied.")
            return
        agent = settings["agent"]
        if isinstance(agent, str):
            # The sandbox stores no agents; this is what the service says to a bad id.
            self.fail("INTERNAL_SERVER_ERROR", "An error occurred while resolving agent ID.")
            return
        try:
            self._output.settings = read_settings(settings)
        except ValueError as error:
            self.fail("INVALID_SETTINGS", str(error))
            return
        self._think_settings(agent.get("think", {}))
        context = agent.get("context", {}).get("messages", [])
        history = msgspec.convert(context, list[deepgram.History])
        # Some pages say that the flag is about the context too; so whoever needs it sends true.
        if self.settings.history:
            self.dialogue.planner.slot_filler.remember(history)
        self.state = State.APPLYING
        if self.options.settings_delay is not None:
            self._later(now + self.options.settings_delay, self._applied)

    def _applied(self, now: float) -> None:
        self.state = State.OPEN
        self._output.send(deepgram.SettingsApplied())
        self._output.do(Listen(self.settings.input))
        self.dialogue.start(now)
        for message in self._early:
            self._obey(message, now)

    def _think_settings(self, think: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Replaces the functions; of several, the first is the one that is used."""
        first = one_or_more(think)[:1]
        functions = [read_function(one) for think in first for one in think.get("functions", ())]
        self.dialogue.planner.slot_filler.functions = functions

    # --- the end -------------------------------------------------------------------------------

    def _refuse_early(self) -> None:
        self.fail(
            "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS",
            "Received a message before Settings; Settings has to be the first message.",
        )

    def _warn_of_the_end(self, now: float) -> None:
        self._output.warn(
            "MAXIMUM_SESSION_LENGTH_APPROACHING",
            f"The session ends in {WARNING_SECONDS:.0f} seconds.",
        )

    def _end_longest(self, now: float) -> None:
        self.fail("MAXIMUM_SESSION_LENGTH_REACHED", "The session reached its maximum length.")

    def fail(self, code: str, description: str) -> None:
        """What has gone wrong, in Deepgram's words, and the end."""
        self.end(Ending("error", code, description))

    def end(self, ending: Ending) -> None:
        """Error, then a close without a status; or one of the uglier ends."""
        if ending.kind == "error":
            error = {"type": "Error", "description": ending.reason, "code": str(ending.code)}
            self._output.send(error)
        self._output.do(ending)
        self.state = State.CLOSED
        self._scheduler.clear()

    def _later(self, at: float, step: Callable[[float], None]) -> None:
        self._scheduler.add(at, step, lasting=True)
