"""One person at a browser, written as docs/protocol.md says: it comes back whenever it has to.

On the library `websockets`; knows nothing of the relay's inside. It keeps what it was told, so that
somebody can compare it with what is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

API = "/api/v1/voice"
FRAME = bytes(640)  # 20 ms of silence
PAUSES = 0.05, 0.3  # seconds between two tries, at random
OPEN_SECONDS = 10.0
OVER = frozenset({1000})  # codes after which one does not come again


class Lost(Exception):
    """This try did not work; there is another one."""


class Browser:
    """`entrances` are relays or what stands before them; after a failure one is taken at random.

    `told` has each `ConversationText`, `accepted` the id of each call with its last status, `saved`
    the numbers of `RelayMessageSaved`, all in the order in which they came. `bubbles` is what a
    page shows: each message by its number in the conversation, those that another relay told of
    too.
    """

    def __init__(self, entrances: Sequence[str], chance: random.Random, name: str) -> None:
        self.name = name
        self.conversation_id: str | None = None
        self.session_id: str | None = None
        self.told: list[tuple[str, str]] = []
        self.saved: list[int] = []
        self.bubbles: dict[int, tuple[str, str]] = {}
        self.clashes = 0  # two messages with one number
        self.accepted: dict[str, str] = {}
        self.codes: list[int | None] = []  # how each WebSocket ended
        self.refusals: list[tuple[int, str]] = []
        self.sessions = 0  # begun
        self.returns = 0  # to a session that had gone on
        self.takeovers = 0  # of these, to one that another relay has taken over
        self.is_ready = False  # the agent has taken its Settings
        self.reconnected_at = 0.0  # by the monotonic clock, the last time
        self.audio_bytes = 0
        self.patience = OPEN_SECONDS  # of one try to begin or to come back
        self._entrances = list(entrances)
        self._chance = chance
        self._ticket: str | None = None
        self._url = ""
        self._has_attached = False
        self._has_vanished = False
        self._received = 0
        self._seq: int | None = 0  # of the newest bubble; None: something was missed
        self._known = 0  # the highest number of a message that is stored
        self._socket: ClientConnection | None = None
        self._changed = asyncio.Event()
        self._lines = 0
        self._heard = self._answered = ""
        self._has_reply = False  # to what was heard: else what ends is a reply to something before

    def __repr__(self) -> str:
        return f"<Browser {self.name} told={len(self.told)} sessions={self.sessions}>"

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[Browser]:
        """It stays connected, as well as it can, while inside; then it says goodbye."""
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self._stay(), name=f"browser {self.name}")
            yield self
            await self.leave()
            task.cancel()

    def coming_line(self, turns: int = 1) -> str:
        """What is said so many turns from now. A turn that failed had a line, too."""
        return f"{self.name} line {self._lines + turns}"

    # --- what a person does --------------------------------------------------------------------

    async def turn(self, seconds: float = 3.0) -> bool:
        """Say a line that was never said before and hear the answer out; False: it did not come, or
        the connection broke before.
        """
        line = self.coming_line()
        self._lines += 1
        socket = self._socket
        try:
            if socket is None:
                raise Lost
            for _ in range(3):
                await socket.send(FRAME)
            await self.say(line)
        except (ConnectionClosed, Lost):
            await self._pause()
            return False
        await self.until(lambda: self._answered == line or self._socket is not socket, seconds)
        return self._answered == line

    async def turn_at_last(self, seconds: float) -> float:
        """Say lines until one is answered; after how many seconds. Raises `TimeoutError`."""
        began = time.monotonic()
        async with asyncio.timeout(seconds):
            while not await self.turn():
                pass
        return time.monotonic() - began

    async def say(self, line: str) -> None:
        if self._socket is None:
            raise Lost
        await self._socket.send(json.dumps({"type": "InjectUserMessage", "content": line}))

    async def shout(self, line: str) -> None:
        """Say it and do not care whether there is a connection."""
        with contextlib.suppress(ConnectionClosed, Lost):
            await self.say(line)

    async def send(self, frame: bytes) -> None:
        """One microphone frame, if there is a connection."""
        if self._socket is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._socket.send(frame)

    async def until(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Wait for something that comes and makes `condition` true."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    @property
    def is_connected(self) -> bool:
        return self._socket is not None

    @property
    def place(self) -> str | None:
        """The entrance by which it is connected."""
        return self._entrances[0] if self.is_connected else None

    def cut(self) -> None:
        """The network is gone: no goodbye."""
        if self._socket is not None:
            self._socket.transport.abort()

    def vanish(self) -> None:
        """The same, and it does not come back."""
        self._has_vanished = True
        self.cut()

    async def leave(self) -> None:
        """Say goodbye; the session is over."""
        if self._socket is not None:
            await self._socket.close(1000)

    # --- staying connected ---------------------------------------------------------------------

    async def _stay(self) -> None:
        while not self._has_vanished:
            try:
                if self._ticket is None:
                    await self._begin()
                await self._attach()
            except (Lost, OSError, InvalidHandshake, EOFError):
                self._chance.shuffle(self._entrances)
                await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.uniform(*PAUSES))  # what a real one does, too

    async def _begin(self) -> None:
        body = {} if self.conversation_id is None else {"conversation_id": self.conversation_id}
        status, begun = await self._post(f"{API}/session", json.dumps(body).encode())
        if status != 201:
            self.refusals.append((status, begun.get("code", "")))
            raise Lost
        self.conversation_id, self.session_id = begun["conversation_id"], begun["session_id"]
        self._ticket = begun["ticket"]
        self._has_attached = False
        self._received = 0
        self._learn(begun["messages"])
        self.sessions += 1

    async def _post(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """On a connection of its own. With a thousand browsers the pool of a client looks at all
        its connections for each request: that took longer than all else that a browser does."""
        place = urlsplit(self._entrances[0])
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        async with asyncio.timeout(self.patience):
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            try:
                writer.write(head.encode() + body)
                status, _, rest = (await reader.read()).partition(b"\r\n")
            finally:
                writer.close()
        try:
            return int(status.split()[1]), json.loads(rest.partition(b"\r\n\r\n")[2])
        except (IndexError, ValueError):
            raise Lost from None

    async def _attach(self) -> None:
        place = self._entrances[0].replace("http", "ws", 1)
        url = f"{place}{API}/session/{self.session_id}/ws"
        if self._has_attached:
            url += f"?received={self._received}&seq={self._known}"
        try:
            socket = await connect(
                url,
                subprotocols=["relay.v1", self._ticket],
                compression=None,
                open_timeout=self.patience,
                close_timeout=1.0,
                ping_interval=None,
                max_size=None,
                proxy=None,
            )
        except InvalidStatus as refused:
            self._refused(refused)
            raise
        async with socket:
            await self._read(socket)

    def _refused(self, refused: InvalidStatus) -> None:
        status = refused.response.status_code
        try:
            code = json.loads(refused.response.body or b"{}").get("code", "")
        except ValueError:
            code = ""
        self.refusals.append((status, code))
        # Somebody who stops may be followed by somebody who knows the session.
        if code != "stopping" or not self._has_attached:
            self._ticket = None

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for frame in socket:
                if isinstance(frame, str):
                    self._take(json.loads(frame), socket)
                else:
                    self.audio_bytes += len(frame)
                self._changed.set()
        except ConnectionClosed:
            pass  # the code says how
        finally:
            if self._socket is socket:
                self._socket = None
            self.codes.append(socket.close_code)
            self._changed.set()
        if socket.close_code in OVER:
            self._ticket = None
        raise Lost

    def _take(self, event: dict[str, Any], socket: ClientConnection) -> None:
        if event["type"] == "RelaySession":
            self.returns += self._has_attached
            if event.get("taken_over"):  # another process counts anew
                self.takeovers += 1
                self._received = 0
            self._has_attached = True
            self._seq = event.get("last_seq", self._seq)
            self._learn(event.get("messages", []))
            self._ticket = event["resume_ticket"]
            self._socket = socket
            return
        self._received += 1
        match event["type"]:
            case "ConversationText":
                self.told.append((event["role"], event["content"]))
                if self._seq is not None:
                    self._seq += 1
                    self._show(self._seq, event)
                self._has_reply = event["role"] == "assistant"
                if event["role"] == "user":
                    self._heard = event["content"]
            case "AgentAudioDone" if self._has_reply:
                self._answered = self._heard
            case "RelayMessageSaved":
                self.saved.append(event["seq"])
                self._known = max(self._known, event["seq"])
            case "RelayIntent":
                self.accepted[event["id"]] = event["status"]
            case "SettingsApplied":
                self.is_ready = True
            case "RelayReconnected":
                self.reconnected_at = time.monotonic()
            case "RelayGoAway":
                self._ticket = event["resume_ticket"]
            case "RelayError" if event["code"] == "events_missed":
                self._seq = None  # until a relay says where it is

    def _learn(self, messages: Sequence[dict[str, Any]]) -> None:
        """Of messages that are stored."""
        for message in messages:
            self._known = max(self._known, message["seq"])
            self._show(message["seq"], message)

    def _show(self, seq: int, message: dict[str, Any]) -> None:
        line = message["role"], message["content"]
        self.clashes += self.bubbles.setdefault(seq, line) != line
