"""One session on its socket: what happens is told to the agent, what it decides is done.

A reader and the speech engines tell the agent what happened; one loop does what it decides, so that
nothing overtakes. The speech engines (`speech.Speech`) run in threads; nothing here waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from relay.sandbox.agent import Agent
from relay.sandbox.audio import Format, UnknownEncoding
from relay.sandbox.options import Options
from relay.sandbox.output import Action, EndSpeech, Listen, Sentence
from relay.sandbox.script import Ending
from relay.sandbox.session import AgentSession
from relay.sandbox.speech import Speech, SpeechError
from relay.sandbox.voice_activity import SpeechStarted, Utterance, UtteranceDetector

# Deepgram's codes for engines that do not work.
UNREADABLE_AUDIO = "USER_AUDIO_FORMAT"
RECOGNISER_FAILED = "ASR_CONNECTION_CLOSED"
VOICE_FAILED = "FAILED_TO_SPEAK"


class SessionRunner:
    def __init__(
        self, connection: ServerConnection, options: Options, session: AgentSession
    ) -> None:
        self._connection = connection
        self._options = options
        self._session = session
        self._agent = Agent(options, time.monotonic(), request_id=session.request_id)
        self._told = asyncio.Event()  # the agent was told something
        self._voices: asyncio.Queue[Sentence] = asyncio.Queue()
        self._utterances: asyncio.Queue[Utterance] = asyncio.Queue()
        self._detector: UtteranceDetector | None = None
        self._pause: Utterance | None = None  # the one that lasts

    async def run(self) -> None:
        """Until one side ends it; the connection is gone on return."""
        helpers = [(self._read(), "reader")]
        if speech := self._options.speech:
            helpers += [(self._recognise(speech), "recognition"), (self._speak(speech), "voice")]
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(helper, name=f"sandbox {name}") for helper, name in helpers
                ]
                with contextlib.suppress(ConnectionClosed):  # the client left while we were sending
                    await self._converse()
                for task in running:
                    task.cancel()
        finally:
            self._connection.transport.abort()

    async def _converse(self) -> None:
        while True:
            self._told.clear()
            for action in self._agent.take(time.monotonic()):
                if isinstance(action, Ending):
                    await self._end(action)
                    return
                await self._perform(action)
            if not self._told.is_set():
                await self._rest()

    async def _rest(self) -> None:
        """Until the agent is told something, or its deadline."""
        # Whole milliseconds, upwards: uvloop knows no others and would ring too early.
        wait = math.ceil((self._agent.deadline - time.monotonic()) * 1000) / 1000
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._told.wait()

    async def _perform(self, action: Action) -> None:
        match action:
            case str() | bytes():
                await self._connection.send(action)
            case Sentence():
                self._voices.put_nowait(action)
            case Listen(input):
                self._listen(input)
            case EndSpeech():
                if self._detector is not None:
                    self._hear(self._detector.finish())

    async def _end(self, ending: Ending) -> None:
        match ending.kind:
            case "error":
                # No status: the client sees 1005. The library sends it, its types do not say so.
                await self._connection.close(None)  # type: ignore[arg-type]
            case "close":
                await self._connection.close(int(ending.code), ending.reason)
            case "drop":
                self._connection.transport.abort()

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in self._connection:
                if isinstance(frame, str):
                    self._session.note_text(frame)
                    self._tell(self._agent.received, frame)
                else:
                    self._session.note_audio(frame)
                    self._tell(self._agent.audio, frame)
                    if self._detector is not None:
                        self._hear(self._detector.hear(frame))
        self._agent.end(Ending("drop"))  # the client has left
        self._told.set()

    def _tell(self, what: Callable[..., None], *about: object) -> None:
        """Tell the agent what has happened now."""
        what(*about, time.monotonic())
        self._told.set()

    # --- speech engines --------------------------------------------------------------------------

    def _listen(self, input: Format) -> None:
        speech = self._options.speech
        if speech is None:
            return
        with self._failing_as(UNREADABLE_AUDIO):
            self._detector = UtteranceDetector(
                input,
                speech.new_detector(),
                silence=self._options.silence,
                pause=self._options.pause,
            )

    def _hear(self, heard: list[SpeechStarted | Utterance]) -> None:
        dialogue = self._agent.dialogue
        for event in heard:
            if isinstance(event, SpeechStarted):
                self._pause = None
                self._tell(dialogue.user_started)
            elif event.is_over:
                self._utterances.put_nowait(event)
            elif dialogue.planner.guesses:  # else nothing comes of it, and recognising takes time
                self._pause = event
                self._utterances.put_nowait(event)

    async def _recognise(self, speech: Speech) -> None:
        with self._failing_as(RECOGNISER_FAILED):
            text, known = "", None  # what was said until a pause
            while True:
                utterance = await self._utterances.get()
                if known is None or known is not self._pause:  # else nothing was said since then
                    text = await asyncio.to_thread(speech.transcribe, utterance.samples)
                if utterance.is_over:
                    self._tell(self._agent.dialogue.user_finished, text)
                elif utterance is self._pause:
                    self._tell(self._agent.dialogue.user_paused, text)
                known = utterance

    async def _speak(self, speech: Speech) -> None:
        with self._failing_as(VOICE_FAILED):
            while True:
                sentence = await self._voices.get()
                output = self._agent.settings.output
                audio = await asyncio.to_thread(speech.speak, sentence.text, output)
                self._tell(self._agent.dialogue.playout.voice_ready, sentence, audio)

    @contextlib.contextmanager
    def _failing_as(self, code: str) -> Iterator[None]:
        """An engine that fails is the end of the session."""
        try:
            yield
        except (SpeechError, UnknownEncoding) as error:
            self._agent.fail(code, str(error))
            self._told.set()
