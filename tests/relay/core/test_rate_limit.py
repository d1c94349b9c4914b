from __future__ import annotations

import math

import pytest

from config.agent import AudioInput
from config.limits import Limits
from config.policy import Abuse, Limited, Messages, Policy
from relay.core.rate_limit import AudioLimit, TextLimits
from relay.protocol import deepgram

SECOND = 32_000  # bytes of linear16 at 16 kHz
TYPED = deepgram.InjectUserMessage(content="hello")


def make(messages_per_second=20.0, **policy):
    return TextLimits(Limits(messages_per_second=messages_per_second), Policy(**policy), 0.0)


def audio_limit(audio=None, **limits):
    return AudioLimit(Limits(**limits), audio or AudioInput(), 0.0)


def test_a_typed_turn_may_come_so_often_a_minute():
    limits = make(messages=Messages(InjectUserMessage=Limited(per_minute=3)))

    heard = [limits.judge(TYPED, at) for at in (1.0, 2.0, 3.0, 4.0)]

    assert [one and one.code for one in heard] == [None, None, None, "too_often"]
    assert limits.judge(TYPED, 25.0) is None
    assert limits.judge(deepgram.KeepAlive(), 25.0) is None


def test_messages_of_any_kind_may_come_so_often_a_second():
    limits = make(messages_per_second=5.0)

    heard = [limits.judge(deepgram.KeepAlive(), 1.0) for _ in range(11)]

    assert heard[:10] == [None] * 10
    assert heard[10].code == "too_often"
    assert limits.judge(deepgram.KeepAlive(), 1.3) is None


def test_a_ping_is_a_message_like_others():
    limits = make(messages_per_second=5.0)

    heard = [limits.count(1.0) for _ in range(12)]

    assert heard[:10] == [None] * 10
    assert heard[10].code == "too_often"
    assert limits.judge(deepgram.KeepAlive(), 1.0).code == "too_often"
    assert limits.count(2.0) is None


def test_what_is_allowed_without_limits_has_none():
    limits = make(
        messages=Messages(InjectUserMessage="allow", UpdateListen="allow"), messages_per_second=1e6
    )

    assert not any(limits.judge(TYPED, 1.0) for _ in range(1000))
    assert limits.judge(deepgram.UpdateListen(listen={}), 1.0) is None


def test_refusals_within_a_time_are_abuse():
    limits = make(abuse=Abuse(refusals=3, seconds=10.0))

    assert [limits.refused(at) for at in (0.0, 5.0, 11.0, 12.0)] == [False, False, False, True]
    assert "refusals=3" in repr(limits)


@pytest.mark.parametrize(
    ("audio", "second"),
    [
        (AudioInput(), 32_000),
        (AudioInput(sample_rate=48000), 96_000),
        (AudioInput(encoding="mulaw", sample_rate=8000), 8_000),
        (AudioInput(encoding="opus", sample_rate=48000), 192_000),
    ],
)
def test_audio_in_real_time_passes_for_ever(audio, second):
    limit = audio_limit(audio)

    for at in range(1, 1000):
        assert limit.check(50 * at, second * at, float(at)) is None
        assert not limit.is_blocked


def test_a_burst_may_come_at_once_and_again_after_a_pause():
    limit = audio_limit(audio_burst_seconds=10.0)

    assert limit.check(100, 11 * SECOND, 1.0).code == "too_fast"
    limit = audio_limit(audio_burst_seconds=10.0)
    assert limit.check(100, 10 * SECOND, 1.0) is None
    assert limit.check(200, 20 * SECOND, 10.0) is None


def test_audio_that_is_too_fast_is_refused_once_a_second_while_it_comes():
    limit = audio_limit()
    limit.check(0, 0, 0.5)
    limit.check(100, 25 * SECOND, 1.0)

    assert limit.check(150, 28 * SECOND, 2.0).code == "too_fast"
    assert limit.check(150, 28 * SECOND, 3.0) is None
    assert limit.is_blocked
    assert not limit.is_flood
    limit.check(150, 28 * SECOND, 5.0)
    assert not limit.is_blocked


def test_empty_frames_count_too():
    for frames, is_flood in [(11_000, False), (50_000, True)]:
        limit = audio_limit()
        assert limit.check(frames, 0, 1.0).code == "too_fast"
        assert limit.is_flood is is_flood


def test_a_part_of_a_sample_is_no_audio():
    limit = audio_limit()

    assert limit.check(1, 641, 1.0).code == "not_audio"
    assert limit.check(2, 1281, 2.0) is None
    mulaw = audio_limit(AudioInput(encoding="mulaw", sample_rate=8000))
    assert mulaw.check(1, 161, 1.0) is None


def test_a_flood_is_known_before_the_next_check():
    limit = audio_limit()
    frames, size = limit.most

    assert size == (20 + 2 * 30) * SECOND
    assert frames == 500 * (20 + 2 * 30)
    limit.check(10, 5 * SECOND, 1.0)
    assert limit.most[1] == size  # what was sent is no part of the allowance any more
    limit.check(10, 5 * SECOND, 100.0)
    assert limit.most[1] == size + 5 * SECOND
    assert audio_limit(audio_speed=0).most == (math.inf, math.inf)


def test_without_a_speed_nothing_is_checked():
    assert audio_limit(audio_speed=0).next_check == math.inf
    assert audio_limit().next_check == 2.0
