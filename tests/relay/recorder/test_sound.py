"""Files of sound as a reader that is not ours has them."""

from __future__ import annotations

import io
import struct
import wave

import pytest

from config.agent import AudioInput
from relay.recorder.sound import find_sound, packet_ticks

SILENT = b"\xf8\xff\xfe"


def opus():
    return find_sound(AudioInput(encoding="opus", sample_rate=16000))


def whole(sound, pieces, ticks):
    body = b"".join(sound.encode(pieces, 0))
    return sound.head(ticks) + body


def test_linear16_is_a_wav_that_the_standard_library_reads():
    sound = find_sound(AudioInput(encoding="linear16", sample_rate=16000))
    pieces = [b"\1\0" * 100, 40_000, b"\2\0" * 5]

    with wave.open(io.BytesIO(whole(sound, pieces, 40_105))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        assert file.getnframes() == 40_105
        assert file.readframes(50_000) == b"\1\0" * 100 + bytes(80_000) + b"\2\0" * 5
    assert sum(map(sound.size, pieces)) == 2 * 40_105


@pytest.mark.parametrize(
    ("encoding", "tag", "silent"), [("mulaw", 7, b"\xff"), ("alaw", 6, b"\xd5")]
)
def test_the_telephone_is_a_wav_with_its_own_tag(encoding, tag, silent):
    sound = find_sound(AudioInput(encoding=encoding, sample_rate=8000))
    file = whole(sound, [b"abc", 4], 7)

    assert file[:4] + file[8:16] == b"RIFFWAVEfmt "
    assert struct.unpack("<I", file[4:8])[0] == len(file) - 8
    assert struct.unpack("<IHHIIHHH", file[16:38]) == (18, tag, 1, 8000, 8000, 1, 8, 0)
    assert file[38:50] == b"fact" + struct.pack("<II", 4, 7)
    assert file[50:] == b"data" + struct.pack("<I", 7) + b"abc" + silent * 4
    assert sound.place(7) == len(file)


def checksum(page):
    """As RFC 3533 says it, bit by bit."""
    value = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x104C11DB7 if value & 0x80000000 else 0)
    return value


def read_ogg(data):
    """(flags, granule, packets) of each page, whose order and checksums are right."""
    pages = []
    while data:
        magic, version, flags, granule, serial, number, crc, count = struct.unpack(
            "<4sBBqIIIB", data[:27]
        )
        assert (magic, version, serial, number) == (b"OggS", 0, 1, len(pages))
        lengths, packets, size = data[27 : 27 + count], [], 0
        end = 27 + count
        for length in lengths:
            size += length
            if length < 255:
                packets.append(data[end : end + size])
                end, size = end + size, 0
        assert crc == checksum(data[:end])
        assert size == 0  # no packet goes on in the next page
        pages.append((flags, granule, packets))
        data = data[end:]
    return pages


def test_opus_is_an_ogg_with_whole_pages():
    sound = opus()
    long = b"\x08" + bytes(1000)
    pieces = [b"\x08packet"] * 250 + [960 * 3] + [long] * 10
    body = b"".join(sound.encode(pieces, 0))
    pages = read_ogg(sound.head(0) + body)

    assert pages[0][0] == 2
    assert struct.unpack("<8sBBHIhB", pages[0][2][0]) == (b"OpusHead", 1, 1, 0, 16000, 0, 0)
    assert pages[1][2] == [b"OpusTags" + struct.pack("<I", 11) + b"voice-relay" + bytes(4)]
    packets = [packet for _, _, page in pages[2:] for packet in page]
    assert packets == [b"\x08packet"] * 250 + [SILENT] * 3 + [long] * 10
    assert pages[-1][1] == 263 * 960
    assert sound.place(0) == len(sound.head(0) + body) == sound.place(5)
    assert sum(map(sound.size, pieces)) >= len(body)


def test_the_next_part_of_a_file_goes_on_with_its_pages():
    sound = opus()
    first = b"".join(sound.encode([SILENT], 0))
    assert list(sound.encode([], 960)) == []
    second = b"".join(sound.encode([SILENT], 960))

    assert [granule for _, granule, _ in read_ogg(sound.head(0) + first + second)][2:] == [
        960,
        1920,
    ]


@pytest.mark.parametrize(
    ("packet", "milliseconds"),
    [
        (b"", 0),
        (b"\x00", 10),  # SILK
        (b"\x18", 60),
        (b"\x60", 10),  # both
        (b"\x68", 20),
        (b"\x80", 2.5),  # CELT
        (SILENT, 20),
        (b"\xf9", 40),  # two in one
        (b"\xfa", 40),
        (b"\xfb\x06", 120),
        (b"\xfb\x07", 0),  # longer than one may be
        (b"\xfb\x00", 0),
        (b"\xfb", 0),
        (b"\xf8" + bytes(48 * 1275), 0),
    ],
)
def test_how_long_a_packet_is(packet, milliseconds):
    assert packet_ticks(packet) == milliseconds * 48
