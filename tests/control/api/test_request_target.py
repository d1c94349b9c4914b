"""Where a client is, of all that proxies and clients can write."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.origins import read_address
from control.api.request_target import (
    Networks,
    came_by_proxy,
    find_client,
    find_scheme,
)

PROXIES = Networks(("127.0.0.1", "10.0.0.0/8", "fd00::/8"))
PEER = ip_address("127.0.0.1")


def headers(*values):
    return [(b"x-forwarded-for", value.encode("latin-1")) for value in values]


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([], "127.0.0.1"),
        ([""], "127.0.0.1"),
        (["203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7:5000"], "203.0.113.7"),
        (["2001:db8::7"], "2001:db8::7"),
        (["[2001:db8::7]"], "2001:db8::7"),
        (["[2001:DB8::0007]:5000"], "2001:db8::7"),
        (['"[2001:db8::7]:5000"'], "2001:db8::7"),
        (["fe80::7%eth0"], "fe80::7"),
        (["::ffff:203.0.113.7"], "203.0.113.7"),
        ([" 203.0.113.7 , 10.1.1.1 "], "203.0.113.7"),
        (["203.0.113.7", "10.1.1.1"], "203.0.113.7"),
        (["1.2.3.4, 203.0.113.7, 10.1.1.1"], "203.0.113.7"),  # the client wrote the first
        (["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
        (["unknown"], "127.0.0.1"),
        (["203.0.113.7, unknown, 10.1.1.1"], "10.1.1.1"),
        (["203.0.113.7, ,"], "203.0.113.7"),
        (["999.1.1.1"], "127.0.0.1"),
        (["[::1"], "127.0.0.1"),
        (["a\xff\xfe"], "127.0.0.1"),
    ],
)
def test_the_client_is_the_first_from_the_end_that_is_no_proxy_of_ours(values, client):
    assert str(find_client(headers(*values), PEER, PROXIES)) == client


def test_who_is_no_proxy_is_not_asked():
    peer = ip_address("203.0.113.9")

    assert find_client(headers("198.51.100.1"), peer, PROXIES) == peer


@given(st.lists(st.binary(), max_size=3))
def test_anything_can_be_written(values):
    written = [(b"x-forwarded-for", value) for value in values]
    written += [(b"x-forwarded-proto", value) for value in values]

    assert find_client(written, PEER, PROXIES) is not None
    assert find_scheme(written) in (None, "http", "https")


def test_ipv4_that_comes_over_ipv6_is_ipv4():
    assert str(read_address("::ffff:10.0.0.1")) == "10.0.0.1"
    assert read_address("::ffff:10.0.0.1") in PROXIES
    assert read_address("10.0.0.1") in Networks(("::ffff:10.0.0.0/104",))
    assert read_address("11.0.0.1") not in Networks(("::ffff:10.0.0.0/104",))
    assert read_address("host") not in PROXIES


@pytest.mark.parametrize("name", [b"forwarded", b"via", b"x-forwarded-host", b"x-real-ip"])
def test_a_proxy_shows_itself(name):
    assert came_by_proxy([(b"host", b"a"), (name, b"x")])
    assert not came_by_proxy([(b"host", b"a")])
