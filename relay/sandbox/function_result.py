"""Whether the result of a function is good news, and what is said of it. Pure.

Results are JSON of any shape or plain text: problem details, `{"error": ...}`, `{"status": ...}`.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import msgspec

from relay.sandbox.english import sentence

_BAD = re.compile(
    r"^\W*(?:error|fail|reject|refuse|could not|cannot|unable|invalid|denied|unknown|not.found|"
    r"cancelled|timeout|[45]\d\d$)",
    re.I,
)
_WORDS = ("reason", "detail", "message", "error", "summary", "result", "text", "answer")
# What the relay says of a call that is not over: its own words are for a model.
_NOT_YET = {
    "saved": "I have noted that, and it will be passed on later.",
    "waiting": "Please look at your screen: it asks whether that is right.",
}
LONGEST = 300  # characters that are read out


def read_result(content: str) -> tuple[bool, str]:
    """Whether it went well, or may yet, and what is said of it, from the `content` of a
    FunctionCallResponse."""
    try:
        result = msgspec.json.decode(content)
    except msgspec.DecodeError:
        result = content
    if isinstance(result, dict):
        status = str(result.get("status"))
        if status in _NOT_YET:
            return True, _NOT_YET[status]
        is_bad = result.get("error") or False in (result.get("ok"), result.get("success"))
        return _put(not (is_bad or _BAD.match(status)), _short(_words_of(result)))
    text = result if isinstance(result, str) else ""
    return _put(not _BAD.match(text), _short(text))


def _put(ok: bool, news: str) -> tuple[bool, str]:
    if ok:
        return ok, f"Done. {sentence(news)}" if news else "Done."
    return ok, f"I could not do that: {(news or 'it did not work').rstrip('.')}."


def _words_of(result: dict[str, Any]) -> str:
    for value in map(result.get, _WORDS):
        words = _words_of(value) if isinstance(value, dict) else value
        if isinstance(words, str) and words.strip():
            return words
    return ""


def _short(text: str) -> str:
    return textwrap.shorten(text, LONGEST, placeholder="")
