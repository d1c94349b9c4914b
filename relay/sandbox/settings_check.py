"""Deepgram's strict reading of what clients send: which field of a message does not fit.

Pure, and written apart from `config.agent` on purpose: the relay's idea of valid Settings and the
sandbox's are two readings of the published schema, and one finds the mistakes of the other.

The tables below have one string for each object: its fields, `?` behind those that may be left
out, then what they hold; text if nothing is said.

    =a|b            one of these words          flag any number integer     as they say
    number(0..2)    within these limits         kind*   kind{}              a list, a map of it
    kind+           one, or a list of them      one/other                   either kind
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

UNKNOWN_FORMAT = "Text message received from client did not match any of the formats we expect."

MESSAGES = {
    "Settings": "audio:audio agent:text/agent tags?:text* experimental?:flag flags?:flags "
    "mip_opt_out?:flag",
    "UpdateListen": "listen:listen",
    "UpdateThink": "think:think+",
    "UpdateSpeak": "speak:speak+",
    "UpdatePrompt": "prompt",
    "InjectUserMessage": "content",
    "InjectAgentMessage": "message behavior?=default|queue|interrupt",
    # The published schema leaves `id` optional; Deepgram's pages say that clients must send it.
    "FunctionCallResponse": "id name content thought_signature?",
    "KeepAlive": "",
    "ForceEndTurn": "",
}
_OBJECTS = {
    "flags": "history?:flag",
    "audio": "input?:input output?:output",
    "input": "encoding=linear16|linear32|flac|alaw|mulaw|amr-nb|amr-wb|opus|ogg-opus|speex|g729 "
    "sample_rate:integer(1..)",
    "output": "encoding?=linear16|mulaw|alaw|mp3|opus|flac|aac sample_rate?:integer(1..) "
    "bitrate?:integer(1..) container?=none|wav|ogg",
    "agent": "language? context?:context listen?:listen think?:think+ speak?:speak+ greeting?",
    "endpoint": "url headers?:text{}",
    "context": "messages?:history*",
    "history_text": "type=History role=user|assistant content",
    "history_calls": "type=History function_calls:finished_call*",
    "finished_call": "id name client_side:flag arguments response thought_signature?",
    # --- listen
    "listen": "provider?:listen_provider",
    "listen_v1": "type=deepgram version?=v1 model? language? keyterms?:text* smart_format?:flag",
    "listen_v2": "type=deepgram model version?=v2 language_hints?:text* language_hint?:text* "
    "eot_threshold?:number(0.5..1) eager_eot_threshold?:number(0.3..0.9) "
    "eot_timeout_ms?:integer(500..60000) keyterms?:text*",
    # --- think
    "think": "provider:think_provider endpoint?:endpoint functions?:function* prompt? "
    "context_length?:=max/number(0..)",
    "think_provider": "type=open_ai|anthropic|google|groq|nvidia|aws_bedrock|deepgram model "
    "version? temperature?:number(0..2) reasoning_mode?=none|minimal|low|medium|high "
    "credentials?:text{} voice_prompt_opt_out?:flag",
    "function": "name? description? parameters?:any{} endpoint?:function_endpoint "
    "defer_until_eot?:flag",
    "function_endpoint": "url? method? headers?:text{}",
    # --- speak
    "speak": "provider:speak_provider endpoint?:endpoint",
    "speak_v1": "type version?=v1 model speed?:number(0..)",
    "speak_v2": "type version?=v2 model speed?:number(0..) expressivity?:integer(-2..2)",
    "speak_elsewhere": "type=eleven_labs|cartesia|open_ai|aws_polly version? model? model_id? "
    "voice?:any language? language_code? engine? volume?:number(0.5..2) credentials?:text{}",
    **MESSAGES,
    "InjectDynamicMessage": "is_dynamic:flag behavior?=default|queue|interrupt",
}

_TYPES: dict[str, Any] = {"any": object, "text": str, "number": (int, float), "integer": int}


def is_flux(provider: Mapping[str, Any]) -> bool:
    """Whether a listen or speak provider is of version v2; v1 is what is left out."""
    return bool(provider.get("version") == "v2")


def _variant(kind: str, value: dict[str, Any]) -> str:
    """The object that is meant, where that depends on what is in it."""
    match kind:
        case "history":
            return "history_calls" if "function_calls" in value else "history_text"
        case "InjectAgentMessage" if value.get("is_dynamic") is True:
            return "InjectDynamicMessage"
        case "speak_provider" if value.get("type") != "deepgram":
            return "speak_elsewhere"
        case "listen_provider" | "speak_provider":
            return kind.removesuffix("_provider") + ("_v2" if is_flux(value) else "_v1")
    return kind


def misfit(message: Any) -> str | None:
    """The description of the Error that this client message gets, or None if it is fine."""
    name = message.get("type") if isinstance(message, dict) else None
    if not isinstance(name, str) or name not in MESSAGES:
        return UNKNOWN_FORMAT
    fields = {key: value for key, value in message.items() if key != "type"}
    path = next(_misfits(name, fields, ""), None)
    if path is None:
        return None
    return f"Error parsing client message. Check the {path} field against the API spec."


def _misfits(kind: str, value: Any, path: str) -> Iterator[str]:
    """The dotted paths of what does not fit, the first one first."""
    inside = f"{path}." if path else ""
    if isinstance(value, dict):
        kind = _variant(kind, value)
    one, either, other = kind.partition("/")
    if either:
        if any(_misfits(one, value, path)):
            yield from _misfits(other, value, path)
    elif kind.endswith("+"):
        yield from _misfits(kind[:-1] + "*" * isinstance(value, list), value, path)
    elif kind.endswith("*") and isinstance(value, list):
        for at, each in enumerate(value):
            yield from _misfits(kind[:-1], each, f"{path}[{at}]")
    elif kind.endswith("{}") and isinstance(value, dict):
        for key, each in value.items():
            yield from _misfits(kind[:-2], each, inside + key)
    elif kind in _OBJECTS and isinstance(value, dict):
        fields = _fields(kind)
        for key, each in value.items():
            yield from _misfits(fields.get(key, "unknown").lstrip("!"), each, inside + key)
        for key, needed in fields.items():
            if needed.startswith("!") and key not in value:
                yield inside + key
    elif not _fits(kind, value):
        yield path


def field_names(kind: str) -> list[str]:
    """The fields of `Settings`, or of an object in it by its name there."""
    return list(_fields(kind))


@cache
def _fields(name: str) -> dict[str, str]:
    """The kind of each field of an object, with `!` before those that are required."""
    found = re.findall(r"(\w+)(\??)(=\S+)?(?::(\S+))?", _OBJECTS[name])
    return {
        field: ("" if optional else "!") + (words or kind or "text")
        for field, optional, words, kind in found
    }


def _fits(kind: str, value: Any) -> bool:
    if kind.startswith("="):
        return isinstance(value, str) and value in kind[1:].split("|")
    name, *limits = re.split(r"\(|\.\.", kind.rstrip(")"))
    if isinstance(value, bool):  # which would be an integer as well
        return name in ("flag", "any")
    if not isinstance(value, _TYPES.get(name, ())):  # none: an object, a list
        return False
    return not limits or float(limits[0]) <= value <= float(limits[1] or "inf")
