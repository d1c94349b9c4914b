"""Which audio a browser may ask for, and what raw audio amounts to in bytes. Pure.

Two lists: what we let browsers make and play, here, and what the agent can do, in config/agent.py.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Iterator

import msgspec

from config.agent import RATES, Agent, Audio, AudioInput, AudioOutput, audio_mistakes

# Deepgram's combinations are in docs/protocol.md.
INPUT_RATES = {
    "linear16": (8000, 16000, 22050, 24000, 32000, 44100, 48000),
    "mulaw": (8000, 16000),
    "alaw": (8000, 16000),
    "opus": (16000, 48000),  # one packet a message; what a browser has by WebCodecs
}
OUTPUT_RATES = RATES
# A sample that nobody hears. The other encodings are compressed: how much of them is a second
# depends on what is said.
SAMPLES = {"linear16": b"\x00\x00", "linear32": bytes(4), "mulaw": b"\xff", "alaw": b"\xd5"}


class AudioWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is left out is as it would be without a wish."""

    input: AudioInput | None = None
    output: AudioOutput | None = None


def choose_audio(
    wish: AudioWish, default: Audio, agent: Agent, *, containers: Collection[str] = ("none",)
) -> tuple[Audio, list[str]]:
    """The audio of a session, and why it cannot be had: one line "path: text" for each mistake."""
    audio = Audio(input=wish.input or default.input, output=wish.output or default.output)
    if wish == AudioWish():
        return audio, []
    return audio, list(_mistakes(wish, containers)) or audio_mistakes(agent, audio)


def _mistakes(wish: AudioWish, containers: Collection[str]) -> Iterator[str]:
    sides = [("audio.input", wish.input, INPUT_RATES), ("audio.output", wish.output, OUTPUT_RATES)]
    for path, side, allowed in sides:
        if side is None:
            continue
        rates = allowed.get(side.encoding)
        if rates is None:
            expected = ", ".join(allowed)
            yield f"{path}.encoding: expected one of {expected}, got {side.encoding!r}"
        elif side.sample_rate not in rates:
            expected = ", ".join(map(str, rates))
            yield f"{path}.sample_rate: expected one of {expected} for {side.encoding}"
    if wish.output is not None and wish.output.container not in containers:
        yield f"audio.output.container: expected {' or '.join(containers)}"


def bytes_per_second(audio: AudioInput | AudioOutput) -> int | None:
    """None: the encoding is compressed."""
    sample = SAMPLES.get(audio.encoding)
    return None if sample is None else len(sample) * audio.sample_rate


def silence(audio: AudioInput, seconds: float) -> bytes:
    """So much of nothing; empty where an encoding has no such thing."""
    return SAMPLES.get(audio.encoding, b"") * int(audio.sample_rate * seconds)


TONE_HZ, TONE_SECONDS, TONE_LEVEL = 440, 0.2, 3000


def tone(audio: AudioOutput) -> bytes:
    """A short soft tone; empty where an encoding is compressed."""
    if audio.encoding not in OUTPUT_RATES:
        return b""
    size = int(audio.sample_rate * TONE_SECONDS)
    step = 2 * math.pi * TONE_HZ / audio.sample_rate
    # Louder and softer again, or it would click.
    wave = [
        round(TONE_LEVEL * math.sin(math.pi * n / size) * math.sin(step * n)) for n in range(size)
    ]
    if audio.encoding == "linear16":
        return array("h", wave).tobytes()
    encode = _mulaw if audio.encoding == "mulaw" else _alaw
    return bytes(map(encode, wave))


def _mulaw(sample: int) -> int:
    """G.711; a sample of 16 bits, below the loudest."""
    magnitude = abs(sample) + 132
    exponent = magnitude.bit_length() - 8
    code = exponent << 4 | magnitude >> exponent + 3 & 0x0F
    return ~(code | (0x80 if sample < 0 else 0)) & 0xFF


def _alaw(sample: int) -> int:
    """G.711; a sample of 16 bits."""
    magnitude = (sample if sample >= 0 else ~sample) >> 4
    exponent = max(magnitude.bit_length() - 4, 0)
    code = exponent << 4 | magnitude >> max(exponent - 1, 0) & 0x0F
    return code ^ (0xD5 if sample >= 0 else 0x55)
