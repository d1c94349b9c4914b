"""How the program logs: one line each, to standard error; no transcript, ticket, key or prompt.

A call of ours says `log.info("event key=%s other=%d", value, 7)`: one word, then pairs. The pairs
are taken apart here, so that every value is quoted as the format wants it; None is left out. The
lines of libraries have their first words and no values, which may be anybody's.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import textwrap
import threading
import traceback
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from control.db.errors import describe
from relay.telemetry.log_context import current

log = logging.getLogger(__name__)

Format = Literal["logfmt", "json"]

OURS = ("relay", "control", "config")
_EVENT = re.compile(r"[a-z]+(?:_[a-z]+)*")
_PAIR = re.compile(r" ([a-z][a-z0-9_]*)=(%[-.\d]*[a-z])")
_WORDS = re.compile(r"[\w ,.'-]{0,120}", re.ASCII)
_BARE = re.compile(r"[!#-<>-\[\]-~]+")  # printable ASCII but for blank, quote, equals and backslash
MOST = 2_000  # characters of a value; a traceback may be longer


class Formatter(logging.Formatter):
    """One line for each record, whoever wrote it: `time level logger event` and its pairs.

    Says of an exception where it was raised and of which kind it is, and not all of its text,
    which may quote a row, what somebody said or a key.
    """

    def __init__(self, kind: Format = "logfmt") -> None:
        super().__init__()
        self._kind = kind

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **read_pairs(record),
        }
        for name, value in current.get().fields.items():
            line.setdefault(name, value)
        if record.exc_info and record.exc_info[1] is not None:
            line["trace"] = format_error(record.exc_info[1])
        if self._kind == "json":
            return json.dumps(line)
        return " ".join(f"{name}={quote(value)}" for name, value in line.items())


def read_pairs(record: logging.LogRecord) -> dict[str, Any]:
    """`event` and what else a record says. Numbers stay numbers."""
    event, pairs = "", []
    if record.name.partition(".")[0] in OURS:
        event = (_EVENT.match(record.msg) or [""])[0]
        pairs = _PAIR.findall(record.msg)
    values = record.args if isinstance(record.args, tuple) else ()
    is_ours = event and event + "".join(f" {n}={form}" for n, form in pairs) == record.msg
    if not is_ours or len(pairs) != len(values):
        words = _WORDS.match(str(record.msg))
        return {"event": "library", "message": words[0].strip() if words else ""}
    said: dict[str, Any] = {"event": event}
    for (name, form), value in zip(pairs, values, strict=True):
        if value is not None:
            text = (form % value)[:MOST]
            said[name] = text if form[-1] == "s" else json.loads(text)
    return said


def quote(value: object) -> str:
    """A value of logfmt: as it is, or as a string of JSON, all ASCII."""
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text).replace("\x7f", "\\u007f")


def format_error(error: BaseException) -> str:
    """The traceback, those of its causes before it; a database's error with what it is about."""
    lines = []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        lines += [format_error(cause), "", "then:"]
    lines.append("Traceback (most recent call last):")
    lines.append("".join(traceback.format_tb(error.__traceback__)).rstrip())
    lines.append(describe_error(error))
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            lines.append(textwrap.indent(format_error(one), "  "))
    return "\n".join(lines)


def describe_error(error: BaseException) -> str:
    """Its kind; of a database's error what `control.db.errors` says, which quotes no value."""
    if getattr(error, "sqlstate", None):
        return describe(error)
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def set_up_from(environ: Mapping[str, str]) -> None:
    """For a command that reads no other setting; a mistake in these is not its business."""
    level = environ.get("RELAY_LOG_LEVEL", "").upper()
    is_json = environ.get("RELAY_LOG_FORMAT", "").lower() == "json"
    known = level if level in logging.getLevelNamesMapping() else "INFO"
    set_up(known, "json" if is_json else "logfmt")


def set_up(level: str, kind: Format = "logfmt") -> None:
    """Our own lines at `level`; libraries only when something is wrong, through the same format."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter(kind))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for room in OURS:
        logging.getLogger(room).setLevel(level.upper())
    # The pool logs a traceback for each connection that it lost; the store says it in one line.
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)
    # picows logs each connection with its addresses, and what a browser gets wrong as an error of
    # ours; `session_ended` says the same in one line.
    for frames in ("relay.browser_frames", "relay.agent_frames"):
        logging.getLogger(frames).setLevel(logging.CRITICAL)
    # What Python would print by itself, values and all.
    warnings.showwarning = _warned  # type: ignore[assignment]  # the names of its arguments
    sys.excepthook = lambda kind, error, trace: _crashed("the program", error)
    threading.excepthook = lambda args: _crashed("a thread", args.exc_value)
    sys.unraisablehook = lambda args: _crashed("a destructor", args.exc_value)


def _warned(message: object, kind: type[Warning], file: str, line: int, *_: object) -> None:
    log.warning("python_warned kind=%s file=%s line=%d", kind.__name__, file, line)


def _crashed(where: str, error: BaseException | None) -> None:
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return
    log.critical("program_crashed where=%s", where, exc_info=error)
