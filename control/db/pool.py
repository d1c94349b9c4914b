"""The door to Postgres: connects as DATABASE_URL says, and names what is wrong when that fails.

Control plane. Everybody who opens a connection does it here: the store, migrations, notices, the
doctor, the local Orchestrator. The URL is read in config/database_url.py.
"""

from __future__ import annotations

import functools
import logging
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
import certifi

from config.database_url import ignored_parameters, is_exposed, read_database_url
from config.errors import Explained
from control.db.errors import FROM_DATABASE, first_line

Connection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)

CONNECT_SECONDS = 10.0
SILENT = "the database does not answer"

_UNUSABLE = "DATABASE_URL cannot be used"


class ConnectFailed(Explained, ConnectionError):
    """There is no connection that is of use; the text is one line that says what to do.

    `reason` may be shown to anybody: it names nothing. `passes`: somebody was there and said that
    it is not the moment; else an operator has to look.
    """

    def __init__(
        self, reason: str, detail: str = "", advice: str = "", *, passes: bool = False
    ) -> None:
        said = f"{reason}: {detail}" if detail else reason
        super().__init__(f"{said}; {advice}" if advice else said)
        self.reason = reason
        self.passes = passes


async def connect(
    database_url: str,
    *,
    application_name: str = "voice-relay",
    timeout: float = CONNECT_SECONDS,
    **options: Any,
) -> asyncpg.Connection[asyncpg.Record]:
    """One connection, on which nothing is kept prepared: a transaction pooler may stand between.

    Raises `ConnectFailed`, and nothing else.
    """
    try:
        url = read_database_url(database_url)
    except ValueError as error:
        # Its cause may hold the URL.
        raise ConnectFailed("DATABASE_URL cannot be read", str(error), "correct it") from None
    for name, path in url.files.items():  # the driver would not say which one is missing
        if not os.access(path, os.R_OK):
            raise ConnectFailed(_UNUSABLE, f"no file to read at {path}", f"check {name}")
    options.setdefault("statement_cache_size", 0)
    if not url.names_application:
        options["server_settings"] = {"application_name": application_name}
    try:
        if url.trust_system:
            options["ssl"] = _system_tls()
        return await asyncpg.connect(url.dsn.reveal(), timeout=timeout, **options)
    # A ValueError is a host that cannot be encoded, or a setting that the driver does not take.
    except (*FROM_DATABASE, ValueError) as error:
        raise explain(error) from error


