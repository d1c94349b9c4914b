"""What the formats of raw audio amount to: bytes of a second, and of silence. Pure."""

from __future__ import annotations

from config.agent import AudioInput, AudioOutput

# Bytes of a sample, and a sample that nobody hears. The other encodings are compressed: how much of
# them is a second depends on what is said.
_SAMPLES = {"linear16": b"\x00\x00", "linear32": bytes(4), "mulaw": b"\xff", "alaw": b"\xd5"}


def bytes_per_second(audio: AudioInput | AudioOutput) -> int | None:
    """None: the encoding is compressed."""
    sample = _SAMPLES.get(audio.encoding)
    return None if sample is None else len(sample) * audio.sample_rate


def silence(audio: AudioInput, seconds: float) -> bytes:
    """So much of nothing; empty where an encoding has no such thing."""
    return _SAMPLES.get(audio.encoding, b"") * int(audio.sample_rate * seconds)
