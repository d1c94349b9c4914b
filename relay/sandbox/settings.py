"""What Settings say, as far as it matters to the sandbox. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from relay.protocol.audio_formats import OUTPUT_RATES
from relay.sandbox import settings_check
from relay.sandbox.audio import Format


class AppliedSettings(msgspec.Struct, frozen=True, kw_only=True):
    history: bool = True
    experimental: bool = False
    flux: bool = False
    greeting: str = ""
    input: Format = Format()
    output: Format = Format()
    container: str = "none"


def read_settings(settings: dict[str, Any]) -> AppliedSettings:
    """What Settings with an agent say. Raises ValueError for what is well-formed but cannot be
    had."""
    agent = settings["agent"]
    audio_in = settings["audio"].get("input", {})
    audio_out = settings["audio"].get("output", {})
    encoding = audio_out.get("encoding", "linear16")
    rate = audio_out.get("sample_rate", 24000 if encoding == "linear16" else 8000)
    if rate not in OUTPUT_RATES.get(encoding, ()):
        raise ValueError(f"Invalid audio.output settings - {encoding} at {rate} is not available.")
    container = audio_out.get("container", "none")
    if container not in ("none", "wav"):
        raise ValueError("Invalid audio.output settings - container is not available.")
    return AppliedSettings(
        history=settings.get("flags", {}).get("history", True),
        experimental=settings.get("experimental", False),
        flux=settings_check.is_flux(agent.get("listen", {}).get("provider", {})),
        greeting=agent.get("greeting", ""),
        input=Format(audio_in.get("encoding", "linear16"), audio_in.get("sample_rate", 24000)),
        output=Format(encoding, rate),
        container=container,
    )