@asynccontextmanager
async def connected(
    database_url: str, **options: Any
) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection while inside. Raises `ConnectFailed` when there is none."""
    connection = await connect(database_url, **options)
    try:
        yield connection
    finally:
        connection.terminate() if connection.is_closed() else await connection.close(timeout=5.0)


def make_pool(database_url: str, *, size: int, **options: Any) -> asyncpg.Pool[asyncpg.Record]:
    """A pool that opens a connection when one is needed; to be awaited or entered.

    Whoever acquires one may get `ConnectFailed`. `options` are asyncpg's.
    """
    pool: asyncpg.Pool[asyncpg.Record] = asyncpg.create_pool(  # type: ignore[call-overload]
        database_url,
        connect=connect,  # its options are not all of asyncpg's own
        min_size=0,
        max_size=size,
        statement_cache_size=0,
        **options,
    )
    return pool


def log_oddities(database_url: str, log: logging.Logger) -> None:
    """Once a program: which parameters of the URL say nothing to us, and whether TLS is missing."""
    ignored = ignored_parameters(database_url)
    if ignored:
        log.warning("database_parameters_ignored names=%s", ",".join(ignored))
    if is_exposed(database_url):
        log.warning("database_unencrypted advice=%s", "sslmode=require, or verify-full")


def find_reason(error: BaseException) -> str:
    """What may be shown to anybody of an error of the database."""
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        error = explain(error)
    return error.reason if isinstance(error, ConnectFailed) else SILENT


def explain(error: BaseException) -> ConnectFailed:
    """What a failed connection means. The server's own words are in it, the URL is not."""
    said = first_line(error)
    match error:
        case ssl.SSLCertVerificationError():
            advice = (
                "name its authority (sslrootcert=FILE in DATABASE_URL, or sslrootcert=system), and "
                "the host as the certificate has it"
            )
            reason = "the certificate of the database is not trusted"
            return ConnectFailed(reason, error.verify_message or said, advice)
        case ssl.SSLError():
            said = (error.reason or "no handshake").lower().replace("_", " ")
            advice = "check sslmode and the files of certificates in DATABASE_URL"
            return ConnectFailed("TLS with the database fails", said, advice)
        case asyncpg.PostgresError():
            return _explain_refusal(error, said)
        case asyncpg.ClientConfigurationError() if said.startswith("root certificate file"):
            advice = (
                "add sslrootcert=FILE to DATABASE_URL, or sslrootcert=system for an authority that "
                "is publicly trusted"
            )
            return ConnectFailed("there is no root certificate for the database", said, advice)
        case asyncpg.ClientConfigurationError():
            return ConnectFailed(_UNUSABLE, said, "correct it")
        case UnicodeError() | ValueError():
            advice = "check host and parameters in DATABASE_URL"
            return ConnectFailed(_UNUSABLE, type(error).__name__, advice)
        case ConnectionError() if "rejected SSL upgrade" in said:
            advice = "set sslmode=prefer in DATABASE_URL, or switch TLS on at the server"
            return ConnectFailed("the database offers no TLS", "", advice)
        case TimeoutError():
            advice = "check host and port in DATABASE_URL, and firewalls"
            return ConnectFailed(SILENT, "no answer in time", advice)
    return ConnectFailed(SILENT, said, "check DATABASE_URL")


_BAD_PARAMETER = (
    "the database refuses a parameter of DATABASE_URL",
    "remove the parameter from DATABASE_URL",
    False,
)
# By SQLSTATE, or its class. Poolers have codes of their own making for what they refuse.
_REFUSALS = {
    "28": ("the database refuses our account", "check user and password in DATABASE_URL", False),
    "3D000": ("there is no such database", "check its name in DATABASE_URL, or make it", False),
    "42501": ("the database refuses our account", "give it what docs/deploy.md says", False),
    "42704": _BAD_PARAMETER,
    "22": _BAD_PARAMETER,
    "42601": _BAD_PARAMETER,
    "55P02": _BAD_PARAMETER,
    "53": (
        "the database takes no more connections",
        "end some, or raise its limit or the pooler's",
        True,
    ),
    "57P03": ("the database is starting or stopping", "wait for it", True),
    "57": ("the database ends connections", "see its log", True),
    "08": (SILENT, "check DATABASE_URL, and what stands before the database", True),
}
_POOLER_WORDS = (
    ("unsupported startup parameter", "42704"),
    ("unrecognized configuration parameter", "42704"),
    ("authentication", "28"),
    ("no such user", "28"),
    ("tenant or user not found", "28"),
    ("no such database", "3D000"),
    ("max", "53"),
    ("too many", "53"),
    ("no more connections", "53"),
)


def _explain_refusal(error: asyncpg.PostgresError, said: str) -> ConnectFailed:
    code = error.sqlstate or ""
    if code:
        said = f"{said} ({code})"
    if code[:2] in ("08", "XX", "58", "0A", ""):  # as poolers say whatever they have to say
        words = said.lower()
        code = next((known for word, known in _POOLER_WORDS if word in words), code)
    unknown = ("the database refuses the connection", "see its log", True)
    reason, advice, passes = _REFUSALS.get(code) or _REFUSALS.get(code[:2]) or unknown
    return ConnectFailed(reason, said, advice, passes=passes)


@functools.cache  # the file is large, and connections are opened while others are in conversation
def _system_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    known = ssl.get_default_verify_paths()
    if known.cafile is None and known.capath is None:  # an image without authorities
        context.load_verify_locations(certifi.where())
    return context
