from __future__ import annotations

import math

import pytest

from config.agent import AudioInput
from config.limits import Limits
from config.policy import Abuse, Limited, Messages, Policy
from relay.core.rate_limit import AudioLimit, AudioVerdict, BrowserLimits
from relay.protocol import deepgram

SECOND = 32_000  # bytes of linear16 at 16 kHz
TYPED = deepgram.InjectUserMessage(content="hello")


def make(messages_per_second=20.0, **policy):
    limits = Limits(messages_per_second=messages_per_second)
    return BrowserLimits(limits, Policy(**policy), AudioInput(), 0.0)


def audio_limit(audio=None, **limits):
    return AudioLimit(Limits(**limits), audio or AudioInput(), 0.0)


def test_a_typed_turn_may_come_so_often_a_minute():
    limits = make(messages=Messages(InjectUserMessage=Limited(per_minute=3)))

    heard = [limits.refuse_text(TYPED, at) for at in (1.0, 2.0, 3.0, 4.0)]

    assert [one and one.code for one in heard] == [None, None, None, "too_often"]
    assert limits.refuse_text(TYPED, 25.0) is None
    assert limits.refuse_text(deepgram.KeepAlive(), 25.0) is None


def test_messages_of_any_kind_may_come_so_often_a_second():
    limits = make(messages_per_second=5.0)

    heard = [limits.refuse_text(deepgram.KeepAlive(), 1.0) for _ in range(11)]

    assert heard[:10] == [None] * 10
    assert heard[10].code == "too_often"
    assert limits.refuse_text(deepgram.KeepAlive(), 1.3) is None


def test_a_ping_is_a_message_like_others():
    limits = make(messages_per_second=5.0, abuse=Abuse(refusals=3, seconds=10.0))

    heard = [limits.refuse_control(1.0) for _ in range(12)]

    assert heard[:10] == [None] * 10
    assert heard[10].code == "too_often"
    assert limits.refuse_text(deepgram.KeepAlive(), 1.0).code == "too_often"
    assert limits.is_abuse(1.0)
    assert limits.refuse_control(2.0) is None


def test_what_is_allowed_without_limits_has_none():
    limits = make(
        messages=Messages(InjectUserMessage="allow", UpdateListen="allow"), messages_per_second=1e6
    )

    assert not any(limits.refuse_text(TYPED, 1.0) for _ in range(1000))
    assert limits.refuse_text(deepgram.UpdateListen(listen={}), 1.0) is None


def test_refusals_within_a_time_are_abuse():
    limits = make(abuse=Abuse(refusals=3, seconds=10.0))

    for at in (0.0, 5.0, 11.0):
        limits.refuse_text(deepgram.Unknown(type="X"), at)
    assert not limits.is_abuse(11.0)
    limits.refuse_binary_text(12.0)
    assert limits.is_abuse(12.0)
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
        found = limit.check(50 * at, second * at, float(at))
        assert (found.verdict, found.refusal) == (AudioVerdict.PASS, None)


def test_a_burst_may_come_at_once_and_again_after_a_pause():
    limit = audio_limit(audio_burst_seconds=10.0)

    assert limit.check(100, 11 * SECOND, 1.0).verdict is AudioVerdict.BLOCK
    limit = audio_limit(audio_burst_seconds=10.0)
    assert limit.check(100, 10 * SECOND, 1.0).verdict is AudioVerdict.PASS
    assert limit.check(200, 20 * SECOND, 10.0).verdict is AudioVerdict.PASS


def test_audio_that_is_too_fast_is_refused_once_a_second_while_it_comes():
    limit = audio_limit()
    limit.check(0, 0, 0.5)
    limit.check(100, 25 * SECOND, 1.0)

    blocked = limit.check(150, 28 * SECOND, 2.0)
    waiting = limit.check(150, 28 * SECOND, 3.0)

    assert (blocked.verdict, blocked.changed, blocked.refusal.code) == (
        AudioVerdict.BLOCK,
        False,
        "too_fast",
    )
    assert (waiting.verdict, waiting.refusal) == (AudioVerdict.BLOCK, None)
    freed = limit.check(150, 28 * SECOND, 5.0)
    assert (freed.verdict, freed.changed, freed.refusal) == (AudioVerdict.PASS, True, None)


def test_empty_frames_count_too():
    assert audio_limit().check(11_000, 0, 0.5).verdict is AudioVerdict.BLOCK
    assert audio_limit().check(50_000, 0, 1.0).verdict is AudioVerdict.FLOOD


def test_a_part_of_a_sample_is_no_audio():
    limit = audio_limit()

    assert limit.check(1, 641, 1.0).refusal.code == "not_audio"
    assert limit.check(2, 1281, 2.0).refusal is None
    mulaw = audio_limit(AudioInput(encoding="mulaw", sample_rate=8000))
    assert mulaw.check(1, 161, 1.0).refusal is None


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


def test_refused_audio_is_abuse_like_a_refused_text():
    limits = make(abuse=Abuse(refusals=1, seconds=10.0))

    assert limits.check_audio(1, 641, 1.0).refusal.code == "not_audio"
    assert limits.is_abuse(1.0)
