"""Pages of a list: how much of it is asked for, and the cursor that leads to the next one.

Control plane. A cursor is opaque to clients: base64url of the position of the last item shown. It
carries no secret and grants nothing: every list is filtered by its user again.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, TypeVar

import msgspec
from litestar.params import QueryParameter

from control.errors import Mistake, invalid

LIMIT = 50
LIMIT_MAX = 200
CURSOR_MAX = 200  # characters; ours have less than a hundred

Limit = Annotated[int, QueryParameter(ge=1, le=LIMIT_MAX, description="items on a page")]
Cursor = Annotated[
    str | None,
    QueryParameter(max_length=CURSOR_MAX, description="`next_cursor` of the page before"),
]

_Position = TypeVar("_Position", bound=tuple[object, ...])
_Item = TypeVar("_Item")


def write_cursor(position: tuple[object, ...]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode().rstrip("=")


def read_cursor(cursor: str | None, position: type[_Position]) -> _Position | None:
    """Raises `ProblemError` (400) for what `write_cursor` did not make for this kind of list."""
    if cursor is None:
        return None
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=="), type=position)
    except ValueError:  # of either
        found = None
    # Ours says the same when it is written again; Postgres takes every instant that has UTC.
    if found is None or write_cursor(found) != cursor or not _is_in_utc(found):
        raise invalid(Mistake("cursor", "expected next_cursor of an earlier page of this list"))
    return found


def _is_in_utc(position: tuple[object, ...]) -> bool:
    return all(v.utcoffset() == timedelta(0) for v in position if isinstance(v, datetime))


def cut_page(
    found: Sequence[_Item], limit: int, locate: Callable[[_Item], tuple[object, ...]]
) -> tuple[list[_Item], str | None]:
    """The items to show, and the cursor to the next ones, which `locate` gives the position for.

    Lists ask the store for one more than `limit`: it says whether there is a next page.
    """
    shown = list(found[:limit])
    return shown, write_cursor(locate(shown[-1])) if len(found) > limit else None
