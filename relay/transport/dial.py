"""Opens the agent's WebSocket with the real key, and leaves nothing behind when it is given up.

The key goes into the request and nowhere else: no log line, no exception.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from time import monotonic
from urllib.parse import urlsplit

from aiohappyeyeballs import start_connection
from picows import WSAutoPingStrategy, WSError, WSInvalidStatusError, WSParsedURL
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # not in its stubs
from picows.url import parse_url
from python_socks import ProxyError
from python_socks._errors import IncompleteReadError  # picows lets it through

from relay.telemetry.metrics import Metrics
from relay.token_bucket import TokenBucket
from relay.transport import network_errors
from relay.transport.agent_handshake import shake_hands
from relay.transport.connection import Connection
from relay.transport.egress import Egress
from relay.transport.retry_after import read_retry_after

log = logging.getLogger(__name__)
# picows logs each connection at INFO with addresses; ours is the one line at the end of a session.
frames_log = logging.getLogger("relay.agent_frames")

NEXT_ADDRESS_SECONDS = 0.25  # what RFC 8305 recommends
COUNTED_STATUSES = {301, 302, 307, 308, *range(400, 406), 408, 413, 429, *range(500, 505)}
MAX_BODY = 2_000  # of a refusal, for who looks after it
# Of all dials, in a row. More than the tries of one session, so that one that is alone is never
# held up.
FAILURES = 10
PER_SECOND = 2.0  # how many go out then
READ_BUFFER_BYTES = 8 * 1024  # a sentence comes in frames of 1 to 4 KiB; it grows when they do not


class DialFailed(Exception):
    """The agent's WebSocket did not open; the text says why, for operators.

    `status` is the HTTP status of a refusal and `body` the beginning of its text, None and empty
    when there was none; `retry_after` is for how many seconds it asks to be left alone. Without a
    status the text begins with a name of network_errors.py, if it has one.
    """

    def __init__(
        self, text: str, status: int | None = None, body: bytes = b"", retry_after: float = 0.0
    ) -> None:
        super().__init__(text)
        self.status = status
        self.body = body
        self.retry_after = retry_after


Dial = Callable[[Connection], Awaitable[None]]
"""Connects a connection; raises `DialFailed` and nothing else."""


class Dialler:
    """How to reach the agent: address, key, the way out and time-outs."""

    def __init__(
        self,
        url: str,
        key: Callable[[], str],
        *,
        ping_seconds: float,
        seconds: float,
        max_message_bytes: int,
        egress: Egress | None = None,
    ) -> None:
        """Without `egress`: no proxy, and the system's TLS."""
        self._url = url
        self._key = key
        self._tls = None
        if urlsplit(url).scheme == "wss":
            self._tls = egress.tls if egress else ssl.create_default_context()
        found = egress.find_proxy(url) if egress else None
        # python-socks has one name for both; it lets the proxy resolve names.
        self._proxy = found.reveal().replace("socks5h://", "socks5://", 1) if found else None
        is_tls = self._proxy and self._proxy.startswith("https://")
        self._proxy_tls = egress.tls if egress and is_tls else None
        self._ping_seconds = ping_seconds
        self._seconds = seconds
        self._max_message_bytes = max_message_bytes

    def __repr__(self) -> str:
        return f"<Dialler {self._url}>"

    async def dial(self, connection: Connection) -> None:
        """Connect `connection`. Raises `DialFailed`; when cancelled, no socket stays open."""
        sockets: list[socket.socket] = []

        async def open_socket(url: WSParsedURL) -> socket.socket:
            opened = await _connect(url.host, url.port)
            sockets.append(opened)
            return opened

        try:
            url = parse_url(self._url)
            await shake_hands(
                lambda: self._make_frames(url, connection),
                url,
                tls=self._tls,
                proxy=parse_url(self._proxy, False) if self._proxy else None,
                proxy_tls=self._proxy_tls,
                open_socket=open_socket,
            )
        except asyncio.CancelledError:
            # picows leaves a connection open whose handshake was cancelled: shut it ourselves.
            # One whose handshake is done belongs to its connection, and is closed politely by it.
            if not connection.is_open:
                for opened in sockets:
                    _shut(opened)
            raise
        except WSInvalidStatusError as error:
            raise _refused(error) from None
        except WSError as error:
            raise DialFailed(f"{type(error).__name__}: {error}") from None
        except (OSError, UnicodeError, ProxyError, IncompleteReadError) as error:
            raise DialFailed(
                network_errors.explain(error, proxied=self._proxy is not None)
            ) from None

    def _make_frames(self, url: WSParsedURL, connection: Connection) -> WSProtocol:
        return WSProtocol(
            url.netloc,
            url.resource_name,
            True,  # is_client_side
            lambda: connection,
            frames_log,
            True,  # disconnect_on_exception
            self._seconds,
            True,  # enable_auto_ping
            self._ping_seconds,
            self._ping_seconds,  # auto_ping_reply_timeout
            WSAutoPingStrategy.PING_WHEN_IDLE,
            False,  # enable_auto_pong: the connection does it, within bounds
            self._max_message_bytes,
            {"Authorization": f"Token {self._key()}"},
            READ_BUFFER_BYTES,
        )


