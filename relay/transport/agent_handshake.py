"""The WebSocket handshake with the agent, up to the frames, which are picows' own.

picows connects, asks and checks the answer, but takes `Connection` and `Upgrade` of a 101 for one
word each, and a connection that ends before the answer for a success. RFC 9110 says that they are
lists of words, in any case and in several lines, and proxies make use of it: the head of the answer
is put into picows' form before it sees it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from ssl import SSLContext
from typing import Any, cast

import aiofastnet
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # not in its stubs
from picows.proxy import ConnectedTransport, WSSocketFactory, connect_through_optional_proxy
from picows.url import WSParsedURL

_MAX_HEAD = 16 * 1024  # picows refuses more
_END = b"\r\n\r\n"
_LISTS = {b"connection": b"upgrade", b"upgrade": b"websocket"}  # and the word that counts


class _Answer(asyncio.Protocol):
    """Reads the head of the answer, then hands the connection to `frames`."""

    def __init__(self, frames: Any) -> None:
        self._frames = frames
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._frames.connection_made(transport)  # asks

    def data_received(self, data: bytes) -> None:
        self._head += data
        if _END not in self._head and len(self._head) < _MAX_HEAD:
            return
        head, end, rest = self._head.partition(_END)
        self._transport.set_protocol(self._frames)
        answer = memoryview(normalise(head) + end + rest)
        while answer:
            room = self._frames.get_buffer(-1)
            part = answer[: len(room)]
            room[: len(part)] = part
            self._frames.buffer_updated(len(part))
            answer = answer[len(part) :]

    def connection_lost(self, exc: Exception | None) -> None:
        self._frames.connection_lost(exc)


def normalise(head: bytes) -> bytes:
    """The head of an answer, with each list that names our word written as that word alone."""
    kept, found = [], set()
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        ours = _LISTS.get(name.lower())
        if ours is None:
            kept.append(line)
        elif ours in (word.strip().lower() for word in value.split(b",")):
            found.add(name.lower() + b": " + ours)
    return b"\r\n".join([*kept, *sorted(found)])


async def shake_hands(
    make_frames: Callable[[], WSProtocol],
    url: WSParsedURL,
    *,
    tls: SSLContext | None,
    proxy: WSParsedURL | None,
    proxy_tls: SSLContext | None,
    open_socket: WSSocketFactory,
) -> None:
    """Connect and ask; on return the listener of the frames was told that it is connected.

    Raises what picows does, and `ConnectionResetError` when the other side hung up before it
    answered.
    """
    loop = asyncio.get_running_loop()
    frames = make_frames()
    more: dict[str, Any] = {}
    connect: Callable[..., Any] = partial(aiofastnet.create_connection, loop)
    way = await connect_through_optional_proxy(
        loop, url, proxy, open_socket, tls, proxy_tls, more, connect
    )
    if isinstance(way, ConnectedTransport):
        await _go_on(way.transport, _Answer(frames), url.host, tls)
    else:
        await connect(lambda: _Answer(frames), None, None, ssl=tls, sock=way.sock, **more)
    await frames.wait_until_handshake_complete()
    if frames.listener is None:
        raise ConnectionResetError("the connection ended before the answer")


async def _go_on(
    transport: asyncio.Transport, answer: _Answer, host: str, tls: SSLContext | None
) -> None:
    """Ask over the tunnel of a proxy."""
    loop = asyncio.get_running_loop()
    try:
        if tls is not None:
            through = await aiofastnet.start_tls(
                loop, transport, transport.get_protocol(), tls, server_hostname=host
            )
            if through is None:
                raise ConnectionResetError("the tunnel ended while TLS began")
            transport = through
        if transport.is_closing():  # and whoever listens next is not told
            raise ConnectionResetError("the tunnel ended as it was opened")
        transport.set_protocol(answer)
        answer.connection_made(transport)
    except BaseException:
        transport.abort()
        raise
