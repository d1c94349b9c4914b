"""The sandbox agent's server: handshake, one task group per session, the faults of the network.

    async with serve(Options(), port=0) as running:
        ...dial running.agent_url...

It does what `agent.Agent` decides. Ears and voice (`speech.Speech`) run in threads; nothing here
waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence

from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from relay.sandbox import handshake
from relay.sandbox.agent import Agent
from relay.sandbox.door import door_for
from relay.sandbox.ear import Ear, Utterance
from relay.sandbox.moves import (
    Action,
    End,
    EndSpeech,
    Event,
    Heard,
    Listen,
    Play,
    Received,
    SendAudio,
    SendText,
    SpeechStarted,
    Voice,
    Voiced,
    Wake,
)
from relay.sandbox.options import Options
from relay.sandbox.script import Ending
from relay.sandbox.session import AgentSession
from relay.sandbox.sound import Recorded

KEPT_SESSIONS = 2_000  # in `Running.sessions`
WAITING_ACTIONS = 256  # batches of one session; the reader waits when there are more
CLOSE_SECONDS = 1.0  # for the client's half of the closing handshake
LARGEST_MESSAGE = 4 * 1024 * 1024

ReaderGone = None
"""In the queue of what was decided: the client has left."""


class Running:
    """A server that is up. `sessions` has the live and the finished ones, oldest first."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.sessions: deque[AgentSession] = deque(maxlen=KEPT_SESSIONS)
        self._arrived = asyncio.Event()

    @property
    def agent_url(self) -> str:
        return f"ws://{self._authority}{handshake.AGENT_PATH}"

    @property
    def api_url(self) -> str:
        return f"http://{self._authority}"

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    async def session(self, index: int = 0) -> AgentSession:
        """The `index`-th session; waits until it is there."""
        while len(self.sessions) <= index:
            self._arrived.clear()
            await self._arrived.wait()
        return self.sessions[index]

    def add(self, session: AgentSession) -> None:
        self.sessions.append(session)
        self._arrived.set()


@contextlib.asynccontextmanager
async def serve(
    options: Options, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Running]:
    """A sandbox agent; port 0 takes a free one. On the way out every session is cut.

    Raises OSError if the address cannot be had.
    """
    gate = handshake.Gate(options.api_key)
    running = Running(host, port)
    reception = _Reception(options, gate, running)
    # Refused and broken handshakes are the sandbox's business, not news.
    log = logging.getLogger("relay.sandbox.websockets")
    log.setLevel(logging.CRITICAL)
    server = await serve_websockets(
        reception.converse,
        host,
        port,
        process_request=reception.greet,
        process_response=reception.label,
        select_subprotocol=reception.choose,
        create_connection=door_for(gate),
        compression=None,
        max_size=LARGEST_MESSAGE,
        ping_interval=options.ping_seconds,
        close_timeout=CLOSE_SECONDS,
        open_timeout=10 + options.handshake_delay,
        server_header=None,
        logger=log,
    )
    running.port = _port(server)
    try:
        yield running
    finally:
        for connection in server.connections:
            connection.transport.abort()
        server.close()
        await server.wait_closed()