class LimitedDial:
    """A `Dial` for all sessions of a process: few when none gets through, and nothing that a dial
    raises ends more than it.

    It is a circuit breaker that is never quite open: a few dials a second always go out, from
    whichever session comes, and the first that succeeds lets all others go again.
    """

    def __init__(self, dial: Dial, metrics: Metrics) -> None:
        self._dial = dial
        self._dials = metrics.dials
        self._reasons = metrics.dial_failures
        self._failures = 0  # in a row
        self._bucket = TokenBucket(PER_SECOND, PER_SECOND, monotonic())
        self._last = DialFailed("")

    async def dial(self, connection: Connection) -> None:
        """As `Dial` says; while dials are limited it may fail as the last one did."""
        if self._failures >= FAILURES and not self._bucket.take(1, monotonic()):
            self._dials.labels(outcome="limited").inc()
            last = self._last
            said = f"not dialled, too many failed: {last}"
            raise DialFailed(said, last.status, last.body, last.retry_after)
        try:
            await self._dial(connection)
        except DialFailed as error:
            self._failed("failed", error)
            raise
        except Exception as error:
            log.exception("dial_broken")
            failed = DialFailed(f"{network_errors.NOTHING}: {type(error).__name__}")
            self._failed("broken", failed)
            raise failed from error
        self._dials.labels(outcome="opened").inc()
        if self._failures >= FAILURES:
            log.warning("dials_recovered")
        self._failures = 0

    def _failed(self, outcome: str, error: DialFailed) -> None:
        self._dials.labels(outcome=outcome).inc()
        self._reasons.labels(reason=_name(error)).inc()
        self._last = error
        self._failures += 1
        if self._failures == FAILURES:
            log.warning("dials_limited failures=%d last=%s", FAILURES, error)


def _name(error: DialFailed) -> str:
    """For who counts: one of few."""
    word, _, _ = str(error).partition(":")
    known = str(error.status) if error.status in COUNTED_STATUSES else "other"
    return word if error.status is None and word in network_errors.NAMES else known


async def _connect(host: str, port: int) -> socket.socket:
    """An address of `host` that accepts, several tried at once where one is slow (RFC 8305);
    raises OSError, or UnicodeError for what can be no name."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    return await start_connection(found, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS)


def _refused(error: WSInvalidStatusError) -> DialFailed:
    answer = error.response
    assert answer is not None, "picows raises it of an answer"
    body = bytes(error.raw_body or b"")[:MAX_BODY]
    wait = read_retry_after(answer.headers.get("Retry-After", ""))
    status = int(answer.status)
    return DialFailed(f"the agent answered HTTP {status}", status, body, wait)


def _shut(opened: socket.socket) -> None:
    # The event loop owns the descriptor; a shut-down is seen by it as the end of the connection.
    try:
        opened.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it was gone already
