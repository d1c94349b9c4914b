"""A session whose browser speaks Deepgram's own protocol: official clients, unchanged. Pure.

Wraps a `Session` and looks like one. Before it there is a wait for the client's Settings, of which
only `audio`, `flags.history` and `mip_opt_out: true` count, and a Warning names the others. After
that, what the session asks for is put into Deepgram's words: no `Relay…` event, an `Error` where
something is wrong, and 1000 as the only close code, because Deepgram's JavaScript SDK dials again
after any other and never sends Settings again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from config.agent import Agent, Audio, AudioInput, AudioOutput
from relay.core import actions, events
from relay.core.actions import Action
from relay.core.admitted import Admitted
from relay.core.agent_lifecycle import State
from relay.core.events import EndReason, Event
from relay.core.session import Session
from relay.protocol import close_codes, deepgram, relay_events
from relay.protocol.audio_formats import AudioWish, choose_audio

SETTINGS_SECONDS = 15.0  # Deepgram waits 10 to 15 s for Settings
MAX_EARLY = 16  # before Settings an agent says Welcome, and nothing else
MAX_DESCRIPTION = 300  # characters; it may quote what the client wrote

# What Deepgram takes where Settings say nothing (docs/protocol.md); agent.yaml is for our clients.
DEFAULT_AUDIO = Audio(input=AudioInput(sample_rate=24000), output=AudioOutput())
# Examples of the SDKs ask for a header before the audio: it is a part of the stream like any other.
CONTAINERS = ("none", "wav")

# The words of `RelayError` that Deepgram has others for; the rest is told in capitals.
_CODES = {
    "not_allowed": "INSUFFICIENT_PERMISSIONS",
    "malformed": "UNPARSABLE_CLIENT_MESSAGE",
    "too_long": "UNPARSABLE_CLIENT_MESSAGE",
    "agent_unreachable": "INTERNAL_SERVER_ERROR",
    "agent_lost": "INTERNAL_SERVER_ERROR",
    "setup_timeout": "INTERNAL_SERVER_ERROR",
}
# What a close code would have said.
_CLOSED = {close_codes.RESTART: "SERVER_GOING_AWAY", close_codes.POLICY: "TOO_MANY_REQUESTS"}

Begin = Callable[[Admitted, float], Session]
"""Makes the session at this monotonic second."""


class DeepgramSession:
    """One connection of an official client; it becomes a session when its Settings have come."""

    def __init__(self, admitted: Admitted, agent: Agent, begin: Begin, now: float) -> None:
        """`admitted.audio` does not count: the client says which."""
        self._agent = agent
        self._begin = begin
        self._session = begin(admitted, now)  # begun again with the audio that the client wants
        self._settings_by: float | None = now + SETTINGS_SECONDS  # None: they came
        self._early: list[Event] = []  # of an agent that was dialled ahead
        self._wanted: dict[str, Any] = {}  # of the client's Settings, for each agent
        self._history = True  # whether what is said is told as History too; Deepgram's default

    def __repr__(self) -> str:
        return f"<DeepgramSession {self._session!r}>"

    @property
    def admitted(self) -> Admitted:
        """As of a `Session`; the audio is what the client's Settings ask for, once they came."""
        return self._session.admitted

    @property
    def state(self) -> State:
        """As of a `Session`."""
        return self._session.state

    @property
    def deadline(self) -> float | None:
        """As of a `Session`."""
        due = self._session.deadline
        return due if due is None or self._settings_by is None else self._settings_by

    @property
    def most(self) -> tuple[float, float]:
        """As of a `Session`. Before Settings no audio passes at all."""
        return self._session.most if self._settings_by is None else (math.inf, math.inf)

    def begin(self) -> list[Action]:
        """The client's WebSocket is open. Our Welcome, so that nobody waits for the agent's."""
        welcome = deepgram.Welcome(request_id=str(self.admitted.session_id))
        return [actions.SendBrowser(welcome)]

    def decode(self, text: bytes) -> relay_events.FromBrowser:
        """As of a `Session`; the client's Settings may be longer than all that comes after them.
        What only our clients say is not known in this protocol."""
        if self._settings_by is not None:
            return deepgram.decode_client(text)
        message = self._session.decode(text)
        if isinstance(message, relay_events.Own):
            return deepgram.Unknown(type=type(message).__name__)
        return message

    def accepts_audio(self, payload: bytes | memoryview) -> bool:
        """As of a `Session`; before Settings nothing is accepted."""
        return self._settings_by is None and self._session.accepts_audio(payload)

    def admits(self, ticket: str, browser_frames: int) -> bool:
        """Never: there is no way back in this protocol."""
        return False

    def handle(self, event: Event, now: float) -> list[Action]:
        """Apply one event at monotonic second `now`; what has to be done, in order."""
        if self._session.state is State.CLOSED:
            return []
        if self._settings_by is not None:
            return self._before_settings(event, now, self._settings_by)
        if isinstance(event, events.FromBrowser) and isinstance(event.message, deepgram.Settings):
            return self._refuse("SETTINGS_ALREADY_APPLIED", "Settings were sent already", now)
        return self._tell(event, now)

    # --- before Settings ---------------------------------------------------------------------

    def _before_settings(self, event: Event, now: float, settings_by: float) -> list[Action]:
        match event:
            case events.FromBrowser(deepgram.Settings() as settings):
                return self._settle(settings, now)
            case events.FromBrowser(deepgram.Malformed(type="Settings", reason=reason)):
                return self._refuse("UNPARSABLE_CLIENT_MESSAGE", f"Settings: {reason}", now)
            case events.FromBrowser():
                return self._refuse_other("another message", now)
            case events.NotAudio():
                return self._refuse_other("audio", now)
            case events.Woken() if now >= settings_by:
                waited = f"no Settings came within {SETTINGS_SECONDS:.0f} s"
                return self._refuse("CLIENT_MESSAGE_TIMEOUT", waited, now)
            case events.ControlFrame() | events.BrowserClosed() | events.HangUp() | events.GoAway():
                return self._tell(event, now)  # as at any time
            case (
                events.FromAgent()
                | events.AgentOpened()
                | events.AgentClosed()
                | events.AgentUnreachable()
            ):
                if len(self._early) < MAX_EARLY:
                    self._early.append(event)
        return []  # the rest is of a session, and there is none yet

    def _settle(self, settings: deepgram.Settings, now: float) -> list[Action]:
        audio, mistakes = _read_audio(settings.audio, self._agent)
        self._wanted = {"audio": msgspec.to_builtins(audio)}
        if settings.mip_opt_out:
            self._wanted["mip_opt_out"] = True
            private = msgspec.structs.replace(self._agent, mip_opt_out=True)
            mistakes += [f"{where[1:]}: expected {what}" for where, what, _ in private.mistakes()]
        if mistakes:
            return self._refuse("INVALID_SETTINGS", "; ".join(mistakes), now)
        self._history = (settings.flags or {}).get("history", True) is not False
        self._settings_by = None
        self._session = self._begin(msgspec.structs.replace(self.admitted, audio=audio), now)
        told: list[Action] = [actions.DialAgent()]
        if ignored := ", ".join(_ignored(settings, self._agent)):
            text = f"not used, this server has its own: {ignored}"[:MAX_DESCRIPTION]
            warning = deepgram.Warning(description=text, code="SETTINGS_IGNORED")
            told.insert(0, actions.SendBrowser(warning))
        early, self._early = self._early, []
        for event in early:
            told += self._tell(event, now)
        return told

    def _refuse_other(self, what: str, now: float) -> list[Action]:
        text = f"expected Settings as the first message, got {what}"
        return self._refuse("NON_SETTINGS_MESSAGE_BEFORE_SETTINGS", text, now)

    def _refuse(self, code: str, description: str, now: float) -> list[Action]:
        """The end for something that is wrong with Settings, told as Deepgram tells it."""
        error = deepgram.Error(description=description[:MAX_DESCRIPTION], code=code)
        return [
            actions.SendBrowser(error),
            *self._tell(events.HangUp(EndReason.BAD_SETTINGS, code), now),
        ]

    # --- in Deepgram's words -----------------------------------------------------------------

    def _tell(self, event: Event, now: float) -> list[Action]:
        """What the session asks for because of this event, as the client may see it."""
        told: list[Action] = []
        message = event.message if isinstance(event, events.FromAgent) else None
        is_welcome = isinstance(message, deepgram.Welcome)
        if isinstance(message, deepgram.History) and message.function_calls is None:
            is_told = self._history and not self._session.knows(message)
            return [actions.Forward()] if is_told else []
        is_explained = isinstance(event, events.BrowserClosed)  # who left needs no word
        for action in self._session.handle(event, now):
            match action:
                case actions.Forward() if is_welcome:
                    pass  # it had ours
                case actions.SendBrowser(event=relay_events.RelayError() as error):
                    is_explained = True
                    told.append(actions.SendBrowser(_in_deepgrams_words(error)))
                case actions.Refuse(error=relay_events.RelayError() as error):
                    told.append(actions.Refuse(_in_deepgrams_words(error), error.code))
                case actions.SendBrowser(event=relay_events.RelayEvent()):
                    pass
                case actions.SendBrowser(event=shown):
                    is_explained = is_explained or isinstance(shown, deepgram.Error)
                    told.append(action)
                case actions.End(browser=(code, reason)):
                    if code != close_codes.NORMAL and not is_explained:
                        word = _CLOSED.get(code, "INTERNAL_SERVER_ERROR")
                        why = deepgram.Error(code=word, description=reason)
                        told.append(actions.SendBrowser(why))
                    browser = close_codes.NORMAL, reason
                    told.append(msgspec.structs.replace(action, browser=browser))
                case actions.SendSettings(settings=settings):
                    wanted = msgspec.structs.replace(settings, **self._wanted)
                    told.append(actions.SendSettings(wanted))
                case _:
                    told.append(action)
        return told


