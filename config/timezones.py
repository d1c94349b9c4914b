"""Time zones by their IANA names, as far as this machine knows them."""

from __future__ import annotations

from datetime import tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

LONGEST = 64  # characters; the longest of the database has half of them


def find(name: str) -> tzinfo | None:
    """None: there is no such zone. Whatever the text is, nothing is raised."""
    if len(name) > LONGEST:
        return None
    try:
        return ZoneInfo(name)
    # No such file, no file in it, a path that leads elsewhere, a name that no file can have.
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
