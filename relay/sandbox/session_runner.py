"""One session on its socket: what happens is told to the agent, what it decides is done.

A reader, orders from outside and the speech engines tell the agent what happened; what it decides
goes through one queue to one loop, so that nothing overtakes. There is one short cut: while the
loop has nothing to do, audio and deadlines are dealt with on the spot, for as far as nothing has to
be waited for. The speech engines (`speech.Speech`) run in threads; nothing here waits for them.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Sequence

from websockets.exceptions import ConnectionClosed

from relay.sandbox.agent import Agent
from relay.sandbox.audio import Format, Recorded
from relay.sandbox.connection import AgentConnection
from relay.sandbox.events import (
    Action,
    AudioReady,
    End,
    EndSpeech,
    EngineFailed,
    Event,
    Listen,
    PlayTurn,
    Received,
    SendAudio,
    SendText,
    SpeechStarted,
    Synthesize,
    UserSaid,
    Wake,
)
from relay.sandbox.options import Options
from relay.sandbox.script import Ending
from relay.sandbox.session import AgentSession
from relay.sandbox.speech import SpeechError
from relay.sandbox.voice_activity import Utterance, UtteranceDetector

WAITING_ACTIONS = 256  # batches of one session; the reader waits when there are more

# Deepgram's codes for engines that do not work.
NO_RECOGNISER = "FAILED_TO_START_LISTENING"
RECOGNISER_FAILED = "ASR_CONNECTION_CLOSED"
VOICE_FAILED = "FAILED_TO_SPEAK"

ReaderGone = None
"""In the queue of what was decided: the client has left."""


def new_call_id() -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return "call_" + "".join(secrets.choice(letters) for _ in range(24))


class SessionRunner:
    def __init__(
        self, connection: AgentConnection, options: Options, session: AgentSession
    ) -> None:
        self._connection = connection
        self._options = options
        self._session = session
        self._agent = Agent(options, request_id=session.request_id, new_id=new_call_id)
        self._decided: asyncio.Queue[Sequence[Action] | None] = asyncio.Queue(WAITING_ACTIONS)
        self._resting = False  # whether the loop waits for something to do
        self._alarm: asyncio.TimerHandle | None = None
        self._armed = math.inf  # the deadline that the alarm is for
        self._voices: asyncio.Queue[Synthesize] = asyncio.Queue()
        self._utterances: asyncio.Queue[Utterance] = asyncio.Queue()
        self._detector: UtteranceDetector | None = None

    async def run(self) -> None:
        """Until one side ends it; the connection is gone on return."""
        helpers = [(self._read(), "reader"), (self._orders(), "orders")]
        if self._options.speech is not None:
            helpers += [(self._recognise(), "recognition"), (self._speak(), "synthesis")]
        else:
            self._connection.taker = self._take_audio
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
            self._connection.taker = None
            self._disarm()
            self._connection.transport.abort()

    # --- the loop ------------------------------------------------------------------------------

    async def _converse(self) -> None:
        going = await self._perform(self._agent.open(time.monotonic()))
        while going:
            self._arm()
            self._resting = self._decided.empty()
            actions = await self._decided.get()
            self._resting = False
            if actions is ReaderGone:
                return
            going = await self._perform(actions)

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
                case Synthesize():
                    self._voices.put_nowait(action)
                case Listen(input):
                    await self._listen(input)
                case EndSpeech():
                    if self._detector is not None:
                        await self._hear(self._detector.finish())
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

    # --- the short cut -------------------------------------------------------------------------

    @property
    def _is_idle(self) -> bool:
        return self._resting and self._decided.empty()

    def _take_audio(self, frame: bytes) -> bool:
        """A binary message, on the spot; False if it has to queue."""
        if not self._is_idle:
            return False
        self._session.note_audio(frame)
        actions = self._agent.audio(frame, time.monotonic())
        if actions:
            self._do_now(actions)
        self._arm()
        return True

    def _wake(self) -> None:
        """The deadline; while the loop is busy it will look itself."""
        self._alarm = None
        self._armed = math.inf
        if self._is_idle:
            self._do_now(self._agent.handle(Wake(), time.monotonic()))
            self._arm()

    def _do_now(self, actions: Sequence[Action]) -> None:
        """What has to be waited for is for the loop, and all that follows it."""
        for index, action in enumerate(actions):
            if not self._sent_now(action):
                self._decided.put_nowait(actions[index:])
                return

    def _sent_now(self, action: Action) -> bool:
        if isinstance(action, SendAudio):
            sent = self._connection.send_now(action.frame, text=False)
        elif isinstance(action, SendText):
            sent = self._connection.send_now(action.text, text=True)
        else:
            return False
        if sent:
            self._session.note_sent(action)
        return sent

    def _arm(self) -> None:
        """Ring at the deadline. If it moves away, the alarm in between finds nothing to do."""
        deadline = self._agent.deadline
        if deadline is None or deadline >= self._armed:
            return
        self._disarm()
        self._armed = deadline
        # Whole milliseconds, upwards: uvloop knows no others and would ring too early.
        wait = math.ceil((deadline - time.monotonic()) * 1000) / 1000
        self._alarm = asyncio.get_running_loop().call_later(max(wait, 0.0), self._wake)

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        self._armed = math.inf

    # --- what feeds the queue --------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while True:
                await self._take_in(await self._connection.recv())
                self._connection.taken()
        except ConnectionClosed:
            await self._decided.put(ReaderGone)

    async def _take_in(self, frame: str | bytes) -> None:
        if isinstance(frame, str):
            self._session.note_text(frame)
            await self._tell(Received(frame))
            return
        self._session.note_audio(frame)
        actions = self._agent.audio(frame, time.monotonic())
        if actions:
            await self._decided.put(actions)
        elif self._resting:
            self._arm()
        if self._detector is not None:
            await self._hear(self._detector.hear(frame))

    async def _orders(self) -> None:
        while True:
            match order := await self._session.order():
                case Ending():
                    await self._decided.put([End(order)])
                case PlayTurn():
                    await self._tell(order)
                case _:
                    await self._decided.put(order)

    # --- speech engines --------------------------------------------------------------------------

    async def _listen(self, input: Format) -> None:
        speech = self._options.speech
        if speech is None:
            return
        try:
            self._detector = UtteranceDetector(
                input, speech.new_detector(), silence=self._options.silence
            )
        except SpeechError as error:
            await self._tell(EngineFailed(NO_RECOGNISER, str(error)))

    async def _hear(self, heard: Sequence[SpeechStarted | Utterance]) -> None:
        for event in heard:
            if isinstance(event, Utterance):
                self._utterances.put_nowait(event)
            else:
                await self._tell(event)

    async def _recognise(self) -> None:
        speech = self._options.speech
        assert speech is not None
        while True:
            utterance = await self._utterances.get()
            try:
                text = await asyncio.to_thread(speech.transcribe, utterance.samples)
            except SpeechError as error:
                await self._tell(EngineFailed(RECOGNISER_FAILED, str(error)))
            else:
                await self._tell(UserSaid(text))

    async def _speak(self) -> None:
        speech = self._options.speech
        assert speech is not None
        while True:
            voice = await self._voices.get()
            output = self._agent.settings.output
            try:
                samples = await asyncio.to_thread(speech.speak, voice.text, output)
            except SpeechError as error:
                await self._tell(EngineFailed(VOICE_FAILED, str(error)))
            else:
                audio = Recorded(samples, output, self._options.frame_ms)
                await self._tell(AudioReady(voice.reply, voice.index, audio))
