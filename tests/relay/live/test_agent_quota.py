from __future__ import annotations

import math

from relay.live.quotas import AgentQuota


def test_agents_are_had_within_the_size():
    share = AgentQuota(40)
    assert not share.enter("a")

    share.resize(2, 10)

    assert share.enter("a")
    assert share.enter("a")
    assert share.enter("b")
    assert not share.enter("c")
    assert (share.used, share.headroom, share.spare) == (2, 10, 4)
    share.leave("a")
    share.leave("a")
    assert share.headroom == 11
    assert share.enter("c")


def test_what_is_there_counts_also_without_room():
    share = AgentQuota(10)
    share.resize(1, 0)
    share.enter("session")

    gone = share.linger()

    assert (share.used, share.headroom) == (2, 0)
    assert repr(share) == "<AgentQuota used=2 size=1 limit=10>"
    gone()
    assert share.used == 1


def test_a_part_that_shrinks_takes_nothing_away():
    share = AgentQuota(10)
    share.resize(3, 0)
    for key in "abc":
        share.enter(key)

    share.resize(1, 0)

    assert share.used == 3
    assert share.enter("a")
    assert not share.enter("d")


def test_without_a_limit_there_is_always_room():
    share = AgentQuota()

    assert all(share.enter(number) for number in range(1000))
    assert share.headroom == math.inf