async def run(options: Options, host: str, port: int, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. Raises OSError if the address cannot be had."""
    async with serve(options, host=host, port=port):
        await stop.wait()


def _port(server: Server) -> int:
    return int(next(iter(server.sockets)).getsockname()[1])


class _Reception:
    """What `websockets` asks while a connection is opened."""

    def __init__(self, options: Options, gate: handshake.Gate, running: Running) -> None:
        self._options = options
        self._gate = gate
        self._running = running

    async def greet(self, connection: ServerConnection, request: Request) -> Response | None:
        """None to go on with the upgrade, else the answer."""
        if self._options.handshake_delay:
            await asyncio.sleep(self._options.handshake_delay)
        path = request.path.partition("?")[0]
        if path == handshake.MODELS_PATH:
            return _json(200, handshake.models_body())
        request_id = str(connection.id)
        if path != handshake.AGENT_PATH:
            return _json(404, handshake.problem_body(404, request_id))
        if self._options.refuse is not None:
            body = handshake.problem_body(self._options.refuse, request_id)
            return _json(self._options.refuse, body)
        if not self._gate.admits(_who(request), time.monotonic()):
            return _json(401, handshake.problem_body(401, request_id))
        return None

    def label(
        self, connection: ServerConnection, request: Request, response: Response
    ) -> Response | None:
        response.headers["dg-request-id"] = str(connection.id)
        return None

    def choose(
        self, connection: ServerConnection, offered: Sequence[Subprotocol]
    ) -> Subprotocol | None:
        """The first: it says the scheme and does not echo the secret."""
        return offered[0] if offered else None

    async def converse(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        session = AgentSession(
            request_id=str(connection.id),
            who=_who(connection.request),
            keep_audio=self._options.keep_audio,
        )
        self._running.add(session)
        try:
            await _Conversation(connection, self._options, session).run()
        finally:
            code = connection.close_code
            session.note_close(1006 if code is None else code, connection.close_reason or "")


def _who(request: Request) -> handshake.Credential | None:
    offered = ",".join(request.headers.get_all("Sec-WebSocket-Protocol"))
    values = [value.strip() for value in offered.split(",") if value.strip()]
    return handshake.credential(request.headers.get("Authorization"), values)


def _json(status: int, body: bytes) -> Response:
    headers = Headers(
        {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
    )
    return Response(status, "", headers, body)


def new_call_id() -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return "call_" + "".join(secrets.choice(letters) for _ in range(24))


class _Conversation:
    """Runs one session. A reader, orders from outside, ears and voice tell the agent what happened;
    what it decides goes through one queue to one loop, so that nothing overtakes."""

    def __init__(
        self, connection: ServerConnection, options: Options, session: AgentSession
    ) -> None:
        self._connection = connection
        self._options = options
        self._session = session
        self._agent = Agent(options, request_id=session.request_id, new_id=new_call_id)
        self._decided: asyncio.Queue[Sequence[Action] | None] = asyncio.Queue(WAITING_ACTIONS)
        self._armed: float | None = None  # the deadline that the loop waits for
        self._voices: asyncio.Queue[Voice] = asyncio.Queue()
        self._utterances: asyncio.Queue[Utterance] = asyncio.Queue()
        self._ear: Ear | None = None

    async def run(self) -> None:
        helpers = [(self._read(), "reader"), (self._orders(), "orders")]
        if self._options.speech is not None:
            helpers += [(self._write_down(), "ear"), (self._speak(), "voice")]
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(helper, name=f"sandbox {name}") for helper, name in helpers
                ]
                try:
                    await self._converse()
                except ConnectionClosed:
                    pass  # the client left while we were sending
                for task in running:
                    task.cancel()
        finally:
            self._connection.transport.abort()

    # --- the loop ------------------------------------------------------------------------------

    async def _converse(self) -> None:
        going = await self._perform(self._agent.open(time.monotonic()))
        while going:
            actions = await self._next()
            if actions is ReaderGone:
                return
            going = await self._perform(actions)

    async def _next(self) -> Sequence[Action] | None:
        """What was decided first, or what the deadline brings."""
        if not self._decided.empty():
            return self._decided.get_nowait()
        self._armed = self._agent.deadline
        if self._armed is None:
            return await self._decided.get()
        wait = self._armed - time.monotonic()
        if wait > 0:
            try:
                async with asyncio.timeout(wait):
                    return await self._decided.get()
            except TimeoutError:
                pass
        else:
            await asyncio.sleep(0)  # a burst must not keep the reader from reading
            if not self._decided.empty():
                return self._decided.get_nowait()
        return self._agent.handle(Wake(), time.monotonic())

    async def _tell(self, event: Event) -> None:
        """The agent decides at once, so that later frames find it decided; the loop performs."""
        await self._decided.put(self._agent.handle(event, time.monotonic()))

    async def _perform(self, actions: Sequence[Action]) -> bool:
        """Do them in order; False once the session is over."""
        for action in actions:
            match action:
                case SendAudio(frame):
                    await self._connection.send(frame)
                    self._session.note_sent(action)
                case SendText(text):
                    await self._connection.send(text, text=True)
                    self._session.note_sent(action)
                case Voice():
                    self._voices.put_nowait(action)
                case Listen(input):
                    if self._options.speech is not None:
                        self._ear = Ear(
                            input,
                            self._options.speech.new_detector(),
                            silence=self._options.silence,
                        )
                case EndSpeech():
                    if self._ear is not None:
                        await self._hear(self._ear.finish())
                case End(ending):
                    await self._end(ending)
                    return False
        return True

    async def _end(self, ending: Ending) -> None:
        match ending.kind:
            case "error":
                # No status: the client sees 1005. The library sends it, its types do not say so.
                await self._connection.close(None)  # type: ignore[arg-type]
            case "close":
                await self._connection.close(int(ending.code), ending.reason)
            case "drop":
                self._connection.transport.abort()
            case "half_open":
                self._connection.transport.pause_reading()
                await self._connection.wait_closed()  # when the server is cut

    # --- what feeds the queue --------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while True:
                if self._options.read_delay:
                    await asyncio.sleep(self._options.read_delay)
                await self._take_in(await self._connection.recv())
        except ConnectionClosed:
            await self._decided.put(ReaderGone)

    async def _take_in(self, frame: str | bytes) -> None:
        if isinstance(frame, str):
            self._session.note_text(frame)
            await self._tell(Received(frame))
            return
        self._session.note_audio(frame)
        actions = self._agent.audio(frame, time.monotonic())
        if actions or self._is_earlier(self._agent.deadline):
            await self._decided.put(actions)
        if self._ear is not None:
            await self._hear(self._ear.hear(frame))

    def _is_earlier(self, deadline: float | None) -> bool:
        """Whether the loop has to be woken, since it waits for a later one."""
        return deadline is not None and self._armed is not None and deadline < self._armed

    async def _hear(self, heard: Sequence[SpeechStarted | Utterance]) -> None:
        for event in heard:
            if isinstance(event, Utterance):
                self._utterances.put_nowait(event)
            else:
                await self._tell(event)

    async def _orders(self) -> None:
        while True:
            match order := await self._session.order():
                case Ending():
                    await self._decided.put([End(order)])
                case Play():
                    await self._tell(order)
                case _:
                    await self._decided.put(order)

    async def _write_down(self) -> None:
        speech = self._options.speech
        assert speech is not None
        while True:
            utterance = await self._utterances.get()
            await self._tell(Heard(await asyncio.to_thread(speech.transcribe, utterance.samples)))

    async def _speak(self) -> None:
        speech = self._options.speech
        assert speech is not None
        while True:
            voice = await self._voices.get()
            output = self._agent.terms.output
            samples = await asyncio.to_thread(speech.speak, voice.text, output)
            audio = Recorded(samples, output, self._options.frame_ms)
            await self._tell(Voiced(voice.reply, voice.index, audio))
