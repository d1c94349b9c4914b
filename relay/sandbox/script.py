"""What a scripted agent does: turns from Python or from a YAML file, with no speech engine.

Pure. A script takes the place of the slot filler: tests say exactly what the agent says, when, how
long the audio is, which functions it calls and how the session ends.
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
    """

    kind: Literal["error", "close", "drop"]
    code: int | str = 1000
    reason: str = ""


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One turn: begins, maybe has user words, then calls, then speech, then maybe the end.

    `when` says what begins it: "time" (`after` seconds since the turn before ended, or since
    SettingsApplied), "text" (the next words of the user) or "audio" (`after` seconds of microphone
    audio since the turn before).
    """

    when: Literal["time", "text", "audio"] = "time"
    after: float = 0.0
    user: str | None = None  # what the user is said to have said; not for "text"
    calls: tuple[Call, ...] = ()
    together: bool = False  # all calls in one FunctionCallRequest
    say: tuple[str, ...] = ()  # one sentence each
    seconds: float | None = None  # audio of each sentence; None: from the length of its text
    pace: float | None = None  # times real time; None: as in the options
    barge_in: float | None = None  # UserStartedSpeaking so many seconds into the speech
    end: Ending | None = None


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    turns: tuple[Turn, ...] = ()
    loop: bool = False  # begin again after the last turn


def parse_script(text: str | bytes) -> Script:
    """A script from YAML (or JSON, which is YAML). Raises ScriptError."""
    try:
        return msgspec.yaml.decode(text, type=Script)
    except msgspec.DecodeError as error:
        raise ScriptError(str(error)) from None
