"""Deepgram's strict reading of what clients send: which field of a message does not fit.

Pure, and written apart from `config.agent` on purpose: the relay's idea of valid Settings and the
sandbox's are two readings of the published schema, and one finds the mistakes of the other.
A check takes a value and its dotted path and returns the path of the first misfit, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any, str], str | None]

UNPARSABLE = "UNPARSABLE_CLIENT_MESSAGE"
UNKNOWN_FORMAT = "Text message received from client did not match any of the formats we expect."


def misfit(message: Mapping[str, Any]) -> str | None:
    """The description of the Error that this client message gets, or None if it is fine."""
    name = message.get("type")
    check = MESSAGES.get(name) if isinstance(name, str) else None
    if check is None:
        return UNKNOWN_FORMAT
    path = check({key: value for key, value in message.items() if key != "type"}, "")
    if path is None:
        return None
    return f"Error parsing client message. Check the {path} field against the API spec."


# --- the parts that checks are made of -------------------------------------------------------


def text(value: Any, path: str) -> str | None:
    return None if isinstance(value, str) else path


def flag(value: Any, path: str) -> str | None:
    return None if isinstance(value, bool) else path


def anything(value: Any, path: str) -> str | None:
    return None


def number(low: float = float("-inf"), high: float = float("inf")) -> Check:
    def check(value: Any, path: str) -> str | None:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        return None if fits and low <= value <= high else path

    return check


def integer(low: float = float("-inf"), high: float = float("inf")) -> Check:
    def check(value: Any, path: str) -> str | None:
        fits = isinstance(value, int) and not isinstance(value, bool)
        return None if fits and low <= value <= high else path

    return check


def one_of(*values: str) -> Check:
    def check(value: Any, path: str) -> str | None:
        return None if isinstance(value, str) and value in values else path

    return check


def list_of(item: Check) -> Check:
    def check(value: Any, path: str) -> str | None:
        if not isinstance(value, list):
            return path
        for index, entry in enumerate(value):
            if wrong := item(entry, f"{path}[{index}]"):
                return wrong
        return None

    return check


def map_of(item: Check) -> Check:
    def check(value: Any, path: str) -> str | None:
        if not isinstance(value, dict):
            return path
        for key, entry in value.items():
            if wrong := item(entry, _join(path, key)):
                return wrong
        return None

    return check


def fields(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    known = {**required, **(optional or {})}

    def check(value: Any, path: str) -> str | None:
        if not isinstance(value, dict):
            return path
        for key, entry in value.items():
            if key not in known:
                return _join(path, key)
            if wrong := known[key](entry, _join(path, key)):
                return wrong
        missing = next((key for key in required if key not in value), None)
        return _join(path, missing) if missing else None

    return check


def chosen_by(key: str, variants: Mapping[str, Check]) -> Check:
    """The field `key` of the object says which of the variants it has to fit."""

    def check(value: Any, path: str) -> str | None:
        if not isinstance(value, dict):
            return path
        variant = value.get(key)
        if not isinstance(variant, str) or variant not in variants:
            return _join(path, key)
        return variants[variant](value, path)

    return check


def one_or_more(item: Check) -> Check:
    """An object, or an array of them in the order in which they are tried."""
    several = list_of(item)

    def check(value: Any, path: str) -> str | None:
        return several(value, path) if isinstance(value, list) else item(value, path)

    return check


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


# --- listen ----------------------------------------------------------------------------------

_LISTEN_V1 = fields(
    {"type": one_of("deepgram")},
    {
        "version": one_of("v1"),
        "model": text,
        "language": text,
        "keyterms": list_of(text),
        "smart_format": flag,
    },
)
_LISTEN_V2 = fields(
    {"type": one_of("deepgram"), "model": text},
    {
        "version": one_of("v2"),
        "language_hints": list_of(text),
        "language_hint": list_of(text),
        "eot_threshold": number(0.5, 1.0),
        "eager_eot_threshold": number(0.3, 0.9),
        "eot_timeout_ms": integer(500, 60000),
        "keyterms": list_of(text),
    },
)


def is_flux(provider: Mapping[str, Any]) -> bool:
    """Whether a listen provider means Flux: by its version, or by its model when that is left."""
    version = provider.get("version")
    if version is None:
        return str(provider.get("model", "")).startswith("flux")
    return bool(version == "v2")


def _listen_provider(value: Any, path: str) -> str | None:
    if not isinstance(value, dict):
        return path
    if value.get("version") not in (None, "v1", "v2"):
        return _join(path, "version")
    return (_LISTEN_V2 if is_flux(value) else _LISTEN_V1)(value, path)


_LISTEN = fields({}, {"provider": _listen_provider})

# --- think -----------------------------------------------------------------------------------

_ENDPOINT = fields({"url": text}, {"headers": map_of(text)})
_EFFORT = one_of("none", "minimal", "low", "medium", "high")


def _think_of(name: str, **more: Check) -> Check:
    return fields({"type": one_of(name), "model": text}, more)


_THINK_PROVIDER = chosen_by(
    "type",
    {
        "open_ai": _think_of(
            "open_ai", version=one_of("v1"), temperature=number(0, 2), reasoning_mode=_EFFORT
        ),
        "anthropic": _think_of("anthropic", version=one_of("v1"), temperature=number(0, 1)),
        "google": _think_of(
            "google",
            version=one_of("v1beta", "ai-studio-v1beta", "gemini-enterprise-agent-v1"),
            temperature=number(0, 2),
        ),
        "groq": _think_of(
            "groq", version=one_of("v1"), temperature=number(0, 2), reasoning_mode=_EFFORT
        ),
        "nvidia": _think_of("nvidia", version=one_of("v1"), temperature=number(0, 2)),
        "aws_bedrock": _think_of(
            "aws_bedrock",
            temperature=number(0, 2),
            credentials=fields(
                {},
                {
                    "type": one_of("sts", "iam"),
                    "region": text,
                    "access_key_id": text,
                    "secret_access_key": text,
                    "session_token": text,
                },
            ),
        ),
    },
)


def _context_length(value: Any, path: str) -> str | None:
    return None if value == "max" else number(0)(value, path)


_FUNCTION = fields(
    {},
    {
        "name": text,
        "description": text,
        "parameters": map_of(anything),
        "endpoint": fields({}, {"url": text, "method": text, "headers": map_of(text)}),
        "defer_until_eot": flag,
        "initial_agent_filler": anything,
        "agent_filler_max_count": integer(0),
        "agent_filler_interval_ms": integer(1000, 60000),
    },
)
_THINK = fields(
    {"provider": _THINK_PROVIDER},
    {
        "endpoint": _ENDPOINT,
        "functions": list_of(_FUNCTION),
        "prompt": text,
        "context_length": _context_length,
    },
)
_THINK_LIVE = fields(
    {
        "provider": fields(
            {"type": one_of("deepgram")},
            {
                "version": one_of("v1"),
                "agent_backchannel_sensitivity": number(0),
                "presence_check_max_count": integer(0),
                "presence_check_interval_ms": integer(3000),
                "frustration_max_count": integer(0),
                "restricted_terms": list_of(text),
            },
        )
    }
)

# --- speak -----------------------------------------------------------------------------------

_SPEAK_V1 = fields(
    {"type": one_of("deepgram"), "model": text},
    {"version": one_of("v1"), "speed": number(0)},
)
_SPEAK_V2 = fields(
    {"type": one_of("deepgram"), "model": text},
    {"version": one_of("v2"), "expressivity": integer(-2, 2)},
)


def _deepgram_speak(value: Any, path: str) -> str | None:
    if value.get("version") not in (None, "v1", "v2"):
        return _join(path, "version")
    return (_SPEAK_V2 if is_flux(value) else _SPEAK_V1)(value, path)


_SPEAK_PROVIDER = chosen_by(
    "type",
    {
        "deepgram": _deepgram_speak,
        "eleven_labs": fields(
            {"type": text, "model_id": text},
            {"version": one_of("v1"), "language": text, "language_code": text},
        ),
        "cartesia": fields(
            {"type": text, "model_id": text, "voice": fields({"mode": text, "id": text})},
            {"version": one_of("2025-03-17"), "language": text, "volume": number(0.5, 2.0)},
        ),
        "open_ai": fields(
            {"type": text, "model": one_of("tts-1", "tts-1-hd"), "voice": text},
            {"version": one_of("v1")},
        ),
        "aws_polly": fields(
            {
                "type": text,
                "voice": text,
                "language": text,
                "engine": one_of("generative", "long-form", "standard", "neural"),
                "credentials": fields(
                    {
                        "type": one_of("sts", "iam"),
                        "region": text,
                        "access_key_id": text,
                        "secret_access_key": text,
                    },
                    {"session_token": text},
                ),
            },
            {"language_code": text},
        ),
    },
)
_SPEAK = fields({"provider": _SPEAK_PROVIDER}, {"endpoint": _ENDPOINT})

# --- messages --------------------------------------------------------------------------------

_SAID = fields(
    {"type": one_of("History"), "role": one_of("user", "assistant"), "content": text},
)
_CALLED = fields(
    {
        "type": one_of("History"),
        "function_calls": list_of(
            fields(
                {
                    "id": text,
                    "name": text,
                    "client_side": flag,
                    "arguments": text,
                    "response": text,
                },
                {"thought_signature": text},
            )
        ),
    },
)


def _history(value: Any, path: str) -> str | None:
    called = isinstance(value, dict) and "function_calls" in value
    return (_CALLED if called else _SAID)(value, path)


_INPUT = fields(
    {
        "encoding": one_of(
            "linear16", "linear32", "flac", "alaw", "mulaw", "amr-nb", "amr-wb", "opus",
            "ogg-opus", "speex", "g729",
        ),
        "sample_rate": integer(1),
    }
)  # fmt: skip
_OUTPUT = fields(
    {},
    {
        "encoding": one_of("linear16", "mulaw", "alaw", "mp3", "opus", "flac", "aac"),
        "sample_rate": integer(1),
        "bitrate": integer(1),
        "container": one_of("none", "wav", "ogg"),
    },
)
_AGENT = fields(
    {},
    {
        "language": text,
        "context": fields({}, {"messages": list_of(_history)}),
        "listen": _LISTEN,
        "think": one_or_more(_THINK),
        "think_live": _THINK_LIVE,
        "speak": one_or_more(_SPEAK),
        "greeting": text,
    },
)


def _agent(value: Any, path: str) -> str | None:
    return None if isinstance(value, str) else _AGENT(value, path)


def _injected(value: Any, path: str) -> str | None:
    dynamic = isinstance(value, dict) and value.get("is_dynamic") is True
    required = {"is_dynamic": flag} if dynamic else {"message": text}
    return fields(required, {"behavior": one_of("default", "queue", "interrupt")})(value, path)


MESSAGES: Mapping[str, Check] = {
    "Settings": fields(
        {"audio": fields({}, {"input": _INPUT, "output": _OUTPUT}), "agent": _agent},
        {
            "tags": list_of(text),
            "experimental": flag,
            "flags": fields({}, {"history": flag}),
            "mip_opt_out": flag,
        },
    ),
    "UpdateListen": fields({"listen": _LISTEN}),
    "UpdateThink": fields({"think": one_or_more(_THINK)}),
    "UpdateThink_Live": fields({"think_live": _THINK_LIVE}),
    "UpdateSpeak": fields({"speak": one_or_more(_SPEAK)}),
    "UpdatePrompt": fields({"prompt": text}),
    "InjectUserMessage": fields({"content": text}),
    "InjectAgentMessage": _injected,
    # The published schema leaves `id` optional; Deepgram's pages say that clients must send it.
    "FunctionCallResponse": fields(
        {"id": text, "name": text, "content": text}, {"thought_signature": text}
    ),
    "KeepAlive": fields({}),
    "ForceEndTurn": fields({}),
    "__customToThinkProvider": fields({"content": anything}),
}
