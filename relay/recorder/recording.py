"""The file of a recording: one JSON object a line, in the envelope that Deepgram publishes. Pure.

docs/recording.md describes it. A `Scribe` makes lines of what happens in a session; `read` makes of
lines what the rules were told and what they answered, for whoever plays them again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from config.agent import Agent
from config.env_types import Secret, mask_query
from config.limits import Limits
from config.policy import Policy
from config.version import VERSION
from relay.core import actions, events
from relay.core.actions import Action
from relay.core.admitted import Admitted
from relay.core.beginning import Beginning
from relay.core.events import Event
from relay.core.records import SessionEnded
from relay.core.watcher import Counts
from relay.protocol import deepgram
from relay.recorder.redaction import Redactor, find_stand_ins, restore

FORMAT = 1
Kind = Literal["beginning", "event", "sent", "fact", "gap", "cut", "end"]
Side = Literal["agent", "browser"]
FROM_SERVER, FROM_CLIENT = "server_to_client", "client_to_server"
# What each action that sends something sends, and to whom: it gets a line of its own.
_SENT: dict[type[Action], tuple[str, Side]] = {
    actions.SendSettings: ("settings", "agent"),
    actions.SendAgent: ("message", "agent"),
    actions.SendBrowser: ("event", "browser"),
    actions.Refuse: ("error", "browser"),
}
SENT = {kind.__name__: field for kind, (field, _) in _SENT.items()}
"""The field of each such action that its own line has."""
# What most of the agent's messages are answered with.
_FORWARD = {kept: {"type": "Forward", "kept": kept} for kept in (True, False)}
_line_encoder = msgspec.json.Encoder()
_ODD = deepgram.Unknown | deepgram.Malformed | deepgram.Mended


class Ours(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What we put beside Deepgram's envelope."""

    at: float
    kind: Kind
    side: Side | None = None
    actions: list[dict[str, Any]] = []
    drawn: list[float | str] = []
    decoded: dict[str, Any] | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line; the first seven fields are Deepgram's."""

    request_id: str | None
    session_id: str
    customer_id: str
    seq: int
    ts: str
    direction: str | None
    payload: dict[str, Any]
    relay: Ours


class NotARecording(ValueError):
    """The text says what is wrong with the file, and in which line."""


# --- writing -------------------------------------------------------------------------------------


