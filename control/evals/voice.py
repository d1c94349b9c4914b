"""What a scenario's user says, as sound, and the room that it is said in."""

from __future__ import annotations

import asyncio
from pathlib import Path
from zlib import crc32

import numpy as np

from config.scenario import ScenarioAnswer, ScenarioLine, ScenarioVoice
from control.talk.audio import FRAME, Recording, Samples, Speech, make_speech, read_wav
from control.talk.caller import Line
from relay.sandbox.speech import Voice

LOUDNESS = 0.1  # root mean square of speech: where there is no recording to measure it
NOISE_SECONDS = 7.0  # then it begins again


class Words:
    """Texts and recordings as speech for a session; each is made once."""

    def __init__(self, voice: Voice, manner: ScenarioVoice, folder: Path) -> None:
        self._voice = voice
        self._manner = manner
        self._folder = folder
        self._made: dict[tuple[str, str], Recording] = {}

    async def prepare(self, each: ScenarioLine | ScenarioAnswer) -> None:
        """Raises `SpeechError`, or `UsageError` for a file that cannot be played."""
        if each.wav is not None:
            self._made["wav", each.wav] = await asyncio.to_thread(read_wav, self._folder / each.wav)
        elif each.say is not None:
            sound = await asyncio.to_thread(
                self._voice.speak, each.say, speed=self._manner.speed, accent=self._manner.accent
            )
            samples = np.frombuffer(sound, "<i2").astype(np.float64) / 32768.0
            self._made["say", each.say] = Recording(each.say, self._voice.rate, samples)

    def speech(self, each: ScenarioLine | ScenarioAnswer, rate: int) -> Speech | Line:
        """What was prepared, at the rate of a session."""
        if each.type is not None:
            return Line(each.type)
        kind, name = ("wav", each.wav) if each.wav is not None else ("say", each.say)
        return make_speech(self._made[kind, str(name)], rate)

    @property
    def loudness(self) -> float:
        """Of all that is spoken, its pauses left out."""
        sound = [each.samples[np.abs(each.samples) > 0.01] for each in self._made.values()]
        joined = np.concatenate([*sound, np.zeros(0)])
        return float(np.sqrt(np.mean(joined**2))) if len(joined) else LOUDNESS


class Noise:
    """A room: pink noise below what is said, the same for the same `seed`."""

    def __init__(self, decibels: float, loudness: float, rate: int, seed: str) -> None:
        generator = np.random.default_rng(crc32(seed.encode()))
        white = generator.standard_normal(round(NOISE_SECONDS / FRAME) * round(rate * FRAME))
        pink = _redden(white)
        level = loudness * 10 ** (-decibels / 20)
        self._samples: Samples = pink * (level / float(np.sqrt(np.mean(pink**2)))) * 32767.0
        self._at = 0

    def mix(self, frame: bytes) -> bytes:
        """A frame of linear16 as it sounds in this room."""
        spoken = np.frombuffer(frame, "<i2")
        if self._at + len(spoken) > len(self._samples):
            self._at = 0
        noise = self._samples[self._at : self._at + len(spoken)]
        self._at += len(spoken)
        return np.clip(spoken + noise, -32768, 32767).astype("<i2").tobytes()


def _redden(white: Samples) -> Samples:
    """Less of the high notes, 3 dB an octave, as in rooms and streets."""
    spectrum = np.fft.rfft(white)
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 50.0))
    reddened: Samples = np.fft.irfft(spectrum, len(white))
    return reddened
