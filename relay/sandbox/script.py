"""What a scripted agent does: turns from Python or from a YAML file, with no speech engine.

Pure. A script takes the place of the slot filler: relay tests and load tests say exactly what the
agent says, when, how long the audio is, which functions it calls and how the session ends.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from config.errors import Explained


class ScriptError(Explained):
    """A script that cannot be read; the text says where."""


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One function call. `arguments` as an object, or as raw text to send broken JSON."""

    name: str
    arguments: dict[str, Any] | str = {}
    id: str = ""  # empty: made up
    client_side: bool = True

    @property
    def text(self) -> str:
        """The arguments as they stand on the wire."""
        if isinstance(self.arguments, str):
            return self.arguments
        return msgspec.json.encode(self.arguments).decode()


class Ending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a session ends or breaks.

    error: an Error message, then a close without a status, as Deepgram does it
    close: a close frame with `code` and `reason`
    drop: the TCP connection goes away without a close frame
    half_open: the socket stays but nothing is read, sent or answered any more
    """

    kind: Literal["error", "close", "drop", "half_open"]
    code: int | str = 1000
    reason: str = ""


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One turn: begins, maybe has user words, then calls, then speech, then maybe the end.

    `when` says what begins it: "time" (`after` seconds since the turn before ended, or since
    SettingsApplied), "text" (the next InjectUserMessage), "audio" (`after` seconds of microphone
    audio since the turn before) or "speech" (the user was heard: needs speech engines).
    """

    when: Literal["time", "text", "audio", "speech"] = "time"
    after: float = 0.0
    user: str | None = None  # what the user is said to have said; not for "text" and "speech"
    speaks: float | None = 0.5  # seconds from UserStartedSpeaking to the text; None: not announced
    think: float | None = None  # seconds of thinking; None: as in the options
    calls: tuple[Call, ...] = ()
    together: bool = False  # all calls in one FunctionCallRequest
    awaits: bool = True  # go on only when the calls are answered
    cancel_after: float | None = None  # seconds until FunctionCallCancelled for what is open
    messages: tuple[dict[str, Any] | str, ...] = ()  # sent as they are; text may be malformed
    say: tuple[str, ...] = ()  # one sentence each
    seconds: float | None = None  # audio of each sentence; None: from the length of its text
    pace: float | None = None  # times real time; None: as in the options
    barge_in: float | None = None  # UserStartedSpeaking so many seconds into the speech
    end: Ending | None = None


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    turns: tuple[Turn, ...] = ()
    loop: bool = False  # begin again after the last turn
    echo: bool = False  # every microphone frame comes back as a frame of agent audio
    stamp: bool = False  # agent frames begin with STAMP (see audio.py)


def parse_script(text: str | bytes) -> Script:
    """A script from YAML (or JSON, which is YAML). Raises ScriptError."""
    try:
        return msgspec.yaml.decode(text, type=Script)
    except msgspec.DecodeError as error:
        raise ScriptError(str(error)) from None


class Progress:
    """Where we are in the script."""

    def __init__(self, script: Script | None) -> None:
        self._script = script or Script()
        self._index = 0
        self._heard = 0.0  # seconds of microphone since the turn before
        self._armed = False

    @property
    def upcoming(self) -> Turn | None:
        turns = self._script.turns
        if self._index >= len(turns) and self._script.loop:
            self._index = 0
        return turns[self._index] if self._index < len(turns) else None

    @property
    def on_user(self) -> Turn | None:
        """The turn that the next words of the user begin."""
        turn = self.upcoming
        return turn if turn is not None and turn.when in ("text", "speech") else None

    def arm(self) -> float | None:
        """The turn before is over: after how many seconds the next begins, if time begins it."""
        turn = self.upcoming
        self._heard = 0.0
        if turn is None or self._armed:
            return None
        if turn.when == "time":
            self._armed = True
            return turn.after
        return None

    def audio(self, seconds: float) -> bool:
        """More microphone audio came; True if it begins a turn."""
        turn = self.upcoming
        if turn is None or turn.when != "audio" or self._armed:
            return False
        self._heard += seconds
        self._armed = self._heard >= turn.after
        return self._armed

    def take(self) -> Turn:
        turn = self.upcoming
        assert turn is not None, "take() without an upcoming turn"
        self._index += 1
        self._armed = False
        self._heard = 0.0
        return turn
