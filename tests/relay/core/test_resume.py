"""Who may come back, and until when."""

from __future__ import annotations

import math

import pytest

from relay.core.resume import Presence
from tests.relay.conftest import numbered_tickets


@pytest.fixture
def presence():
    return Presence(30.0, numbered_tickets())


def test_it_is_waited_for_from_when_it_left(presence):
    assert presence.until == math.inf
    assert repr(presence) == "<Presence here>"

    presence.leave(5.0)

    assert presence.until == 35.0
    assert repr(presence) == "<Presence away>"


def test_only_its_ticket_lets_it_in(presence):
    assert presence.admits("ticket-1", 0)
    assert not presence.admits("ticket-2", 0)
    assert not presence.admits("", 0)
    assert not presence.admits("t\xefcket-1", 0)


def test_each_attach_brings_another_ticket(presence):
    presence.leave(5.0)

    presence.arrive("ticket-1", 10)

    assert presence.ticket == "ticket-2"
    assert presence.admits("ticket-2", 11)
    assert not presence.is_away


def test_a_ticket_is_used_up_once_the_browser_is_heard(presence):
    presence.arrive("ticket-1", 10)

    assert not presence.admits("ticket-1", 11)


def test_a_browser_that_never_got_its_new_ticket_comes_again_with_the_old_one(presence):
    presence.arrive("ticket-1", 10)
    presence.arrive("ticket-1", 10)

    assert presence.admits("ticket-1", 10)
    assert presence.admits("ticket-3", 10)
    assert not presence.admits("ticket-2", 10)


def test_without_a_grace_time_no_ticket_is_good():
    assert not Presence(0.0, numbered_tickets()).admits("ticket-1", 0)


def test_the_ticket_that_it_brought_from_another_relay_is_good_until_it_is_heard():
    presence = Presence(30.0, numbered_tickets(), first="ours", came_with="theirs")

    assert presence.ticket == "ours"
    assert presence.admits("theirs", 0)
    assert presence.admits("ours", 0)
    assert not presence.admits("theirs", 1)

    presence.hear()

    assert not presence.admits("theirs", 0)
