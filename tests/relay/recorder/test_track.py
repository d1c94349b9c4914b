"""Where the sound of a side stands in time, with silence where nothing was said."""

from __future__ import annotations

import pytest

from config.agent import AudioInput, AudioOutput
from relay.recorder.sound import find_sound
from relay.recorder.track import STALL_SECONDS, Loudspeaker, Microphone

RATE = 1000  # samples a second, two bytes each: a millisecond is a sample


def milliseconds(value, count):
    return bytes([value, 0]) * count


@pytest.fixture
def sound():
    found = find_sound(AudioInput(encoding="linear16", sample_rate=8000))
    found.rate = RATE
    return found


def heard(track):
    """(value, milliseconds) of each run of equal samples, silence as 0."""
    data = b"".join(track.sound.encode(track.pieces, track.start))
    runs = []
    for value in data[::2]:
        if runs and runs[-1][0] == value:
            runs[-1] = (value, runs[-1][1] + 1)
        else:
            runs.append((value, 1))
    return runs


def test_what_is_said_stands_at_its_second_with_silence_around(sound):
    track = Microphone(sound)
    for n in range(5):
        track.hear(1.0 + n * 0.02, milliseconds(7, 20))
    track.hear(3.0, milliseconds(8, 20))
    track.finish(4.0)

    assert heard(track) == [(0, 980), (7, 100), (0, 1900), (8, 20), (0, 1000)]


def test_what_a_network_held_back_stands_where_it_was_said(sound):
    track = Microphone(sound)
    for n in range(10):
        track.hear(0.02 * (n + 1), milliseconds(1, 20))
    track.settle(1.0)
    track.settle(3.0)  # nothing comes for three seconds: then all of it at once
    for _ in range(140):
        track.hear(3.0, milliseconds(2, 20))
    track.settle(3.5)
    for n in range(10):
        track.hear(3.02 + 0.02 * n, milliseconds(3, 20))
    track.finish(3.2)

    assert heard(track) == [(1, 200), (2, 2800), (3, 200)]


def test_frames_that_come_a_little_late_leave_no_holes(sound):
    track = Microphone(sound)
    for n in range(50):
        track.hear(0.02 * (n + 1) + 0.04 * (n % 2), milliseconds(1, 20))
    track.finish(1.0)

    assert heard(track) == [(1, 1000)]


def test_half_a_sample_of_a_browser_makes_no_noise_of_what_follows(sound):
    track = Microphone(sound)
    track.hear(0.01, milliseconds(1, 9) + b"\1")
    track.hear(0.02, milliseconds(1, 10))
    track.hear(0.02, b"")
    track.finish(0.02)

    assert heard(track) == [(1, 20)]


def test_a_side_that_says_nothing_for_long_is_written_all_the_same(sound):
    track = Microphone(sound)
    track.settle(2 * STALL_SECONDS)
    assert track.end == 0
    track.settle(2 * STALL_SECONDS + 1)
    assert track.end == (STALL_SECONDS + 1) * RATE

    track.hear(2 * STALL_SECONDS + 1, milliseconds(1, 20))
    track.settle(4 * STALL_SECONDS)
    track.settle(4 * STALL_SECONDS)
    assert heard(track) == [(0, (2 * STALL_SECONDS + 1) * RATE - 20), (1, 20)]


def test_an_agent_is_heard_as_fast_as_it_speaks_and_not_as_it_comes(sound):
    track = Loudspeaker(sound)
    track.hear(1.0, milliseconds(1, 500))
    track.hear(1.1, milliseconds(2, 500))
    track.hear(2.04, milliseconds(3, 100))
    track.hear(3.0, milliseconds(4, 100))
    track.finish(4.0)

    assert heard(track) == [
        (0, 1000), (1, 500), (2, 500), (3, 100), (0, 900), (4, 100), (0, 900)
    ]  # fmt: skip


def test_samples_may_come_in_halves(sound):
    track = Loudspeaker(sound)
    data = milliseconds(5, 100)
    track.hear(0.0, data[:33])
    track.hear(0.0, data[33:66])
    track.hear(0.0, data[66:])
    track.hear(0.0, b"")
    track.finish(0.1)

    assert heard(track) == [(5, 100)]


@pytest.mark.parametrize("is_written", [False, True])
def test_what_is_left_of_a_reply_that_was_interrupted_is_not_there(sound, is_written):
    track = Loudspeaker(sound)
    track.hear(1.0, milliseconds(1, 1000))
    track.hear(1.0, milliseconds(2, 1000))
    if is_written:
        track.written(sound)
    track.clear(1.5)
    track.clear(1.6)
    track.hear(2.0, milliseconds(3, 100))
    track.finish(2.1)

    assert track.end == 2100
    if is_written:
        assert track.start == 1500
        assert heard(track) == [(0, 500), (3, 100)]
    else:
        assert heard(track) == [(0, 1000), (1, 500), (0, 500), (3, 100)]


def test_silence_that_is_not_written_yet_may_be_cut(sound):
    track = Loudspeaker(sound)
    track.hear(2.0, milliseconds(1, 100))
    track.clear(1.0)

    assert heard(track) == [(0, 1000)]


def test_silence_takes_the_place_of_what_could_not_be_written(sound):
    track = Loudspeaker(sound)
    track.hear(0.0, milliseconds(1, 500))
    track.written(sound)
    track.hear(0.5, milliseconds(2, 500))
    track.lose()
    track.hear(0.6, milliseconds(3, 500))  # ahead of the clock, as replies are

    assert (track.start, track.end) == (500, 1500)
    assert heard(track) == [(0, 500), (3, 500)]


def test_packets_stand_at_their_second_as_exactly_as_packets_can():
    track = Microphone(find_sound(AudioInput(encoding="opus", sample_rate=16000)))
    for at in (1.0, 1.02, 2.0):
        track.hear(at, b"\x08packet")
    track.hear(2.0, b"\x03")  # which is none
    track.finish(3.0)

    assert [piece for piece in track.pieces if isinstance(piece, bytes)] == [b"\x08packet"] * 3
    assert [piece // 960 for piece in track.pieces if isinstance(piece, int)] == [49, 48, 50]
    assert track.end == 3 * 48000


def test_only_what_can_be_played_is_written():
    def find(**fields):
        return find_sound(AudioOutput(**fields))

    assert find(encoding="mulaw", sample_rate=8000).suffix == ".wav"
    assert find(encoding="linear16", container="wav") is None
    assert find(encoding="opus", container="none") is None
    assert find_sound(AudioInput(encoding="flac")) is None
    assert find_sound(AudioInput(encoding="linear32")) is None
