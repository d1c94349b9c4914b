"""Whether the result of a function is good news, and what it says in words. Pure.

Results are JSON of any shape or plain text: problem details, `{"error": ...}`, `{"status": ...}`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

_BAD_STATUS = {
    "error", "failed", "failure", "rejected", "refused", "invalid", "denied", "unknown",
    "not_found", "cancelled", "timeout",
}  # fmt: skip
_REASONS = ("reason", "detail", "message", "error", "error_message", "description", "title")
_NEWS = ("message", "summary", "say", "result", "text", "answer")
_BAD_TEXT = re.compile(
    r"^\W*(?:error|failed|failure|rejected|refused|could not|cannot|unable|invalid|not found)", re.I
)
LONGEST = 300  # characters that are read out


class FunctionResult(msgspec.Struct, frozen=True):
    ok: bool
    reason: str


def read_result(content: str) -> FunctionResult:
    """From the `content` of a FunctionCallResponse."""
    try:
        result = msgspec.json.decode(content)
    except msgspec.DecodeError:
        return FunctionResult(not _BAD_TEXT.match(content), _short(content))
    if isinstance(result, str):
        return FunctionResult(not _BAD_TEXT.match(result), _short(result))
    if not isinstance(result, dict):
        return FunctionResult(True, "")
    ok = not _is_bad(result)
    return FunctionResult(ok, _short(_words_of(result, _NEWS if ok else _REASONS)))


def _is_bad(result: dict[str, Any]) -> bool:
    if result.get("error"):
        return True
    if result.get("ok") is False or result.get("success") is False:
        return True
    status = result.get("status")
    if isinstance(status, str):
        return status.lower() in _BAD_STATUS
    return isinstance(status, int) and not isinstance(status, bool) and status >= 400


def _words_of(result: dict[str, Any], keys: tuple[str, ...]) -> str:
    for key in keys:
        value = result.get(key)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, dict) and (inner := _words_of(value, keys)):
            return inner
    return ""


def _short(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0]
