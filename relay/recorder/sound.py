"""Sound as a file has it: WAV for plain audio, Ogg (RFC 7845) for packets of Opus. Pure.

Both stand on a clock of ticks from 0, and are played as far as they have got at any time: a WAV
file has its sizes in the head, which is written again with each part; an Ogg file is made of pages
that are whole by themselves, and none says that it is the last.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from config.agent import AudioInput, AudioOutput
from relay.protocol.audio_formats import SAMPLES

Piece = bytes | int
"""Audio, or so many ticks of silence."""


class Sound(Protocol):
    """`rate` ticks are a second; silence comes in multiples of `step` of them; what is plain has
    samples of `width` bytes."""

    suffix: str
    rate: int
    step: int
    width: int

    def ticks(self, frame: bytes) -> int:
        """How long it is; 0: it is no audio."""

    def size(self, piece: Piece) -> int:
        """Bytes that it takes, at most."""

    def place(self, ticks: int) -> int:
        """The byte of the file that follows after so many ticks."""

    def head(self, ticks: int) -> bytes:
        """The first bytes of a file that has so many."""

    def encode(self, pieces: Sequence[Piece], ticks: int) -> Iterator[bytes]:
        """The bytes of these, behind so many ticks. To be called once for each part of a file."""


def find_sound(audio: AudioInput | AudioOutput) -> Sound | None:
    """How this is written; None: it is not known how."""
    if isinstance(audio, AudioOutput) and audio.container != "none":
        return None
    if audio.encoding in _TAGS:
        return Wav(audio.encoding, audio.sample_rate)
    if audio.encoding == "opus" and isinstance(audio, AudioInput):
        return OggOpus(audio.sample_rate)
    return None


# --- WAV -----------------------------------------------------------------------------------------

_TAGS = {"linear16": 1, "alaw": 6, "mulaw": 7}
_SILENCE_TICKS = 1 << 14  # at once


class Wav:
    """One channel; a tick is a sample."""

    suffix = ".wav"
    step = 1

    def __init__(self, encoding: str, rate: int) -> None:
        self.rate = rate
        self._tag = _TAGS[encoding]
        self._silent = SAMPLES[encoding]
        self.width = len(self._silent)

    def ticks(self, frame: bytes) -> int:
        return len(frame) // self.width

    def size(self, piece: Piece) -> int:
        return len(piece) if isinstance(piece, bytes) else piece * self.width

    def place(self, ticks: int) -> int:
        return len(self.head(0)) + ticks * self.width

    def head(self, ticks: int) -> bytes:
        size = ticks * self.width
        form = struct.pack(
            *("<HHIIHH", self._tag, 1, self.rate, self.rate * self.width, self.width),
            8 * self.width,
        )
        parts = [(b"fmt ", form)]
        if self._tag != 1:  # then the standard wants these as well
            parts = [(b"fmt ", form + bytes(2)), (b"fact", struct.pack("<I", ticks))]
        body = b"".join(name + struct.pack("<I", len(part)) + part for name, part in parts)
        body = b"WAVE" + body + b"data" + struct.pack("<I", size)
        return b"RIFF" + struct.pack("<I", len(body) + size) + body

    def encode(self, pieces: Sequence[Piece], ticks: int) -> Iterator[bytes]:
        for piece in pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            for done in range(0, piece, _SILENCE_TICKS):
                yield self._silent * min(_SILENCE_TICKS, piece - done)


# --- Ogg Opus ------------------------------------------------------------------------------------

_RATE = 48_000  # of the clock of every Ogg Opus file
_SILENT = b"\xf8\xff\xfe"  # a packet of 20 ms
_LONGEST_TICKS = _RATE * 120 // 1000  # of a packet
_LONGEST_BYTES = 48 * 1275  # the most that one may have
_SEGMENTS = 255  # of a page
_SERIAL = 1  # the file has one stream
_FIRST = 0x02  # flag of a page
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class OggOpus:
    """One packet is one frame; a tick is a 48,000th of a second. Silence is packets, too: a player
    need not know what a hole in the clock means."""

    suffix = ".opus"
    rate = _RATE
    step = _RATE * 20 // 1000
    width = 1

    def __init__(self, sample_rate: int) -> None:
        # No samples are skipped at the beginning: what comes first is silence anyway.
        about = struct.pack("<8sBBHIhB", b"OpusHead", 1, 1, 0, sample_rate, 0, 0)
        vendor = b"voice-relay"
        tags = b"OpusTags" + struct.pack("<I", len(vendor)) + vendor + bytes(4)
        self._head = _page([about], number=0, ticks=0, flags=_FIRST) + _page([tags], 1, 0)
        self._pages = 2
        self._bytes = len(self._head)

    def ticks(self, frame: bytes) -> int:
        return packet_ticks(frame)

    def size(self, piece: Piece) -> int:
        packet, count = (piece, 1) if isinstance(piece, bytes) else (_SILENT, piece // self.step)
        # With its lengths, and a page of its own at worst.
        return count * (len(packet) + len(packet) // 255 + 1) + 28 * (count // 200 + 1)

    def place(self, ticks: int) -> int:
        return self._bytes

    def head(self, ticks: int) -> bytes:
        return self._head

    def encode(self, pieces: Sequence[Piece], ticks: int) -> Iterator[bytes]:
        packets: list[bytes] = []
        segments = 0
        for packet in self._packets(pieces):
            needs = len(packet) // 255 + 1
            if segments + needs > _SEGMENTS:
                yield self._end_page(packets, ticks)
                packets, segments = [], 0
            packets.append(packet)
            segments += needs
            ticks += packet_ticks(packet)
        if packets:
            yield self._end_page(packets, ticks)

    def _packets(self, pieces: Iterable[Piece]) -> Iterator[bytes]:
        for piece in pieces:
            if isinstance(piece, bytes):
                yield piece
            else:
                yield from [_SILENT] * (piece // self.step)

    def _end_page(self, packets: list[bytes], ticks: int) -> bytes:
        page = _page(packets, self._pages, ticks)
        self._pages += 1
        self._bytes += len(page)
        return page


def packet_ticks(packet: bytes) -> int:
    """How long a packet of Opus is (RFC 6716, section 3.1); 0: it is none."""
    if not 0 < len(packet) <= _LONGEST_BYTES:
        return 0
    kind, code = packet[0] >> 3, packet[0] & 3
    if kind < 12:
        tenths_ms = (100, 200, 400, 600)[kind % 4]
    elif kind < 16:
        tenths_ms = (100, 200)[kind % 2]
    else:
        tenths_ms = (25, 50, 100, 200)[kind % 4]
    count = (1, 2, 2)[code] if code < 3 else packet[1] & 0x3F if len(packet) > 1 else 0
    ticks = _RATE * tenths_ms * count // 10_000
    return ticks if ticks <= _LONGEST_TICKS else 0


def _page(packets: Sequence[bytes], number: int, ticks: int, flags: int = 0) -> bytes:
    """RFC 3533, section 6: whole packets, of which the last ends at `ticks`."""
    lengths = b"".join(b"\xff" * (len(p) // 255) + bytes([len(p) % 255]) for p in packets)
    fields = (b"OggS", 0, flags, ticks, _SERIAL, number, 0, len(lengths))
    page = bytearray(struct.pack("<4sBBqIIIB", *fields) + lengths + b"".join(packets))
    page[22:26] = _checksum(page)
    return bytes(page)


def _checksum(page: bytes | bytearray) -> bytes:
    """Ogg takes the bits the other way round than zlib, and neither begins nor ends inverted."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return mirrored.to_bytes(4, "big").translate(_MIRRORED)
