"""Opus packets to samples, for recognition: one packet is one binary message."""

from __future__ import annotations

import av
import numpy as np

from relay.sandbox.codec import Samples

OPUS_RATE = 48_000  # what the library gives out, whatever went in
_FULL = 32_768.0


class OpusPackets:
    """A decoder with the memory that the codec needs from one packet to the next."""

    def __init__(self) -> None:
        self._decoder = av.AudioCodecContext.create("libopus", "r")
        self._decoder.sample_rate = OPUS_RATE
        self._decoder.layout = "mono"
        self._decoder.open()

    def decode(self, packet: bytes) -> Samples:
        """What is no packet is silence of no length, as for a service that throws it away."""
        if not packet:
            return np.zeros(0, np.float32)  # to the library that would be the end
        try:
            frames = self._decoder.decode(av.Packet(packet))
        except av.FFmpegError:
            return np.zeros(0, np.float32)
        parts = [frame.to_ndarray().reshape(-1) for frame in frames]
        if not parts:
            return np.zeros(0, np.float32)
        return np.concatenate(parts).astype(np.float32) / _FULL
