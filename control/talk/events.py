"""What the terminal client hears: Deepgram's messages and the relay's own, decoded.

The relay's events are declared here once more, from the published contract, so that the client can
find the relay wrong; Deepgram's messages are the structs that everybody uses.
"""

from __future__ import annotations

from typing import Any

import msgspec

from relay.protocol import deepgram


class TalkError(Exception):
    """The session did not go well: exit code 1."""


class _RelayEvent(msgspec.Struct, frozen=True, tag_field="type"):
    pass


class RelaySession(_RelayEvent, frozen=True, tag=True):
    session_id: str
    conversation_id: str


class RelayMessageSaved(_RelayEvent, frozen=True, tag=True):
    seq: int
    message_id: str
    role: str


class RelayIntent(_RelayEvent, frozen=True, tag=True):
    id: str
    status: str
    intent: str | None = None
    arguments: Any = None
    result: Any = None


class RelayError(_RelayEvent, frozen=True, tag=True):
    code: str = ""
    detail: str = ""


RelayEvent = RelaySession | RelayMessageSaved | RelayIntent | RelayError
Event = deepgram.ServerMessage | RelayEvent
_relay_events: msgspec.json.Decoder[RelayEvent] = msgspec.json.Decoder(RelayEvent)


def decode(text: str) -> Event | None:
    """None: a type that we do not know, which is nothing bad. Raises `TalkError` if broken."""
    message = deepgram.decode_server(text.encode())
    match message:
        case deepgram.Mended(message=mended):
            return mended
        case deepgram.Malformed(type, reason):
            raise TalkError(f"the relay sent a broken message {type!r}: {reason}")
        case deepgram.Unknown(type):
            if type not in {"RelaySession", "RelayMessageSaved", "RelayIntent", "RelayError"}:
                return None
            try:
                return _relay_events.decode(text)
            except msgspec.DecodeError as error:
                raise TalkError(f"the relay sent a broken message {type!r}: {error}") from error
    return message
