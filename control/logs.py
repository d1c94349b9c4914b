"""How the program logs: one line each, to standard error; no transcript, ticket, key or prompt."""

from __future__ import annotations

import logging

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def set_up(level: str) -> None:
    """Our own lines at `level`; libraries only when something is wrong."""
    logging.basicConfig(format=FORMAT, level=logging.WARNING, force=True)
    for room in ("relay", "control", "config"):
        logging.getLogger(room).setLevel(level.upper())
    # The pool logs a traceback for each connection that it lost; the store says it in one line.
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)
    # picows logs each connection with its addresses, and what a browser gets wrong as an error of
    # ours; `session_ended` says the same in one line.
    for frames in ("relay.browser_frames", "relay.agent_frames"):
        logging.getLogger(frames).setLevel(logging.CRITICAL)
