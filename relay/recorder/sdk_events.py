"""Recordings of others, as one of ours: events that clients of Deepgram wrote down. Pure.

Two forms are known: a JSON array of objects with `type`, `timestamp` and `data` (the tests of the
Python SDK; `Unhandled` ones have the text as it came), and an object with such a list as
`all_events`, of which only types and times are kept. A third has one object a line, with `t` in
milliseconds, `dir` and `msg`. What our rules ask for because of them, they are asked now.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import UUID

import msgspec

from config.agent import Audio
from config.limits import Limits
from config.policy import Policy
from relay.core import events
from relay.core.admitted import Admitted
from relay.core.beginning import Beginning, Chance
from relay.core.events import Event
from relay.protocol import deepgram
from relay.recorder.recording import NotARecording, Scribe
from relay.recorder.redaction import Redactor

_SECOND = 100.0  # monotonic, at which such a session begins
# Checks of the audio would be due meanwhile, and nobody wakes the rules.
_LIMITS = Limits(audio_speed=0.0, idle_seconds=0.0, session_seconds=0.0)


def split(content: bytes) -> tuple[list[bytes], bool]:
    """The lines of a file, and whether it had to be adopted. Raises `NotARecording`."""
    if b'"RelayRecording"' in content.partition(b"\n")[0]:
        return content.splitlines(keepends=True), False
    return adopt(content), True


def adopt(content: bytes) -> list[bytes]:
    """The lines of a recording of ours, with all texts. Raises `NotARecording`."""
    heard = [(at, is_from_agent, text) for at, is_from_agent, text in _frames(content)]
    if not heard:
        raise NotARecording("no event in it")
    first = heard[0][0]
    began = datetime.fromtimestamp(first, UTC)
    beginning = Beginning(
        admitted=Admitted(
            session_id=UUID(int=1),
            conversation_id=UUID(int=2),
            user_id="user",
            timezone="UTC",
            audio=Audio(),
        ),
        limits=_LIMITS,
        policy=Policy(),
        now=_SECOND,
        began=began,
    )
    ids, drawn = count(1), list[UUID | float | str]()

    def draw(value: Any) -> Any:
        drawn.append(value)
        return value

    chance = Chance(
        lambda: draw(UUID(int=next(ids) << 64)),
        lambda: draw(0.5),
        lambda: draw(f"ticket {next(ids)}"),
    )
    settings = deepgram.Settings(audio=msgspec.to_builtins(Audio()), agent={})
    rules = beginning.rules(lambda history, context: settings, chance)
    scribe = Scribe(beginning, Redactor(b"", keeps_content=True))
    lines = [scribe.beginning(drawn)]
    drawn.clear()
    lines += scribe.event(_SECOND, None, b"", rules.begin(), drawn)
    opened = events.AgentOpened()
    lines += scribe.event(_SECOND, opened, b"", rules.handle(opened, _SECOND), drawn)
    for at, is_from_agent, text in heard:
        now = _SECOND + (at - first)
        event: Event = (
            events.FromAgent(deepgram.decode_server(text))
            if is_from_agent
            else events.FromBrowser(rules.decode(text))
        )
        asked = rules.handle(event, now)
        lines += scribe.event(now, event, text, asked, drawn)
        drawn.clear()
    return lines


def _frames(content: bytes) -> Iterator[tuple[float, bool, bytes]]:
    """Wall-clock second, whether the agent said it, and the frame."""
    try:
        try:
            rows: Any = json.loads(content)
        except ValueError:
            rows = [json.loads(line) for line in content.splitlines()]
        if isinstance(rows, dict):
            rows = rows["all_events"]
        for row in rows:
            if frame := _frame(row):
                yield frame
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotARecording(f"neither one of ours nor of Deepgram's SDK: {error!r}") from None


def _frame(row: dict[str, Any]) -> tuple[float, bool, bytes] | None:
    match row:
        case {"type": "Open"}:
            return None
        case {"type": "Unhandled", "timestamp": at, "data": {"raw": raw}}:
            return at, True, raw.encode()
        case {"type": kind, "timestamp": at, "data": data}:
            return at, True, json.dumps({"type": kind, **data}).encode()
        case {"type": _, "ts": at}:
            kept = {name: value for name, value in row.items() if name != "ts"}
            return at, True, json.dumps(kept).encode()
        case {"t": ms, "dir": "s2c", "msg": message}:
            return ms / 1000, True, json.dumps(message).encode()
        case {"t": ms, "dir": "c2s", "msg": {"type": "InjectUserMessage"} as message}:
            return ms / 1000, False, json.dumps(message).encode()
    return None
