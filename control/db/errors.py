"""What an error of the database means: do the values not fit, or is it away?

Control plane, pure. There is one rule: whatever the driver or the server raises means that the
database is away and that the same may work later, also what nobody has met yet. Only a defect of
the values themselves will come again however often they are sent.
"""

from __future__ import annotations

import asyncpg

from relay.journal.journal import WriteRefused

# Classes of SQLSTATE in which the values are to blame: data exception, integrity constraint
# violation, program limit exceeded. Class 22 is also what asyncpg raises for an argument.
_OF_VALUES = ("22", "23", "54")
# What turning values into bytes may raise on our side.
_NOT_ENCODABLE = (UnicodeEncodeError, OverflowError, RecursionError)
_OF_THE_CONNECTION = ("FATAL", "PANIC")
# What the driver raises when the database is away. A RuntimeError is uvloop's for a connection
# that was closed under the driver.
FROM_DATABASE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    UnicodeError,
    OverflowError,
    RuntimeError,
)


class ValuesRefused(WriteRefused):
    """The database will never take these values: sending them again does not help."""


def is_of_values(error: BaseException) -> bool:
    """Whether the values are to blame, so that trying again does not help."""
    if isinstance(error, asyncpg.PostgresError):
        return not _is_fatal(error) and (error.sqlstate or "").startswith(_OF_VALUES)
    return isinstance(error, _NOT_ENCODABLE)


def describe(error: BaseException) -> str:
    """One line that quotes no row and no argument: the server's texts, its DETAIL above all, do.

    An error that ends the connection is about the connection, and is said in full.
    """
    name = type(error).__name__
    if isinstance(error, asyncpg.PostgresError):
        places = {one: getattr(error, f"{one}_name") for one in ("table", "column", "constraint")}
        found = [f"{place}={value}" for place, value in places.items() if value]
        line = " ".join([name, error.sqlstate or "", *found]).rstrip()
        return f"{line}: {first_line(error)}" if _is_fatal(error) else line
    if isinstance(error, ValueError) or not isinstance(
        error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError
    ):
        return name  # it may quote an argument, or the URL with its password
    return first_line(error)


def _is_fatal(error: asyncpg.PostgresError) -> bool:
    return (error.severity_en or error.severity) in _OF_THE_CONNECTION


def first_line(error: BaseException) -> str:
    """What server or driver say, which may quote a row: for who connects or migrates."""
    text = (error.args[0] if isinstance(error, asyncpg.PostgresError) else str(error)) or ""
    return next(iter(str(text).strip().splitlines()), type(error).__name__)
