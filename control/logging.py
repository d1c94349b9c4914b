"""How the program logs: one line each, to standard error; no transcript, ticket, key or prompt."""

from __future__ import annotations

import logging
import textwrap
import traceback
from typing import Any

from control.db.errors import describe

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class Formatter(logging.Formatter):
    """Says of an exception where it was raised and of which kind it is, and not all of its text,
    which may quote a row, what somebody said or a key."""

    def formatException(self, ei: Any) -> str:
        return format_error(ei[1])


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


def set_up(level: str) -> None:
    """Our own lines at `level`; libraries only when something is wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter(FORMAT))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for room in ("relay", "control", "config"):
        logging.getLogger(room).setLevel(level.upper())
    # The pool logs a traceback for each connection that it lost; the store says it in one line.
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)
    # picows logs each connection with its addresses, and what a browser gets wrong as an error of
    # ours; `session_ended` says the same in one line.
    for frames in ("relay.browser_frames", "relay.agent_frames"):
        logging.getLogger(frames).setLevel(logging.CRITICAL)
