"""How the sandbox agent behaves: access, timings, variants of the protocol, faults. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from relay.sandbox.script import Ending, Script

if TYPE_CHECKING:
    from relay.sandbox.speech import Speech
else:
    Speech = object  # loading the engines is the business of whoever wants them


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """An ending that comes by itself: `after` seconds since the socket opened, or when a client
    message of type `on` arrives ("Audio" for the first binary frame). With both, `after` counts
    from that message."""

    ending: Ending
    after: float | None = None
    on: str | None = None


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

    # --- timings
    welcome_delay: float | None = 0.005  # None: never
    settings_delay: float | None = 0.05  # None: never
    greeting_delay: float = 0.07
    think_delay: float = 0.3
    call_delay: float = 0.15  # from the end of thinking to FunctionCallRequest
    voice_delay: float = 0.09  # until the first audio, when no engine takes its own time
    history_delay: float = 0.038  # from a FunctionCallResponse to its History
    inject_delay: float = 0.3
    ack_delay: float = 0.2
    timeout: float = 15.0  # with nothing from the client
    session_seconds: float = 7200.0
    warning_seconds: float = 300.0  # before the end of the longest session
    silence: float = 0.7  # this much of it ends the user's turn

    # --- variants of the protocol, where versions of the service differ
    frame_ms: int = 20
    pace: float = 2.2  # audio inside a sentence, times real time
    echo_function_response: bool = True
    end_of_turn: bool = True
    end_of_thought: bool = False  # seen in 2025
    late_frames: int = 0  # binary frames still sent after a barge-in

    # --- faults
    faults: tuple[Fault, ...] = ()

    # --- what is kept for whoever looks at `Running.sessions`
    keep_audio: bool = False  # the received audio itself, not only its size
