"""How the program logs: one line each, to standard error; no transcript, ticket, key or prompt."""

from __future__ import annotations

import logging
import textwrap
import traceback
from typing import Any

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class Formatter(logging.Formatter):
    """Says of an exception where it was raised and of which kind it is, and not all of its text,
    which may quote a row, what somebody said or a key."""

    def formatException(self, ei: Any) -> str:
        return format_error(ei[1])


def format_error(error: BaseException) -> str:
    """The traceback, those of its causes before it; a database's error with its first line."""
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
    """Its kind. Of a database's error, too, what it is about, where that is no value of a row."""
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    state = getattr(error, "sqlstate", None)
    if state is None:
        return name
    # Class 22 are wrong values, quoted; P0 what a trigger says. DETAIL and CONTEXT are left out.
    text = "" if state.startswith(("22", "P0")) else f": {str(error).splitlines()[0]}"
    return f"{name} ({state}){text}"


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
