from __future__ import annotations

from uuid import UUID

import pytest

from config.limits import Limits
from relay.live.quotas import NOBODY, Attached, Counted, Room, block, check_room
from relay.protocol.refusal import Refused


def code(limits, here, address, user_id=None, elsewhere=NOBODY):
    attached = [Attached(user, block(where)) for user, where in here]
    try:
        check_room(limits, attached, Room(block(address), user_id, None), elsewhere)
    except Refused as refused:
        return refused.status, refused.code, refused.retry_after
    return None


def test_one_user_has_so_many_sessions():
    limits = Limits(sessions_per_user=2)
    here = [("ann", "10.0.0.1"), ("ann", "10.0.0.2")]

    assert code(limits, here, "10.0.0.3", "ann") == (429, "user_sessions", 10)
    assert code(limits, here, "10.0.0.3", "bob") is None
    assert code(limits, here, "10.0.0.3") is None
    assert code(limits, here[1:], "10.0.0.3", "ann") is None


def test_one_address_has_so_many_sessions():
    limits, here = Limits(sessions_per_address=1), [("ann", "2001:db8::1")]

    assert code(limits, here, "2001:db8::ffff") == (429, "address_sessions", 10)
    assert code(limits, here, "2001:db8:0:1::1") is None


def test_what_other_workers_have_counts_for_user_and_address_and_not_in_all():
    limits = Limits(sessions=1, sessions_per_user=2, sessions_per_address=2)

    assert code(limits, [], "10.0.0.1", "ann", Counted(9, 2, 0))[1] == "address_sessions"
    assert code(limits, [], "10.0.0.1", "ann", Counted(9, 0, 2))[1] == "user_sessions"
    assert code(limits, [], "10.0.0.1", "ann", Counted(9, 1, 1)) is None


def test_the_session_of_the_same_conversation_is_left_out():
    conversation = UUID(int=1)
    limits = Limits(sessions=1, sessions_per_user=1, sessions_per_address=1)
    here = [Attached("ann", "10.0.0.1", conversation)]

    check_room(limits, here, Room("10.0.0.1", "ann", conversation))
    with pytest.raises(Refused):
        check_room(limits, here, Room("10.0.0.1", "ann", UUID(int=2)))


def test_there_is_an_end_to_all():
    limits = Limits(sessions=1)

    assert code(limits, [("ann", "10.0.0.1")], "10.0.0.2", "bob") == (503, "sessions", 10)


def test_0_is_no_limit():
    limits = Limits(sessions=0, sessions_per_user=0, sessions_per_address=0)

    assert code(limits, 2000 * [("ann", "10.0.0.1")], "10.0.0.1", "ann") is None


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix socket", "unix socket"),
    ],
)
def test_what_counts_as_one_address(address, counted):
    assert block(address) == counted
