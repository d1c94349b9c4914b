"""The conversation so far, as an agent that goes on with it is told: what of it, and how much.

Pure. A model refuses an empty message, and an agent a text that is too long: so what has no words
is left out, a line that is very long is cut, and the newest lines are told, as far as there is
room.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import msgspec

from relay.protocol import deepgram

# All lines together, and one text of a line. The usual 200 lines have some 20 kB; the agent's limit
# is not published, and each of these bytes is paid for with every answer of the model.
LONGEST = 64 * 1024
LONGEST_TEXT = 8 * 1024
MARK = " … (cut)"


def fit(lines: Sequence[deepgram.History], room: int = LONGEST) -> list[deepgram.History]:
    """What fits into `room` bytes of JSON: the newest lines with words, in order."""
    fitting: list[deepgram.History] = []
    for line in reversed(with_words(lines)):
        shown = _shorten(line)
        room -= size([shown])
        if room < 0:
            break
        fitting.append(shown)
    return fitting[::-1]


def with_words(lines: Sequence[deepgram.History]) -> list[deepgram.History]:
    """The lines that a model can be told: calls, and what has more than white space in it."""
    return [line for line in lines if line.function_calls or (line.content or "").strip()]


def size(lines: Iterable[object]) -> int:
    """Bytes of these lines in JSON, each with a comma."""
    return sum(len(msgspec.json.encode(line)) + 1 for line in lines)


def _shorten(line: deepgram.History) -> deepgram.History:
    if line.content is not None:
        return msgspec.structs.replace(line, content=cut(line.content))
    calls = [
        msgspec.structs.replace(
            call,
            arguments=_cut_json(call.arguments),
            response=cut(call.response),
        )
        for call in line.function_calls or []
    ]
    return msgspec.structs.replace(line, function_calls=calls)


def cut(text: str) -> str:
    # As it is sent: JSON makes six bytes of some characters.
    written = msgspec.json.encode(text)
    if len(written) <= LONGEST_TEXT:
        return text
    kept = len(text)
    while len(msgspec.json.encode(text[:kept])) > LONGEST_TEXT - len(MARK.encode()):
        kept = kept * 3 // 4
    return text[:kept] + MARK


def _cut_json(text: str) -> str:
    """Arguments are JSON for whoever reads them: they stay it."""
    short = cut(text)
    return short if short == text else json.dumps({"cut": short}, ensure_ascii=False)
