"""Whether the result of a function is good news, and what it says in words. Pure.

Results are JSON of any shape or plain text: problem details, `{"error": ...}`, `{"status": ...}`.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import msgspec

_BAD = re.compile(
    r"^\W*(?:error|fail|reject|refuse|could not|cannot|unable|invalid|denied|unknown|not.found|"
    r"cancelled|timeout|[45]\d\d$)",
    re.I,
)
_WORDS = ("reason", "detail", "message", "error", "summary", "result", "text", "answer")
LONGEST = 300  # characters that are read out


def read_result(content: str) -> tuple[bool, str]:
    """Whether it went well, and the words, from the `content` of a FunctionCallResponse."""
    try:
        result = msgspec.json.decode(content)
    except msgspec.DecodeError:
        result = content
    if isinstance(result, dict):
        is_bad = result.get("error") or False in (result.get("ok"), result.get("success"))
        return not (is_bad or _BAD.match(str(result.get("status")))), _short(_words_of(result))
    text = result if isinstance(result, str) else ""
    return not _BAD.match(text), _short(text)


def _words_of(result: dict[str, Any]) -> str:
    for value in map(result.get, _WORDS):
        words = _words_of(value) if isinstance(value, dict) else value
        if isinstance(words, str) and words.strip():
            return words
    return ""


def _short(text: str) -> str:
    return textwrap.shorten(text, LONGEST, placeholder="")
