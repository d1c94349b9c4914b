"""What Settings say, as far as it matters to the sandbox. Pure."""

from __future__ import annotations

from collections.abc import Iterator
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
    bad_speed: bool = False  # found when the voice is needed


def cannot_be_had(settings: dict[str, Any]) -> Iterator[str]:
    """What is wrong with well-formed Settings, in sections that Deepgram names."""
    agent = settings["agent"]
    listen = agent.get("listen", {}).get("provider", {})
    keyterms = listen.get("keyterms", ())
    if str(listen.get("model")).startswith("flux") is not settings_check.is_flux(listen):
        yield "agent.listen settings - model and version do not fit"
    if settings_check.is_flux(listen) and len(keyterms) > 100:
        yield "agent.listen settings - more than 100 keyterms"
    if not settings_check.is_flux(listen) and len(" ".join(keyterms).split()) > 500:
        yield "agent.listen settings - more than 500 tokens of keyterms"
    for think in one_or_more(agent.get("think", [])):
        provider = think["provider"]
        if provider["type"] in ("groq", "aws_bedrock") and "endpoint" not in think:
            yield f"agent.think settings - {provider['type']} needs an endpoint"
        if provider["model"] == "think-fast" and settings.get("mip_opt_out"):
            yield "agent.think settings - think-fast needs the Model Improvement Program"
    voices = [speak["provider"] for speak in one_or_more(agent.get("speak", []))]
    output = settings["audio"].get("output", {})
    if output.get("sample_rate") == 44100 and not all(map(settings_check.is_flux, voices)):
        yield "audio.output settings - 44100 is for Flux voices"


def one_or_more(section: dict[str, Any] | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return section if isinstance(section, list) else [section]


def _has_bad_speed(voice: dict[str, Any]) -> bool:
    speed = voice.get("speed", 1.0)
    if settings_check.is_flux(voice):
        return not 0.5 <= speed <= 1.5 or bool(round(speed * 20, 6) % 1)
    return not 0.7 <= speed <= 1.5


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
    if wrong := next(cannot_be_had(settings), None):
        raise ValueError(f"Invalid {wrong}.")
    voices = one_or_more(agent.get("speak", []))
    return AppliedSettings(
        history=settings.get("flags", {}).get("history", True),
        experimental=settings.get("experimental", False),
        flux=settings_check.is_flux(agent.get("listen", {}).get("provider", {})),
        greeting=agent.get("greeting", ""),
        input=Format(audio_in.get("encoding", "linear16"), audio_in.get("sample_rate", 24000)),
        output=Format(encoding, rate),
        container=container,
        bad_speed=any(_has_bad_speed(voice["provider"]) for voice in voices[:1]),
    )