class Scribe:
    """Makes the lines of one session, in order; each ends with a line break."""

    def __init__(self, beginning: Beginning, redactor: Redactor) -> None:
        self._beginning = beginning
        self._redactor = redactor
        self._zero = beginning.began.timestamp() - beginning.now
        self._seq = 0
        self._second, self._date = 0, ""  # of the newest line
        self._request_id: str | None = None
        admitted = beginning.admitted
        self._session_id = str(admitted.session_id)
        self._customer_id = str(redactor.redact(admitted.user_id, "user_id"))

    def beginning(self, drawn: Sequence[UUID | float | str]) -> bytes:
        """The first line."""
        begun = self._beginning
        payload = {
            "type": "RelayRecording",
            "format": FORMAT,
            "version": VERSION,
            "content": self._redactor.keeps_content,
            "admitted": self._redactor.redact(msgspec.to_builtins(begun.admitted)),
            # Only these: what stands here may be all settings, keys included.
            "limits": {name: getattr(begun.limits, name) for name in Limits.__struct_fields__},
            "policy": msgspec.to_builtins(_without_choices(begun.policy)),
            "now": begun.now,
            "began": begun.began.isoformat(),
            "asks": begun.asks,
            "deepgram_client": _show_agent(begun.deepgram_client),
        }
        return self._line(begun.now, "beginning", payload, drawn=self._drawn(drawn))

    def event(
        self,
        now: float,
        event: Event | None,
        text: bytes,
        asked: Sequence[Action],
        drawn: Sequence[UUID | float | str],
    ) -> Iterator[bytes]:
        """The rules were told this, as a `Watcher` is; and what was sent because of it."""
        side: Side | None = None
        direction, decoded = None, None
        match event:
            case None:
                payload: dict[str, Any] = {"type": "BrowserOpened"}
            case events.FromAgent(message) | events.FromBrowser(message):
                if isinstance(message, deepgram.Welcome):
                    self._request_id = message.request_id
                side = "agent" if isinstance(event, events.FromAgent) else "browser"
                direction = FROM_SERVER if side == "agent" else FROM_CLIENT
                payload, decoded = self._frame(message, text)
            case _:
                payload = self._named(event)
        ours = {"actions": [self._action(each) for each in asked], "drawn": self._drawn(drawn)}
        yield self._line(
            now, "event", payload, direction=direction, side=side, decoded=decoded, **ours
        )
        for each in asked:
            if found := _SENT.get(type(each)):
                field, side = found
                message = self._redactor.redact(msgspec.to_builtins(getattr(each, field)))
                direction = FROM_CLIENT if side == "agent" else FROM_SERVER
                yield self._line(now, "sent", message, direction=direction, side=side)

    def first_audio(self, now: float) -> bytes:
        return self._line(now, "fact", {"type": "FirstAudio"})

    def counts(self, now: float, counts: Counts) -> bytes:
        return self._line(now, "fact", {"type": "Counts", **msgspec.to_builtins(counts)})

    def gap(self, now: float, lost: int) -> bytes:
        """So many lines did not become part of the file; their numbers are missing, too."""
        return self._line(now, "gap", {"type": "RelayRecordingGap", "lost": lost})

    def cut(self, now: float) -> bytes:
        return self._line(now, "cut", {"type": "RelayRecordingCut"})

    def end(self, now: float, ended: SessionEnded) -> bytes:
        return self._line(now, "end", self._redactor.redact(msgspec.to_builtins(ended)))

    def _line(self, now: float, kind: Kind, payload: dict[str, Any], **more: Any) -> bytes:
        self._seq += 1
        direction = more.pop("direction", None)
        line = Line(
            request_id=self._request_id,
            session_id=self._session_id,
            customer_id=self._customer_id,
            seq=self._seq,
            ts=self._wall_clock(now),
            direction=direction,
            payload=payload,
            relay=Ours(at=now, kind=kind, **more),
        )
        return _line_encoder.encode(line) + b"\n"

    def _wall_clock(self, now: float) -> str:
        second, rest = divmod(round((self._zero + now) * 1e6), 1_000_000)
        if second != self._second:  # its date is worked out once
            self._second = second
            self._date = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._date}.{rest // 1000:03d}Z"

    def _frame(self, message: Any, text: bytes) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """A frame as it came; and what was made of it, where it was not as described."""
        if isinstance(message, _ODD):
            decoded = {"as": type(message).__name__, **msgspec.to_builtins(message)}
            return {"type": _type_of(message)}, self._redactor.redact(decoded)
        try:
            said = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):  # it took some mending
            said = msgspec.to_builtins(message)
        payload: dict[str, Any] = self._redactor.redact(said)
        return payload, None

    def _named(self, event: Event) -> dict[str, Any]:
        fields: dict[str, Any] = self._redactor.redact(msgspec.to_builtins(event))
        return {"type": type(event).__name__, **fields}

    def _action(self, asked: Action) -> dict[str, Any]:
        if isinstance(asked, actions.Forward):
            return _FORWARD[asked.kept]
        kind = type(asked)
        if found := _SENT.get(kind):  # what was sent has a line of its own
            rest = [name for name in kind.__struct_fields__ if name != found[0]]
            fields = msgspec.to_builtins({name: getattr(asked, name) for name in rest})
        else:
            fields = msgspec.to_builtins(asked)
        return {"type": kind.__name__, **self._redactor.redact(fields)}

    def _drawn(self, drawn: Sequence[UUID | float | str]) -> list[float | str]:
        """Ids and numbers as they are; a text that is drawn is a ticket."""
        shown: list[float | str] = []
        for each in drawn:
            match each:
                case str():
                    shown.append(self._redactor.mark(each))
                case UUID():
                    shown.append(str(each))
                case _:
                    shown.append(each)
        return shown


def _type_of(message: _ODD) -> str:
    return "ConversationText" if isinstance(message, deepgram.Mended) else message.type


def _without_choices(policy: Policy) -> Policy:
    """What rules look at: voices and languages are for Settings, and may hold keys."""
    return msgspec.structs.replace(policy, voices={}, languages={})


def _show_agent(agent: Agent | None) -> Any:
    """Without secrets, and what a query of a URL may hold."""

    def mask(value: Any, name: str = "") -> Any:
        match value:
            case dict():
                return {key: mask(each, key) for key, each in value.items()}
            case list():
                return [mask(each) for each in value]
            case str() if name == "url":
                return mask_query(value)
        return value

    return mask(msgspec.to_builtins(agent, enc_hook=str)) if agent else None


