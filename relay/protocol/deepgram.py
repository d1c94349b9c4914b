"""The messages of the Deepgram Voice Agent API V1, as structs; decode and encode.

Pure. Facts come from Deepgram's AsyncAPI description and SDKs (docs/protocol.md lists sources and
doubts). We are strict in what we send and tolerant in what we receive: a field that we do not know
is ignored, a type that we do not know decodes to `Unknown`. Whoever forwards a message forwards
the text it arrived as, never one encoded again.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import msgspec

from config.nesting import flatten

Role = Literal["user", "assistant"]

# What is said by the way (`conversational_behavior`), without taking the turn.
_NO_TURN = ("backchannel", "presence_check", "filler")


class Message(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True, kw_only=True):
    """One JSON object with a `type`; optional fields at their default are not written."""


class Notice(Message, frozen=True):
    """What no rule of ours looks at."""


# --- server to client ------------------------------------------------------------------------


class Welcome(Message, frozen=True, tag=True):
    request_id: str


class SettingsApplied(Message, frozen=True, tag=True):
    pass


class ConversationText(Message, frozen=True, tag=True):
    """What was said: a whole user turn, or one sentence of the agent."""

    role: Role
    content: str
    conversational_behavior: Any = None
    languages_hinted: Any = None
    languages: Any = None

    @property
    def is_turn(self) -> bool:
        """False: said by the way, the turn stays whose it is."""
        return self.conversational_behavior not in _NO_TURN


class UserStartedSpeaking(Message, frozen=True, tag=True):
    pass


class EndOfTurn(Notice, frozen=True, tag=True):
    trigger: str | None = None


class AgentThinking(Notice, frozen=True, tag=True, omit_defaults=False):
    """`content` is what the model reasons, tools included."""

    content: str = ""


class AgentStartedSpeaking(Notice, frozen=True, tag=True):
    total_latency: float | None = None
    tts_latency: float | None = None
    ttt_latency: float | None = None


class AgentAudioDone(Message, frozen=True, tag=True):
    """The last audio of the turn was sent; it may still be playing."""


class FunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a request. `arguments` is JSON inside a string."""

    id: str
    name: str
    arguments: str = "{}"
    client_side: bool = True
    thought_signature: str | msgspec.UnsetType = msgspec.UNSET


class FunctionCallRequest(Message, frozen=True, tag=True):
    """`unreadable` counts entries without an id, which nobody can answer; it is not on the wire."""

    functions: list[FunctionCall]
    unreadable: int = 0


class FunctionCallCancelled(Message, frozen=True, tag=True):
    """The calls are void: the user went on speaking; send no response to them. Only their id and
    perhaps their name are told."""

    functions: list[FunctionCall]
    unreadable: int = 0


class FinishedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A function call in the history: all five fields are required by Deepgram."""

    id: str
    name: str
    client_side: bool
    arguments: str
    response: str
    thought_signature: str | None = None


class History(Message, frozen=True, tag=True):
    """A line of the history, spoken (`role`, `content`) or called (`function_calls`)."""

    role: Role | None = None
    content: str | None = None
    function_calls: list[FinishedCall] | None = None


class LatencyReport(Message, frozen=True, tag=True):
    """Seconds; real messages carry one of the fields each."""

    stt_latency: float | None = None
    ttt_token_latency: float | None = None
    ttt_text_latency: float | None = None
    ttt_tool_latency: float | None = None
    ttt_thinking_latency: float | None = None
    tts_latency: float | None = None
    total_latency: float | None = None


class InjectionRefused(Notice, frozen=True, tag=True, omit_defaults=False):
    message: str = ""


class ListenUpdated(Notice, frozen=True, tag=True): ...


class ThinkUpdated(Notice, frozen=True, tag=True): ...


class ThinkLiveUpdated(Notice, frozen=True, tag=True): ...


class SpeakUpdated(Notice, frozen=True, tag=True): ...


class PromptUpdated(Notice, frozen=True, tag=True): ...


class FrustrationDetected(Notice, frozen=True, tag=True): ...


class Warning(Message, frozen=True, tag=True, omit_defaults=False):
    """The session goes on."""

    description: str = ""
    code: str = ""


class Error(Message, frozen=True, tag=True, omit_defaults=False):
    """The end of the session: Deepgram closes without a status after it."""

    description: str = ""
    code: str = ""


KNOWN_CODES = frozenset(
    {
        "AGENT_ID_NOT_SUPPORTED",
        "CLIENT_MESSAGE_TIMEOUT",
        "FAILED_TO_LISTEN",
        "FAILED_TO_SPEAK",
        "FAILED_TO_THINK",
        "INTERNAL_SERVER_ERROR",
        "INVALID_AGENT_ID",
        "INVALID_SETTINGS",
        "MAXIMUM_SESSION_LENGTH_APPROACHING",
        "MAXIMUM_SESSION_LENGTH_REACHED",
        "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS",
        "SETTINGS_ALREADY_APPLIED",
        "SLOW_SPEAK_REQUEST",
        "SLOW_THINK_REQUEST",
        "UNPARSABLE_CLIENT_MESSAGE",
        "USER_AUDIO_FORMAT",
    }
)
"""Of `Error` and `Warning`, for who counts them; there are others."""


# --- client to server ------------------------------------------------------------------------


class Settings(Message, frozen=True, tag=True):
    """The first message and sent once. `audio` and `agent` as plain JSON objects."""

    audio: dict[str, Any]
    agent: dict[str, Any] | str
    tags: list[str] | None = None
    experimental: bool | None = None
    flags: dict[str, Any] | None = None
    mip_opt_out: bool | None = None


class UpdateListen(Message, frozen=True, tag=True):
    listen: dict[str, Any]


class UpdateThink(Message, frozen=True, tag=True):
    think: dict[str, Any] | list[dict[str, Any]]


class UpdateSpeak(Message, frozen=True, tag=True):
    speak: dict[str, Any] | list[dict[str, Any]]


class UpdatePrompt(Message, frozen=True, tag=True):
    prompt: str


class InjectUserMessage(Message, frozen=True, tag=True):
    content: str


class InjectAgentMessage(Message, frozen=True, tag=True):
    """Without `message` (`is_dynamic`) the model finds the words."""

    message: str | None = None
    behavior: Literal["default", "queue", "interrupt"] | None = None
    is_dynamic: bool | None = None


class FunctionCallResponse(Message, frozen=True, tag=True):
    """Both ways: our answer to a call, and Deepgram's echo of it. `content` is a string."""

    name: str
    content: str
    id: str | None = None
    thought_signature: str | None = None


class KeepAlive(Message, frozen=True, tag=True):
    pass


class ForceEndTurn(Message, frozen=True, tag=True):
    pass


# --- what is not one of these ----------------------------------------------------------------


class Unknown(msgspec.Struct, frozen=True):
    """A JSON object with a type that we have no struct for."""

    type: str


class Malformed(msgspec.Struct, frozen=True):
    """Not JSON, no `type`, or a known type with fields that do not fit. `reason` is for logs."""

    type: str
    reason: str


class Mended(msgspec.Struct, frozen=True):
    """A line that was not as described; `message` is what can be read of it.

    It is told as this and not as it came, so that what is shown is what is stored: U+FFFD stands
    for what is no text.
    """

    message: ConversationText
    reason: str


ServerMessage = (
    Welcome
    | SettingsApplied
    | ConversationText
    | UserStartedSpeaking
    | EndOfTurn
    | AgentThinking
    | AgentStartedSpeaking
    | AgentAudioDone
    | FunctionCallRequest
    | FunctionCallCancelled
    | FunctionCallResponse
    | History
    | LatencyReport
    | InjectionRefused
    | ListenUpdated
    | ThinkUpdated
    | ThinkLiveUpdated
    | SpeakUpdated
    | PromptUpdated
    | FrustrationDetected
    | Warning
    | Error
)

ClientMessage = (
    Settings
    | UpdateListen
    | UpdateThink
    | UpdateSpeak
    | UpdatePrompt
    | InjectUserMessage
    | InjectAgentMessage
    | FunctionCallResponse
    | KeepAlive
    | ForceEndTurn
)

FromServer = ServerMessage | Mended | Unknown | Malformed
FromClient = ClientMessage | Unknown | Malformed


class _Head(msgspec.Struct, frozen=True):
    type: str


class _Line(msgspec.Struct, frozen=True):
    """A `ConversationText` of which all may be wrong."""

    role: Any = None
    content: msgspec.Raw = msgspec.Raw(b"null")
    conversational_behavior: Any = None


class _Entry(msgspec.Struct, frozen=True):
    """An entry about a function call of which all but the id may be wrong."""

    id: str | int | float
    name: Any = ""
    arguments: Any = None
    client_side: Any = True
    thought_signature: Any = None


