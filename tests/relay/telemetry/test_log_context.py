"""What a request is called: what is well formed is believed, anything else is made here."""

from __future__ import annotations

import re

import pytest

from relay.telemetry.log_context import LogContext, answering, current, outgoing, read_ids

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def test_what_is_well_formed_is_taken():
    ids = read_ids(["abc.DEF-1_2"], [f"00-{TRACE}-{PARENT}-01"])

    assert (ids.request_id, ids.trace_id, ids.flags) == ("abc.DEF-1_2", TRACE, "01")
    assert ids.parent_id == PARENT


def test_a_trace_alone_names_the_request():
    assert read_ids([], [f"00-{TRACE}-{PARENT}-00"]).request_id == TRACE


@pytest.mark.parametrize(
    "given",
    [[], [""], ["x" * 65], ["a b"], ["a\nb"], ["-a"], ["ü"], ["a", "b"], ['a"b'], ["a;b"]],
)
def test_any_other_request_id_is_replaced(given):
    ids = read_ids(given, [])

    assert re.fullmatch(r"[0-9a-f]{32}", ids.request_id)
    assert read_ids(given, []).request_id != ids.request_id


@pytest.mark.parametrize(
    "trace",
    [
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}",
        f"01-{TRACE}-{PARENT}-01more",
        f"01-{TRACE}-{PARENT}-01-" + "x" * 300,
        "",
    ],
)
def test_a_trace_that_is_not_well_formed_is_replaced(trace):
    ids = read_ids(["r-1"], [trace])

    assert ids.trace_id != TRACE
    assert ids.request_id == "r-1"
    assert ids.parent_id is None


def test_of_a_later_version_what_is_known_is_read():
    assert read_ids([], [f"01-{TRACE}-{PARENT}-03-what-ever"]).trace_id == TRACE


def test_who_is_asked_gets_the_same_names_with_a_span_of_its_own():
    token = current.set(LogContext(read_ids(["r-1"], [f"00-{TRACE}-{PARENT}-01"])))
    try:
        first, second = outgoing(), outgoing()
        assert answering() == {"X-Request-Id": "r-1"}
    finally:
        current.reset(token)

    assert first["X-Request-Id"] == "r-1"
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-01", first["traceparent"])
    assert first["traceparent"] != second["traceparent"]
    assert PARENT not in first["traceparent"]


def test_outside_of_a_request_there_is_nothing():
    assert outgoing() == {}
    assert answering() == {}