def _in_deepgrams_words(error: relay_events.RelayError) -> deepgram.Error:
    code = _CODES.get(error.code, error.code.upper())
    return deepgram.Error(description=error.detail, code=code)


def _ignored(settings: deepgram.Settings, agent: Agent) -> Iterator[str]:
    """The fields that a client has set and that change nothing."""
    if isinstance(settings.agent, str):
        yield "agent"
    else:
        yield from (f"agent.{name}" for name in settings.agent)
    yield from (f"flags.{name}" for name in settings.flags or {} if name != "history")
    yield from (name for name in ("tags", "experimental") if getattr(settings, name) is not None)
    if settings.mip_opt_out is False and agent.mip_opt_out is True:
        yield "mip_opt_out"


def _read_audio(audio: dict[str, Any], agent: Agent) -> tuple[Audio, list[str]]:
    """The `audio` of a client's Settings, and what is wrong with it."""
    output = audio.get("output")
    if isinstance(output, dict) and output.get("encoding") in ("mulaw", "alaw"):
        audio = {**audio, "output": {"sample_rate": 8000, **output}}  # Deepgram's default for them
    try:
        wish = msgspec.convert(audio, AudioWish)
    except msgspec.ValidationError as error:
        return DEFAULT_AUDIO, [f"audio: {error}"]
    return choose_audio(wish, DEFAULT_AUDIO, agent, containers=CONTAINERS)


SessionRules = Session | DeepgramSession
"""What a session runner needs of a session, whichever protocol its browser speaks."""
