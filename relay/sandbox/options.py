"""How the sandbox agent behaves: access, timings, faults. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from relay.sandbox.script import Ending, Script

if TYPE_CHECKING:
    # Loading the engines is the business of whoever wants them.
    from relay.sandbox.speech import Speech


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of the sandbox. Times in seconds; defaults as seen at Deepgram (docs/protocol.md),
    on the quick side."""

    # --- who may come in
    api_key: str | None = None  # None: any credential, but there must be one
    refuse: int | None = None  # HTTP status instead of the upgrade
    handshake_delay: float = 0.0

    # --- what drives it: a script, or else the slot filler; with speech engines or without
    script: Script | None = None
    speech: Speech | None = None
    hasty: bool = False  # the slot filler calls without asking whether it is right
    forgets_deadlines: bool = False  # as with a prompt that lost them: none is asked for or taken

    # --- timings
    welcome_delay: float | None = 0.005  # None: never
    settings_delay: float | None = 0.05  # None: never
    greeting_delay: float = 0.07
    think_delay: float = 0.3
    call_delay: float = 0.15  # from the end of thinking to FunctionCallRequest
    voice_delay: float = 0.09  # until the first audio, when no engine takes its own time
    timeout: float = 15.0  # with nothing from the client
    silence: float = 0.7  # this much of it ends the user's turn
    pause: float = 0.3  # this much of it may be the end: what is not deferred is called already
    pace: float = 2.2  # audio inside a sentence, times real time

    # --- faults
    late_frames: int = 0  # binary frames still sent after a barge-in
    faults: Mapping[str, Ending] = {}  # when a client message of this type arrives

    # --- what is kept for whoever looks at `Running.sessions`
    keep_audio: bool = False  # the received audio itself, not only its size
