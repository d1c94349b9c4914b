"""The rules of one session of the sandbox agent: events in, actions out. Pure.

Two small machines. The connection (`State`, here) knows what may be said at all: Settings first and
once, nothing for too long is the end. The turn (`dialogue.Phase`) knows what the agent does about
the user. What happens later is a step of the scheduler; time is an argument, and `deadline` says
when the agent wants to be called again.

The order on the wire is that of the recordings (docs/protocol.md): see `Dialogue.user_said` and
`user_started` (barge-in), `Playout` (sentences) and `FunctionCalls` (functions).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec

from relay.protocol import deepgram
from relay.sandbox import settings_check
from relay.sandbox.audio import BYTES_PER_SAMPLE
from relay.sandbox.dialogue import Dialogue, Phase
from relay.sandbox.events import (
    Action,
    AudioReady,
    End,
    EngineFailed,
    Event,
    Listen,
    PlayTurn,
    Received,
    SpeechStarted,
    UserSaid,
    Wake,
)
from relay.sandbox.options import Fault, Options
from relay.sandbox.output import Output
from relay.sandbox.scheduler import Scheduler
from relay.sandbox.script import Ending
from relay.sandbox.settings import AppliedSettings, read_settings

PROMPT_LIMIT = 25_000  # characters that a managed model takes
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
    """One session. `new_id` makes the ids of function calls."""

    def __init__(self, options: Options, *, request_id: str, new_id: Callable[[], str]) -> None:
        self.options = options
        self.request_id = request_id
        self.state = State.FRESH
        self._scheduler = Scheduler()
        self._output = Output()
        self._dialogue = Dialogue(
            options, self._scheduler, self._output, new_id=new_id, end=self._end
        )
        self._active = 0.0  # when the client was last heard of
        self._early: list[str] = []  # messages between Settings and SettingsApplied
        self._heard_audio = False

    def __repr__(self) -> str:
        return f"<Agent {self.state.name} {self.phase.name} deadline={self.deadline}>"

    @property
    def phase(self) -> Phase:
        return self._dialogue.phase

    @property
    def settings(self) -> AppliedSettings:
        return self._output.settings

    @property
    def deadline(self) -> float | None:
        if self.state is State.CLOSED:
            return None
        silence = self._active + self.options.timeout
        step = self._scheduler.next
        return silence if step is None or silence < step else step

    # --- ways in -----------------------------------------------------------------------------

    def open(self, now: float) -> list[Action]:
        """The socket is open."""
        self._active = now
        if self.options.welcome_delay is not None:
            welcome = deepgram.Welcome(request_id=self.request_id)
            self._later(now + self.options.welcome_delay, lambda _: self._output.send(welcome))
        for fault in self.options.faults:
            if fault.on is None:
                self._arm(fault, now)
        self._later(now + self.options.session_seconds, self._too_long)
        warning = now + self.options.session_seconds - self.options.warning_seconds
        self._later(warning, self._soon_too_long)
        return self._take(now)

    def handle(self, event: Event, now: float) -> list[Action]:
        if self.state is State.CLOSED:
            return []
        match event:
            case Received(text):
                self._active = now
                self._received(text, now)
            case EngineFailed(code, reason):
                self._fail(code, reason)
            case SpeechStarted() | UserSaid() | AudioReady() | PlayTurn():
                if self.state is State.OPEN:
                    self._pass_on(event, now)
            case Wake():
                pass
        return self._take(now)

    def _pass_on(self, event: SpeechStarted | UserSaid | AudioReady | PlayTurn, now: float) -> None:
        match event:
            case SpeechStarted():
                self._dialogue.user_started(now)
            case UserSaid(text):
                self._dialogue.user_finished(text, now)
            case AudioReady(reply, index, audio):
                self._dialogue.audio_ready(reply, index, audio, now)
            case PlayTurn(turn):
                self._dialogue.begin(turn, now)

    def audio(self, frame: bytes, now: float) -> list[Action]:
        """A binary frame from the client. Apart from `handle` because there are so many."""
        if self.state is State.CLOSED:
            return []
        self._active = now
        if not self._heard_audio:
            self._heard_audio = True
            self._fault_on("Audio", now)
        if self.state is State.OPEN:
            if self._is_deaf:
                encoding = self.settings.input.encoding
                self._fail("USER_AUDIO_FORMAT", f"Audio in {encoding} cannot be decoded here.")
            else:
                self._dialogue.audio(frame, now)
        elif self.state is State.FRESH:
            self._refuse_early()
        elif self.state is State.APPLYING:
            pass  # thrown away without an error, as Deepgram does
        return [] if self._output.is_empty else self._take(now)

    @property
    def _is_deaf(self) -> bool:
        """Whether there is a recogniser that cannot read what the client sends."""
        encoding = self.settings.input.encoding
        return self.options.speech is not None and encoding not in (*BYTES_PER_SAMPLE, "opus")

    # --- texts from the client -----------------------------------------------------------------

    def _received(self, text: str, now: float) -> None:
        try:
            message = msgspec.json.decode(text)
        except msgspec.DecodeError:
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            self._fail(settings_check.UNPARSABLE, settings_check.UNKNOWN_FORMAT)
            return
        name = message["type"]
        self._fault_on(name, now)
        if self.state is State.CLOSED:
            return
        if self.state is State.FRESH and name != "Settings":
            self._refuse_early()
            return
        if wrong := settings_check.misfit(message):
            self._fail(settings_check.UNPARSABLE, wrong)
            return
        if self.state is State.APPLYING and name != "Settings":
            self._early.append(text)
            return
        self._obey(message, deepgram.decode_client(text.encode()), now)

    def _obey(
        self,
        raw: dict[str, Any],
        message: deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed,
        now: float,
    ) -> None:
        dialogue = self._dialogue
        match message:
            case deepgram.Settings():
                self._settings(message, now)
            case deepgram.InjectUserMessage(content=content):
                dialogue.user_said(content, "manual", now)
            case deepgram.InjectAgentMessage():
                dialogue.inject(message.message, message.behavior or "default", now)
            case deepgram.FunctionCallResponse():
                dialogue.answered(message, now)
            case deepgram.UpdatePrompt(prompt=prompt):
                self._prompt(prompt)
                dialogue.acknowledge(deepgram.PromptUpdated(), now)
            case deepgram.UpdateThink(think=think):
                self._think_settings(think)
                dialogue.acknowledge(deepgram.ThinkUpdated(), now)
            case deepgram.UpdateListen():
                dialogue.acknowledge(deepgram.ListenUpdated(), now)
            case deepgram.UpdateSpeak():
                dialogue.acknowledge(deepgram.SpeakUpdated(), now)
            case deepgram.ForceEndTurn():
                dialogue.force_end()
            case deepgram.KeepAlive():
                pass
            case deepgram.Malformed():
                if raw.get("is_dynamic") is True:  # the one message whose text is optional
                    behavior = str(raw.get("behavior", "default"))
                    dialogue.inject("Are you still there?", behavior, now)
                else:
                    self._fail(settings_check.UNPARSABLE, settings_check.UNKNOWN_FORMAT)
            case deepgram.Unknown(type=name):
                if name == "UpdateThink_Live":
                    dialogue.acknowledge({"type": "ThinkLiveUpdated"}, now)

    # --- settings ------------------------------------------------------------------------------

    def _settings(self, settings: deepgram.Settings, now: float) -> None:
        if self.state is not State.FRESH:
            self._fail("SETTINGS_ALREADY_APPLIED", "Settings have already been applied.")
            return
        if isinstance(settings.agent, str):
            # The sandbox stores no agents; this is what the service says to a bad id.
            self._fail("INTERNAL_SERVER_ERROR", "An error occurred while resolving agent ID.")
            return
        try:
            self._output.settings = read_settings(settings)
        except ValueError as error:
            self._fail("INVALID_SETTINGS", str(error))
            return
        self._think_settings(settings.agent.get("think", {}))
        context = settings.agent.get("context", {}).get("messages", [])
        self._dialogue.slot_filler.remember(msgspec.convert(context, list[deepgram.History]))
        self.state = State.APPLYING
        if self.options.settings_delay is not None:
            self._later(now + self.options.settings_delay, self._applied)

    def _applied(self, now: float) -> None:
        self.state = State.OPEN
        self._output.send(deepgram.SettingsApplied())
        if not self._is_deaf:
            self._output.do(Listen(self.settings.input))
        self._check_prompt()
        self._dialogue.start(now)
        early, self._early = self._early, []
        for text in early:
            if self.state is State.OPEN:
                self._received(text, now)

    def _think_settings(self, think: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Replaces functions and prompt; of several, the first is the one that is used."""
        first = (think[0] if think else {}) if isinstance(think, list) else think
        self._dialogue.slot_filler.functions = first.get("functions", ())
        self.settings.prompt_length = len(first.get("prompt", ""))
        self.settings.managed = "endpoint" not in first

    def _prompt(self, prompt: str) -> None:
        self.settings.prompt_length += len(prompt)  # it is appended
        self._check_prompt()

    def _check_prompt(self) -> None:
        if self.settings.prompt_length > PROMPT_LIMIT and self.settings.managed:
            self._output.warn("PROMPT_TOO_LONG", f"Prompt is cut to {PROMPT_LIMIT} characters.")

    # --- the end -------------------------------------------------------------------------------

    def _refuse_early(self) -> None:
        self._fail(
            "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS",
            "Received a message before Settings; Settings has to be the first message.",
        )

    def _soon_too_long(self, now: float) -> None:
        self._output.warn(
            "MAXIMUM_SESSION_LENGTH_APPROACHING",
            f"The session ends in {self.options.warning_seconds:.0f} seconds.",
        )

    def _too_long(self, now: float) -> None:
        self._fail("MAXIMUM_SESSION_LENGTH_REACHED", "The session reached its maximum length.")

    def _fail(self, code: str, description: str) -> None:
        self._end(Ending(kind="error", code=code, reason=description))

    def _end(self, ending: Ending) -> None:
        """Error, then a close without a status; or one of the uglier ends."""
        if self.state is State.CLOSED:
            return
        if ending.kind == "error":
            error = {"type": "Error", "description": ending.reason, "code": str(ending.code)}
            self._output.send(error)
        self.state = State.CLOSED
        self._scheduler.clear()
        self._output.do(End(ending))

    def _arm(self, fault: Fault, now: float) -> None:
        self._later(now + (fault.after or 0.0), lambda _: self._end(fault.ending))

    def _fault_on(self, name: str, now: float) -> None:
        for fault in self.options.faults:
            if fault.on != name:
                continue
            if fault.after is None:
                self._end(fault.ending)
            else:
                self._arm(fault, now)

    # --- time ----------------------------------------------------------------------------------

    def _later(self, at: float, step: Callable[[float], None]) -> None:
        self._scheduler.add(at, step, lasting=True)

    def _take(self, now: float) -> list[Action]:
        """Do what is due, then hand over everything that is to be done outside."""
        for step in self._scheduler.due(now):
            step(now)
        if self.state is not State.CLOSED and now >= self._active + self.options.timeout:
            opened = self.state is not State.FRESH
            self._fail("CLIENT_MESSAGE_TIMEOUT", SILENT_MICROPHONE if opened else SILENT_OPENING)
        return self._output.take()
