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
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

UNKNOWN_FORMAT = "Text message received from client did not match any of the formats we expect."

MESSAGES = {
    "Settings": "audio:audio agent:text/agent tags?:text* experimental?:flag flags?:flags "
    "mip_opt_out?:flag",
    "UpdateListen": "listen:listen",
    "UpdateThink": "think:think+",
    "UpdateThink_Live": "think_live:think_live",
    "UpdateSpeak": "speak:speak+",
    "UpdatePrompt": "prompt",
    "InjectUserMessage": "content",
    "InjectAgentMessage": "message behavior?=default|queue|interrupt",
    # The published schema leaves `id` optional; Deepgram's pages say that clients must send it.
    "FunctionCallResponse": "id name content thought_signature?",
    "KeepAlive": "",
    "ForceEndTurn": "",
    "__customToThinkProvider": "content:any",
}
_TEMPERATURE = "temperature?:number(0..2)"
_EFFORT = "reasoning_mode?=none|minimal|low|medium|high"
_OBJECTS = {
    "flags": "history?:flag",
    "audio": "input?:input output?:output",
    "input": "encoding=linear16|linear32|flac|alaw|mulaw|amr-nb|amr-wb|opus|ogg-opus|speex|g729 "
    "sample_rate:integer(1..)",
    "output": "encoding?=linear16|mulaw|alaw|mp3|opus|flac|aac sample_rate?:integer(1..) "
    "bitrate?:integer(1..) container?=none|wav|ogg",
    "agent": "language? context?:context listen?:listen think?:think+ think_live?:think_live "
    "speak?:speak+ greeting?",
    "endpoint": "url headers?:text{}",
    "context": "messages?:history*",
    "history_text": "type=History role=user|assistant content",
    "history_calls": "type=History function_calls:finished_call*",
    "finished_call": "id name client_side:flag arguments response thought_signature?",
    "dynamic": "is_dynamic:flag behavior?=default|queue|interrupt",
    # --- listen
    "listen": "provider?:listen_provider",
    "listen_v1": "type=deepgram version?=v1 model? language? keyterms?:text* smart_format?:flag",
    "listen_v2": "type=deepgram model version?=v2 language_hints?:text* language_hint?:text* "
    "eot_threshold?:number(0.5..1) eager_eot_threshold?:number(0.3..0.9) "
    "eot_timeout_ms?:integer(500..60000) keyterms?:text*",
    # --- think
    "think": "provider:think_provider endpoint?:endpoint functions?:function* prompt? "
    "context_length?:=max/number(0..)",
    "think.open_ai": f"type model version?=v1 {_TEMPERATURE} {_EFFORT}",
    "think.anthropic": "type model version?=v1 temperature?:number(0..1)",
    "think.google": f"type model {_TEMPERATURE} "
    "version?=v1beta|ai-studio-v1beta|gemini-enterprise-agent-v1",
    "think.groq": f"type model version?=v1 {_TEMPERATURE} {_EFFORT}",
    "think.nvidia": f"type model version?=v1 {_TEMPERATURE}",
    "think.aws_bedrock": f"type model {_TEMPERATURE} credentials?:bedrock_credentials",
    "bedrock_credentials": "type?=sts|iam region? access_key_id? secret_access_key? session_token?",
    "function": "name? description? parameters?:any{} endpoint?:function_endpoint "
    "defer_until_eot?:flag initial_agent_filler?:any agent_filler_max_count?:integer(0..) "
    "agent_filler_interval_ms?:integer(1000..60000)",
    "function_endpoint": "url? method? headers?:text{}",
    "think_live": "provider:think_live_provider",
    "think_live_provider": "type=deepgram version?=v1 agent_backchannel_sensitivity?:number(0..) "
    "presence_check_max_count?:integer(0..) presence_check_interval_ms?:integer(3000..) "
    "frustration_max_count?:integer(0..) restricted_terms?:text*",
    # --- speak
    "speak": "provider:speak_provider endpoint?:endpoint",
    "speak_v1": "type model version?=v1 speed?:number(0..)",
    "speak_v2": "type model version?=v2 expressivity?:integer(-2..2)",
    "speak.eleven_labs": "type model_id version?=v1 language? language_code?",
    "speak.cartesia": "type model_id voice:cartesia_voice version?=2025-03-17 language? "
    "volume?:number(0.5..2)",
    "cartesia_voice": "mode id",
    "speak.open_ai": "type model=tts-1|tts-1-hd voice version?=v1",
    "speak.aws_polly": "type voice language engine=generative|long-form|standard|neural "
    "credentials:polly_credentials language_code?",
    "polly_credentials": "type=sts|iam region access_key_id secret_access_key session_token?",
    **MESSAGES,
}


def is_flux(provider: Mapping[str, Any]) -> bool:
    """Whether a listen provider means Flux: by its version, or by its model when that is left."""
    version = provider.get("version")
    if version is None:
        return str(provider.get("model", "")).startswith("flux")
    return bool(version == "v2")


def _by_version(value: dict[str, Any], prefix: str) -> str | None:
    if value.get("version") not in (None, "v1", "v2"):
        return None
    return f"{prefix}_v2" if is_flux(value) else f"{prefix}_v1"


# Which object it is depends on what is in it; None: the field that is named says something unknown.
_VARIANTS: dict[str, tuple[str, Callable[[dict[str, Any]], str | None]]] = {
    "listen_provider": ("version", lambda value: _by_version(value, "listen")),
    "think_provider": ("type", lambda value: f"think.{value.get('type')}"),
    "speak_provider": ("type", lambda value: f"speak.{value.get('type')}"),
    "speak.deepgram": ("version", lambda value: _by_version(value, "speak")),
    "history": (
        "type",
        lambda value: "history_calls" if "function_calls" in value else "history_text",
    ),
}


def misfit(message: Any) -> str | None:
    """The description of the Error that this client message gets, or None if it is fine."""
    name = message.get("type") if isinstance(message, dict) else None
    if not isinstance(name, str) or name not in MESSAGES:
        return UNKNOWN_FORMAT
    if name == "InjectAgentMessage" and message.get("is_dynamic") is True:
        name = "dynamic"
    fields = {key: value for key, value in message.items() if key != "type"}
    path = next(_misfits(name, fields, ""), None)
    if path is None:
        return None
    return f"Error parsing client message. Check the {path} field against the API spec."


def _misfits(kind: str, value: Any, path: str) -> Iterator[str]:
    """The dotted paths of what does not fit, the first one first."""
    inside = f"{path}." if path else ""
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
    elif kind in _VARIANTS and isinstance(value, dict):
        field, pick = _VARIANTS[kind]
        variant = str(pick(value))
        if variant in _OBJECTS or variant in _VARIANTS:
            yield from _misfits(variant, value, path)
        else:
            yield inside + field
    elif kind in _OBJECTS and isinstance(value, dict):
        fields = _fields(kind)
        for key, each in value.items():
            if key in fields:
                yield from _misfits(fields[key].lstrip("!"), each, inside + key)
            else:
                yield inside + key
        for key, needed in fields.items():
            if needed.startswith("!") and key not in value:
                yield inside + key
    elif not _fits(kind, value):
        yield path


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
    match kind:
        case "any":
            return True
        case "text":
            return isinstance(value, str)
        case "flag":
            return isinstance(value, bool)
    name, *limits = re.split(r"\(|\.\.", kind.rstrip(")"))
    types = {"number": (int, float), "integer": (int,)}.get(name, ())  # none: an object, a list
    if isinstance(value, bool) or not isinstance(value, types):
        return False
    return float(limits[0]) <= value <= float(limits[1] or "inf")