_server: msgspec.json.Decoder[ServerMessage] = msgspec.json.Decoder(ServerMessage)
_client: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
# The last one: some thousand brackets inside one another, also in a field that is skipped.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_DEEPEST = 100  # of what is read entry by entry; arguments may be less deep than that
# One escape of a JSON string: a whole pair of surrogates, half of one, or any other.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_OF_SERVERS = {struct.__name__ for struct in ServerMessage.__args__}
_OF_CLIENTS = {struct.__name__ for struct in ClientMessage.__args__}


def decode_server(text: bytes | memoryview) -> FromServer:
    """What the agent says. Never raises."""
    try:
        message = _server.decode(text)
    except _UNREADABLE as error:
        return _read_again(text, error)
    if isinstance(message, ConversationText) and "\0" in message.content:
        content = message.content.replace("\0", "\ufffd")
        return Mended(msgspec.structs.replace(message, content=content), "NUL in content")
    return message


def decode_client(text: bytes | memoryview) -> FromClient:
    """What a client says. Never raises."""
    try:
        return _client.decode(text)
    except _UNREADABLE as error:
        return _tell_apart(text, _OF_CLIENTS, error)


def _read_again(text: bytes | memoryview, error: Exception) -> FromServer:
    """Without halves of surrogate pairs, which other parsers take; a line field by field, and
    function calls entry by entry."""
    whole = _ESCAPE.sub(_keep_whole, bytes(text))
    if entries := _read_entries(whole):
        return entries
    kind = _tell_apart(whole, _OF_SERVERS, error)
    if not isinstance(kind, Malformed):
        return kind
    if kind.type == "ConversationText":
        return _mend(whole, kind)
    try:
        return _server.decode(whole)
    except _UNREADABLE:
        return kind


def _keep_whole(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape["half"] else escape[0]


def _mend(text: bytes, malformed: Malformed) -> Mended | Malformed:
    """Malformed stays what nobody of the two says, and what has no content at all."""
    try:
        line = msgspec.json.decode(text, type=_Line)
        written = bytes(line.content).strip()
        is_text = written.startswith(b'"')
        content = msgspec.json.decode(written, type=str) if is_text else written.decode()
    except _UNREADABLE:
        return malformed
    if line.role not in ("user", "assistant") or written == b"null":
        return malformed
    message = ConversationText(
        role=line.role,
        content=content.replace("\0", "\ufffd"),
        conversational_behavior=line.conversational_behavior,
    )
    return Mended(message, malformed.reason)


def _tell_apart(text: bytes | memoryview, known: set[str], error: Exception) -> Unknown | Malformed:
    # A tagged union refuses an unknown type; read the type alone to tell it from a broken message.
    try:
        head = msgspec.json.decode(text, type=_Head)
    except _UNREADABLE as head_error:
        return Malformed(type="", reason=str(head_error))
    if head.type in known:
        return Malformed(type=head.type, reason=str(error))
    return Unknown(type=head.type)


def _read_entries(text: bytes) -> FunctionCallRequest | FunctionCallCancelled | None:
    """A message about function calls of which something does not fit: each entry on its own, so
    that one does not leave the others without an answer. None: it is not such a message."""
    if b"FunctionCall" not in text:
        return None
    try:
        # Takes what our decoder does not: NaN.
        message = json.loads(flatten(text, _DEEPEST))
    except ValueError:
        return None
    match message:
        case {
            "type": "FunctionCallRequest" | "FunctionCallCancelled" as kind,
            "functions": list(entries),
        }:
            calls = [call for entry in entries if (call := _read_call(entry))]
            struct = FunctionCallRequest if kind == "FunctionCallRequest" else FunctionCallCancelled
            return struct(functions=calls, unreadable=len(entries) - len(calls))
    return None


def _read_call(entry: Any) -> FunctionCall | None:
    try:
        read = msgspec.convert(entry, _Entry)
    except msgspec.ValidationError:
        return None
    arguments = "{}" if read.arguments is None else read.arguments
    signature = read.thought_signature
    return FunctionCall(
        id=str(read.id),
        name=read.name if isinstance(read.name, str) else "",
        arguments=arguments if isinstance(arguments, str) else json.dumps(arguments),
        client_side=read.client_side is not False,
        thought_signature=signature if isinstance(signature, str) else msgspec.UNSET,
    )


def encode(message: Message) -> bytes:
    """JSON with `type` first; fields at their default are left out (the parser is strict)."""
    return msgspec.json.encode(message)
