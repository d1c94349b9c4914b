"""What a recording does not keep of what people said, and of secrets. Pure.

A text that is not known to be a word of the protocol is taken for what somebody said: a field that
nobody thought of is redacted, and not kept. Equal texts stay equal, and a text keeps its length, so
that a redacted session can be played again: `restore` makes a text to stand in for each.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any

import msgspec

# Fields whose texts are words of the protocol, of the configuration or for operators: what a log
# has, too.
_WORDS = frozenset(
    {
        *("type", "code", "detail", "description", "reason", "status", "role", "what", "wanted"),
        *("id", "session_id", "conversation_id", "request_id", "agent_request_id", "message_id"),
        *("call_id", "idempotency_key", "name", "intent", "function", "as", "version"),
        *("at", "began", "next_attempt_at", "timezone", "voice", "language", "trigger"),
        *("conversational_behavior", "behavior", "languages", "languages_hinted"),
        *("encoding", "container", "model", "mode"),
    }
)
# Of these nothing is kept, not even how it is built: anybody's data.
_WHOLE = frozenset({"arguments", "result", "facts", "parameters"})
# Never kept, whatever else is: who has them can do something.
_SECRETS = frozenset({"ticket", "resume_ticket", "headers", "credentials", "url"})
_HIDDEN = _WHOLE | _SECRETS
_BARE = frozenset({int, float, bool, type(None)})  # numbers say nothing where nothing is hidden

_DIGITS = 16
_MARK = re.compile(rf"redacted:(\d+):([0-9a-f]{{{_DIGITS}}})")


class Redactor:
    """Of one recording. `key` is made for it and kept nowhere: nobody can try which text has this
    hash. `keeps_content`: only secrets are redacted."""

    def __init__(self, key: bytes, *, keeps_content: bool) -> None:
        self._key = key
        self.keeps_content = keeps_content

    def redact(self, value: Any, name: str = "") -> Any:
        """The same without what is not kept. `value` is as of JSON; `name` is that of its field."""
        is_word = name in _WORDS
        if not is_word and (name in _SECRETS or (name in _WHOLE and not self.keeps_content)):
            return self._whole(value)
        kind = type(value)
        if kind is str:
            return value if is_word or self.keeps_content else self.mark(value)
        if kind is dict:
            return {
                key: each if type(each) in _BARE and key not in _HIDDEN else self.redact(each, key)
                for key, each in value.items()
            }
        if kind is list or kind is tuple:
            return [self.redact(each, name) for each in value]
        return value

    def mark(self, text: str) -> str:
        """What stands for a text; itself where there is nothing in it."""
        if not text or text.isspace():
            return text
        digest = blake2b(text.encode(errors="replace"), key=self._key, digest_size=_DIGITS // 2)
        return f"redacted:{len(text)}:{digest.hexdigest()}"

    def _whole(self, value: Any) -> Any:
        if value is None or value in ("", {}, []):
            return value
        if isinstance(value, str):
            return self.mark(value)
        mark = self.mark(msgspec.json.encode(value).decode())
        if isinstance(value, dict):
            return {"redacted": mark}
        return [mark] if isinstance(value, list) else mark


def find_stand_ins(content: bytes) -> set[str]:
    """The stand-ins for all that was redacted in this line."""
    return {stand_in(found[0]) for found in _MARK.finditer(content.decode(errors="replace"))}


def stand_in(mark: str) -> str:
    """A text as long as the redacted one, the same for the same. Another text stays as it is."""
    found = _MARK.fullmatch(mark)
    if found is None:
        return mark
    length, digest = int(found[1]), found[2]
    return (digest * (length // _DIGITS + 1))[:length]


def restore(value: Any) -> Any:
    """The same with a stand-in for each redacted text."""
    match value:
        case str():
            return stand_in(value)
        case dict():
            return {key: restore(each) for key, each in value.items()}
        case list():
            return [restore(each) for each in value]
    return value
