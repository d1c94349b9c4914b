"""Opens the agent's WebSocket with the real key, and leaves nothing behind when it is given up.

The key goes into the request and nowhere else: no log line, no exception.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from picows import WSError, WSInvalidStatusError, WSInvalidURL, WSParsedURL, ws_connect
from python_socks import ProxyError
from python_socks._errors import IncompleteReadError  # picows lets it through

from relay import trouble
from relay.egress import Egress
from relay.legs import Leg

# picows logs each connection at INFO with addresses; ours is the one line at the end of a session.
log = logging.getLogger("relay.agent_frames")

MAX_BODY = 2_000  # of a refusal, for who looks after it
READ_BUFFER_BYTES = 8 * 1024  # a sentence comes in frames of 1 to 4 KiB; it grows when they do not


class DialFailed(Exception):
    """The agent's WebSocket did not open; the text says why, for operators.

    `status` is the HTTP status of a refusal and `body` the beginning of its text, None and empty
    when there was none. Without a status the text begins with one of `trouble.WORDS`, if it has a
    name.
    """

    def __init__(self, text: str, status: int | None = None, body: bytes = b"") -> None:
        super().__init__(text)
        self.status = status
        self.body = body


Dial = Callable[[Leg], Awaitable[None]]


class Dialler:
    """How to reach the agent: address, key, the way out and time-outs."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        ping_seconds: float,
        seconds: float,
        max_message_bytes: int,
        egress: Egress | None = None,
    ) -> None:
        """Without `egress`: no proxy, and the system's TLS."""
        self._url = url
        self._key = key
        secure = urlsplit(url).scheme == "wss"
        self._tls = egress.make_tls() if egress and secure else None
        found = egress.find_proxy(url) if egress else None
        # python-socks has one name for both; it lets the proxy resolve names.
        self._proxy = found.reveal().replace("socks5h://", "socks5://", 1) if found else None
        needs_tls = egress and self._proxy and self._proxy.startswith("https://")
        self._proxy_tls = egress.make_tls() if egress and needs_tls else None
        self._ping_seconds = ping_seconds
        self._seconds = seconds
        self._max_message_bytes = max_message_bytes

    def __repr__(self) -> str:
        return f"<Dialler {self._url}>"

    async def dial(self, leg: Leg) -> None:
        """Connect `leg`. Raises `DialFailed`; when cancelled, no socket stays open."""
        sockets: list[socket.socket] = []

        async def connect(url: WSParsedURL) -> socket.socket:
            opened = await _connect(url.host, url.port)
            sockets.append(opened)
            return opened

        try:
            await ws_connect(
                lambda: leg,
                self._url,
                extra_headers={"Authorization": f"Token {self._key}"},
                websocket_handshake_timeout=self._seconds,
                enable_auto_ping=True,
                auto_ping_idle_timeout=self._ping_seconds,
                auto_ping_reply_timeout=self._ping_seconds,
                enable_auto_pong=False,  # the leg does it, within bounds
                max_frame_size=self._max_message_bytes,
                max_redirects=0,
                logger_name=log,
                read_buffer_init_size=READ_BUFFER_BYTES,
                socket_factory=connect,
                ssl_context=self._tls,
                proxy=self._proxy,
                proxy_ssl_context=self._proxy_tls,
            )
        except asyncio.CancelledError:
            # picows leaves a connection open whose handshake was cancelled: shut it ourselves.
            # One whose handshake is done belongs to its leg, and is closed politely by it.
            if not leg.is_open:
                for opened in sockets:
                    _shut(opened)
            raise
        except WSInvalidStatusError as error:
            status = int(error.response.status) if error.response else None
            body = bytes(error.raw_body or b"")[:MAX_BODY]
            raise DialFailed(f"the agent answered HTTP {status}", status, body) from None
        except (OSError, ProxyError, IncompleteReadError) as error:
            raise DialFailed(trouble.explain(error, proxied=self._proxy is not None)) from None
        except (WSError, WSInvalidURL) as error:
            raise DialFailed(f"{type(error).__name__}: {error}") from None


async def _connect(host: str, port: int) -> socket.socket:
    """The first address of `host` that accepts; raises OSError."""
    loop = asyncio.get_running_loop()
    failed: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        opened = socket.socket(family, kind, protocol)
        opened.setblocking(False)
        try:
            await loop.sock_connect(opened, address)
        except OSError as error:
            opened.close()
            failed = error
        except asyncio.CancelledError:
            opened.close()
            raise
        else:
            return opened
    raise failed


def _shut(opened: socket.socket) -> None:
    # The event loop owns the descriptor; a shut-down is seen by it as the end of the connection.
    try:
        opened.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it was gone already
