"""A session whose browser speaks Deepgram's own protocol: official clients, unchanged. Pure.

Wraps a `Session` and looks like one. Before it there is a wait for the client's Settings, of which
only the audio and `flags.history` count; after that, what the session asks for is put into
Deepgram's words: no `Relay…` event, an `Error` where something is wrong, and 1000 as the only close
code, because Deepgram's JavaScript SDK dials again after any other and never sends Settings again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from config.agent import Agent, Audio, AudioInput, AudioOutput
from relay.core import actions
from relay.core.actions import Action
from relay.core.admitted import Admitted
from relay.core.agent_lifecycle import State
from relay.core.events import (
    AgentClosed,
    AgentOpened,
    AgentUnreachable,
    BrowserAttached,
    BrowserClosed,
    BrowserReturning,
    ControlFrame,
    EndReason,
    Event,
    FromAgent,
    FromBrowser,
    FunctionReturned,
    FunctionStarted,
    GoAway,
    HangUp,
    MessageStored,
    NotAudio,
    Woken,
)
from relay.core.session import Session
from relay.protocol import close_codes, deepgram, relay_events
from relay.protocol.audio_formats import AudioWish, choose_audio

SETTINGS_SECONDS = 15.0  # Deepgram waits 10 to 15 s for Settings
MAX_EARLY = 16  # before Settings an agent says Welcome, and nothing else
MAX_CONTROLS = 40  # pings of a client before its Settings; one every some seconds is usual
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
        self._admitted = admitted
        self._agent = agent
        self._begin = begin
        self._settings_by = now + SETTINGS_SECONDS
        self._session: Session | None = None
        self._early: list[Event] = []  # of an agent that was dialled ahead
        self._controls = 0
        self._wanted: dict[str, Any] = {}  # of the client's Settings, for each agent

    def __repr__(self) -> str:
        return f"<DeepgramSession {self._session!r}>"

    @property
    def admitted(self) -> Admitted:
        """As of a `Session`; the audio is what the client's Settings ask for, once they came."""
        return self._admitted

    @property
    def deadline(self) -> float | None:
        """The monotonic second at which `Woken` is wanted; None once closed."""
        return self._settings_by if self._session is None else self._session.deadline

    @property
    def most(self) -> tuple[float, float]:
        """As of a `Session`: frames and bytes of audio. Before Settings none passes at all."""
        return (math.inf, math.inf) if self._session is None else self._session.most

    def begin(self) -> list[Action]:
        """The client's WebSocket is open. Our Welcome, so that nobody waits for the agent's."""
        welcome = deepgram.Welcome(request_id=str(self._admitted.session_id))
        return [actions.SendBrowser(welcome)]

    def decode(self, text: bytes) -> deepgram.ClientMessage | deepgram.Unknown | deepgram.Malformed:
        """As of a `Session`; the client's Settings may be longer than all that comes after them."""
        if self._session is None:
            return deepgram.decode_client(text)
        return self._session.decode(text)

    def accepts_audio(self, payload: bytes | memoryview) -> bool:
        """As of a `Session`; before Settings nothing is accepted."""
        return self._session is not None and self._session.accepts_audio(payload)

    def admits(self, ticket: str, browser_frames: int) -> bool:
        """Never: there is no way back in this protocol."""
        return False

    def handle(self, event: Event, now: float) -> list[Action]:
        """Apply one event at monotonic second `now`; what has to be done, in order."""
        if self._session is None:
            return self._before_settings(event, now)
        if self._session.state is State.CLOSED:
            return []
        if isinstance(event, FromBrowser) and isinstance(event.message, deepgram.Settings):
            return self._refuse("SETTINGS_ALREADY_APPLIED", "Settings were sent already", now)
        left = isinstance(event, BrowserClosed)
        passes = not (isinstance(event, FromAgent) and isinstance(event.message, deepgram.Welcome))
        return self._told(self._session.handle(event, now), left=left, passes=passes)

    # --- before Settings ---------------------------------------------------------------------

    def _before_settings(self, event: Event, now: float) -> list[Action]:
        match event:
            case FromBrowser(deepgram.Settings() as settings):
                return self._settle(settings, now)
            case FromBrowser(deepgram.Malformed(type="Settings", reason=reason)):
                return self._refuse("UNPARSABLE_CLIENT_MESSAGE", f"Settings: {reason}", now)
            case FromBrowser():
                return self._refuse_other("another message", now)
            case NotAudio():
                return self._refuse_other("audio", now)
            case ControlFrame():
                self._controls += 1
                is_flood = self._controls > MAX_CONTROLS
                return self._refuse_other("pings", now) if is_flood else []
            case FromAgent() | AgentOpened() | AgentClosed() | AgentUnreachable():
                if len(self._early) < MAX_EARLY:
                    self._early.append(event)
                return []
            case Woken():
                if now < self._settings_by:
                    return []
                waited = f"no Settings came within {SETTINGS_SECONDS:.0f} s"
                return self._refuse("CLIENT_MESSAGE_TIMEOUT", waited, now)
            case BrowserClosed() | HangUp() | GoAway():  # an end: the session knows how
                left = isinstance(event, BrowserClosed)
                return self._told(self._start(now).handle(event, now), left=left)
            case (  # exhaustive: these are of a session, and there is none yet
                BrowserReturning()
                | BrowserAttached()
                | MessageStored()
                | FunctionStarted()
                | FunctionReturned()
            ):
                return []

    def _settle(self, settings: deepgram.Settings, now: float) -> list[Action]:
        audio, mistakes = _read_audio(settings.audio, self._agent)
        if mistakes:
            return self._refuse("INVALID_SETTINGS", "; ".join(mistakes), now)
        history = (settings.flags or {}).get("history", True)  # Deepgram's default
        self._admitted = msgspec.structs.replace(self._admitted, audio=audio)
        self._wanted = {
            "audio": msgspec.to_builtins(audio),
            "flags": {"history": history is not False},
        }
        session = self._start(now)
        asked = session.begin()
        early, self._early = self._early, []
        for event in early:
            asked += session.handle(event, now)
        return self._told(asked, passes=False)

    def _start(self, now: float) -> Session:
        self._session = self._begin(self._admitted, now)
        return self._session

    def _refuse_other(self, what: str, now: float) -> list[Action]:
        text = f"expected Settings as the first message, got {what}"
        return self._refuse("NON_SETTINGS_MESSAGE_BEFORE_SETTINGS", text, now)

    def _refuse(self, code: str, description: str, now: float) -> list[Action]:
        """The end for something that is wrong with Settings, told as Deepgram tells it."""
        session = self._session or self._start(now)
        error = deepgram.Error(description=description[:MAX_DESCRIPTION], code=code)
        end = session.handle(HangUp(EndReason.BAD_SETTINGS, code), now)
        return [actions.SendBrowser(error), *self._told(end)]

    # --- in Deepgram's words -----------------------------------------------------------------

    def _told(
        self, asked: list[Action], *, left: bool = False, passes: bool = True
    ) -> list[Action]:
        """What the session asked for, as this client may see it.

        `left`: it is gone and needs no word; `passes`: the frame being handled may be forwarded.
        """
        told: list[Action] = []
        is_explained = left
        for action in asked:
            match action:
                case actions.Forward():
                    told += [action] if passes else []
                case actions.SendBrowser(event=relay_events.RelayError(code=code, detail=detail)):
                    is_explained = True
                    words = _error(_CODES.get(code, code.upper()), detail)
                    told.append(actions.SendBrowser(words))
                case actions.Refuse(error=relay_events.RelayError() as error):
                    words = _error(_CODES.get(error.code, error.code.upper()), error.detail)
                    told.append(actions.Refuse(words, error.code))
                case actions.SendBrowser(event=event):
                    is_explained = is_explained or isinstance(event, deepgram.Error)
                    told += [action] if isinstance(event, relay_events.OfDeepgram) else []
                case actions.CloseBrowser(code=code, reason=reason):
                    if code != close_codes.NORMAL and not is_explained:
                        words = _error(_CLOSED.get(code, "INTERNAL_SERVER_ERROR"), reason)
                        told.append(actions.SendBrowser(words))
                    told.append(actions.CloseBrowser(close_codes.NORMAL, reason))
                case actions.SendSettings(settings=settings):
                    wanted = msgspec.structs.replace(settings, **self._wanted)
                    told.append(actions.SendSettings(wanted))
                case _:
                    told.append(action)
        return told


def _error(code: str, description: str) -> deepgram.Error:
    return deepgram.Error(description=description, code=code)


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
