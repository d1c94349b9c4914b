from __future__ import annotations

import math

import pytest

from config.agent import AudioInput
from config.policy import Abuse, Limited, Messages
from relay.core.rate_limit import Bounds, BrowserLimits, Flow
from relay.protocol import deepgram

SECOND = 32_000  # bytes of linear16 at 16 kHz
TYPED = deepgram.InjectUserMessage(content="hello")


def make(audio=None, **bounds):
    return BrowserLimits(Bounds(**bounds), audio or AudioInput(), 0.0)


def test_a_typed_turn_may_come_so_often_a_minute():
    conduct = make(messages=Messages(InjectUserMessage=Limited(per_minute=3)))

    heard = [conduct.hear(TYPED, at) for at in (1.0, 2.0, 3.0, 4.0)]

    assert [one and one.code for one in heard] == [None, None, None, "too_often"]
    assert conduct.hear(TYPED, 25.0) is None
    assert conduct.hear(deepgram.KeepAlive(), 25.0) is None


def test_messages_of_any_kind_may_come_so_often_a_second():
    conduct = make(messages_per_second=5.0)

    heard = [conduct.hear(deepgram.KeepAlive(), 1.0) for _ in range(11)]

    assert heard[:10] == [None] * 10
    assert heard[10].code == "too_often"
    assert conduct.hear(deepgram.KeepAlive(), 1.3) is None


def test_a_ping_is_a_message_like_others():
    conduct = make(messages_per_second=5.0, abuse=Abuse(refusals=3, seconds=10.0))

    heard = [conduct.control(1.0) for _ in range(12)]

    assert heard[:10] == [None] * 10
    assert heard[10].code == "too_often"
    assert conduct.hear(deepgram.KeepAlive(), 1.0).code == "too_often"
    assert conduct.is_abuse(1.0)
    assert conduct.control(2.0) is None


def test_what_is_allowed_without_limits_has_none():
    conduct = make(
        messages=Messages(InjectUserMessage="allow", UpdateListen="allow"), messages_per_second=1e6
    )

    assert not any(conduct.hear(TYPED, 1.0) for _ in range(1000))
    assert conduct.hear(deepgram.UpdateListen(listen={}), 1.0) is None


def test_refusals_within_a_time_are_abuse():
    conduct = make(abuse=Abuse(refusals=3, seconds=10.0))

    for at in (0.0, 5.0, 11.0):
        conduct.hear(deepgram.Unknown(type="X"), at)
    assert not conduct.is_abuse(11.0)
    conduct.mistake(12.0)
    assert conduct.is_abuse(12.0)
    assert "refusals=3" in repr(conduct)


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
    conduct = make(audio)

    for at in range(1, 1000):
        looked = conduct.look(50 * at, second * at, float(at))
        assert (looked.flow, looked.refusal) == (Flow.PASS, None)


def test_a_burst_may_come_at_once_and_again_after_a_pause():
    conduct = make(audio_burst_seconds=10.0)

    assert conduct.look(100, 11 * SECOND, 1.0).flow is Flow.BLOCK
    conduct = make(audio_burst_seconds=10.0)
    assert conduct.look(100, 10 * SECOND, 1.0).flow is Flow.PASS
    assert conduct.look(200, 20 * SECOND, 10.0).flow is Flow.PASS


def test_audio_that_is_too_fast_is_refused_once_a_second_while_it_comes():
    conduct = make()
    conduct.look(0, 0, 0.5)
    conduct.look(100, 25 * SECOND, 1.0)

    blocked = conduct.look(150, 28 * SECOND, 2.0)
    waiting = conduct.look(150, 28 * SECOND, 3.0)

    assert (blocked.flow, blocked.changed, blocked.refusal.code) == (Flow.BLOCK, False, "too_fast")
    assert (waiting.flow, waiting.refusal) == (Flow.BLOCK, None)
    freed = conduct.look(150, 28 * SECOND, 5.0)
    assert (freed.flow, freed.changed, freed.refusal) == (Flow.PASS, True, None)


def test_empty_frames_count_too():
    assert make().look(11_000, 0, 0.5).flow is Flow.BLOCK
    assert make().look(50_000, 0, 1.0).flow is Flow.FLOOD


def test_a_part_of_a_sample_is_no_audio():
    conduct = make()

    assert conduct.look(1, 641, 1.0).refusal.code == "not_audio"
    assert conduct.look(2, 1281, 2.0).refusal is None
    mulaw = make(AudioInput(encoding="mulaw", sample_rate=8000))
    assert mulaw.look(1, 161, 1.0).refusal is None


def test_a_flood_is_known_before_the_next_look():
    conduct = make()
    frames, size = conduct.most

    assert size == (20 + 2 * 30) * SECOND
    assert frames == 500 * (20 + 2 * 30)
    conduct.look(10, 5 * SECOND, 1.0)
    assert conduct.most[1] == size  # what was sent is no part of the allowance any more
    conduct.look(10, 5 * SECOND, 100.0)
    assert conduct.most[1] == size + 5 * SECOND
    assert make(audio_speed=0).most == (math.inf, math.inf)


def test_without_a_speed_nobody_looks():
    assert make(audio_speed=0).look_at == math.inf
    assert make().look_at == 2.0


def test_a_short_idle_time_is_told_at_half_of_it():
    conduct = make(idle_seconds=10.0)

    assert conduct.deadline == 5.0
    assert conduct.notice(4.9) is None
    assert conduct.notice(5.0).ends_in == 5.0
    assert conduct.notice(6.0) is None
    assert conduct.deadline == 10.0
    assert conduct.hear(TYPED, 9.0) is None
    assert conduct.over(10.0) is None
    assert conduct.notice(14.0).code == "idle"
    assert conduct.over(19.0) == "idle"


def test_a_session_may_be_without_end():
    conduct = make()

    assert conduct.deadline == math.inf
    assert conduct.over(1e9) is None