# --- reading -------------------------------------------------------------------------------------


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules were told, what they drew from chance, and the actions that they answered,
    each an object with its `type` and, where it sent something, that. `event` is None for the
    browser's first socket. `text` is a frame; what is redacted has stand-ins."""

    seq: int
    at: float
    event: Event | None
    text: bytes = b""
    side: Side | None = None
    decoded: Any = None
    actions: list[dict[str, Any]]
    drawn: list[float | str]


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """A file, as it can be played again. `drawn` is what the rules drew when they were made,
    `settings` are those of its agents, in order, `stand_ins` all texts that stand for others.
    `is_whole`: it has all that happened, up to the end."""

    beginning: Beginning
    drawn: list[float | str]
    steps: list[Step]
    settings: list[dict[str, Any]]
    stand_ins: set[str]
    is_whole: bool


_EVENTS: dict[str, type[Event]] = {kind.__name__: kind for kind in Event.__args__}
_ODD_KINDS = {
    kind.__name__: kind for kind in (deepgram.Unknown, deepgram.Malformed, deepgram.Mended)
}
_line_decoder = msgspec.json.Decoder(Line)


def read_lines(content: Iterable[bytes]) -> Iterator[Line]:
    """Raises `NotARecording`. A last line that was cut off, by a process that died, is left out."""
    for number, text in enumerate(content, 1):
        if not text.endswith(b"\n"):
            return
        try:
            yield _line_decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NotARecording(f"line {number}: {error}") from None


def read(content: Iterable[bytes]) -> Recording:
    """Raises `NotARecording`. After a gap nothing is read: what follows depends on it."""
    stand_ins: set[str] = set()

    def look(content: Iterable[bytes]) -> Iterator[bytes]:
        for text in content:
            stand_ins.update(find_stand_ins(text))
            yield text

    lines = read_lines(look(content))
    first = next(lines, None)
    if first is None or first.payload.get("type") != "RelayRecording":
        raise NotARecording("line 1: expected a RelayRecording")
    try:
        beginning = _read_beginning(first.payload)
        steps, is_whole = _read_steps(lines)
    except msgspec.ValidationError as error:
        raise NotARecording(str(error)) from None
    return Recording(
        beginning=beginning,
        drawn=restore(first.relay.drawn),
        steps=steps,
        settings=[
            restore(asked["settings"])
            for step in steps
            for asked in step.actions
            if asked["type"] == "SendSettings" and "settings" in asked
        ],
        stand_ins=stand_ins,
        is_whole=is_whole,
    )


def _read_beginning(payload: dict[str, Any]) -> Beginning:
    if payload.get("format") != FORMAT:
        raise NotARecording(f"line 1: expected format {FORMAT}, got {payload.get('format')}")
    agent = payload.get("deepgram_client")
    return Beginning(
        admitted=msgspec.convert(restore(payload.get("admitted")), Admitted),
        limits=msgspec.convert(payload.get("limits"), Limits),
        policy=msgspec.convert(payload.get("policy"), Policy),
        now=msgspec.convert(payload.get("now"), float),
        began=msgspec.convert(payload.get("began"), datetime),
        asks=bool(payload.get("asks")),
        deepgram_client=msgspec.convert(agent, Agent, dec_hook=_read_secret) if agent else None,
    )


def _read_secret(kind: type, value: Any) -> Any:
    return Secret(value) if kind is Secret else value


def _read_steps(lines: Iterable[Line]) -> tuple[list[Step], bool]:
    """The steps, and whether nothing is missing and the last line is the end."""
    steps: list[Step] = []
    unsent: list[dict[str, Any]] = []  # actions whose message is still to come
    for seq, line in enumerate(lines, 2):
        if line.seq != seq:
            return steps, False
        match line.relay.kind:
            case "event":
                step = _read_step(line)
                steps.append(step)
                unsent = [asked for asked in step.actions if asked["type"] in SENT]
            case "sent" if unsent:
                asked = unsent.pop(0)
                asked[SENT[asked["type"]]] = line.payload
            case "gap" | "cut":
                return steps, False
            case "end":
                return steps, True
    return steps, False


def _read_step(line: Line) -> Step:
    payload, ours = line.payload, line.relay
    event: Event | None = None
    text = b""
    if ours.side is not None:
        text = msgspec.json.encode(restore(payload))
    elif payload["type"] != "BrowserOpened":
        kind = _EVENTS.get(payload["type"])
        if kind is None:
            raise NotARecording(f"seq {line.seq}: no event is called {payload['type']!r}")
        event = msgspec.convert(restore(payload), kind)
    return Step(
        seq=line.seq,
        at=ours.at,
        event=event,
        text=text,
        side=ours.side,
        decoded=_read_odd(ours.decoded),
        actions=ours.actions,
        drawn=restore(ours.drawn),
    )


def _read_odd(decoded: dict[str, Any] | None) -> Any:
    if decoded is None:
        return None
    return msgspec.convert(restore(decoded), _ODD_KINDS[decoded["as"]])
