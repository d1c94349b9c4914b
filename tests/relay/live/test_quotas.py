from __future__ import annotations

from uuid import UUID

import pytest

from config.limits import Limits
from relay.live.quotas import SessionQuotas, block
from relay.protocol.refusal import Refused


def code(quotas, *caller):
    try:
        quotas.check(*caller)
    except Refused as refused:
        return refused.status, refused.code, refused.retry_after
    return None


def test_one_user_has_so_many_sessions():
    quotas = SessionQuotas(Limits(sessions_per_user=2))
    quotas.enter(UUID(int=1), "ann", "10.0.0.1")
    quotas.enter(UUID(int=2), "ann", "10.0.0.2")

    assert code(quotas, "10.0.0.3", "ann") == (429, "user_sessions", 10)
    assert code(quotas, "10.0.0.3", "bob") is None
    assert code(quotas, "10.0.0.3") is None
    quotas.leave(UUID(int=1))
    quotas.leave(UUID(int=1))
    assert code(quotas, "10.0.0.3", "ann") is None


def test_one_address_has_so_many_sessions():
    quotas = SessionQuotas(Limits(sessions_per_address=1))
    quotas.enter(UUID(int=1), "ann", "2001:db8::1")

    assert code(quotas, "2001:db8::ffff") == (429, "address_sessions", 10)
    assert code(quotas, "2001:db8:0:1::1") is None


def test_a_session_that_comes_back_while_its_old_self_closes_counts_once():
    quotas = SessionQuotas(Limits(sessions_per_user=2))
    session_id = UUID(int=1)
    quotas.enter(session_id, "ann", "192.0.2.1")
    quotas.enter(session_id, "ann", "192.0.2.9")

    quotas.check("192.0.2.1", "ann")
    quotas.leave(session_id)
    assert len(quotas) == 0


def test_there_is_an_end_to_all():
    quotas = SessionQuotas(Limits(sessions=1))
    quotas.enter(UUID(int=1), "ann", "10.0.0.1")

    assert code(quotas, "10.0.0.2", "bob") == (503, "sessions", 10)
    assert (len(quotas), repr(quotas)) == (1, "<SessionQuotas sessions=1>")


def test_0_is_no_limit():
    quotas = SessionQuotas(Limits(sessions=0, sessions_per_user=0, sessions_per_address=0))
    for number in range(2000):
        quotas.enter(UUID(int=number), "ann", "10.0.0.1")

    assert code(quotas, "10.0.0.1", "ann") is None


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
