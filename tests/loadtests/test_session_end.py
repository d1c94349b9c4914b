"""Frames with a stamp, from one end to the other."""

from unittest.mock import Mock

import pytest

from loadtests.scenarios import ECHO
from loadtests.session_end import DOWN, UP, SessionEnd, SessionEnds


@pytest.fixture
async def ends():
    made = SessionEnds()
    made.expect_traffic(ECHO)
    made.until = 2**62
    yield made
    made.schedule.close()


@pytest.fixture
async def frames(ends):
    """Three frames of browser 7, due 1, 2 and 3 steps after the start."""
    browser = SessionEnd(ends, UP, 7, 640)
    sent = []
    browser.on_ws_connected(Mock(send=lambda kind, frame: sent.append(memoryview(bytes(frame)))))
    assert [browser.fire(due) for due in (0, ECHO.step, 2 * ECHO.step)][-1] == 3 * ECHO.step
    return sent


def take(ends, *frames):
    agent = SessionEnd(ends, DOWN, 1, 640)
    agent.on_ws_connected(Mock())
    for frame in frames:
        agent.take(frame)
    return agent


async def test_every_frame_that_comes_in_order_is_timed(ends, frames):
    agent = take(ends, *frames)
    assert agent.peer == 7
    assert (agent.tally().received, agent.tally().problems) == (3, [])
    assert [due for due, _ in ends.delays] == [0, ECHO.step, 2 * ECHO.step]


@pytest.mark.parametrize("order", [(0, 2), (0, 1, 1), (1, 0), (1, 2)])
async def test_a_frame_that_is_lost_doubled_or_late_is_a_problem(ends, frames, order):
    assert take(ends, *(frames[place] for place in order)).problems


async def test_a_frame_of_another_is_a_problem(ends, frames):
    other = SessionEnd(ends, UP, 8, 640)
    other.send_frame(Mock(send=lambda kind, frame: frames.append(memoryview(bytes(frame)))), 0)
    assert take(ends, frames[0], frames[-1]).problems == ["expected frame 1 of 7, got frame 0 of 8"]


async def test_our_own_frames_are_a_problem(ends, frames):
    browser = SessionEnd(ends, UP, 7, 640)
    browser.take(frames[0])
    assert browser.problems


async def test_a_connection_that_is_gone_is_a_problem(ends, frames):
    agent = take(ends, *frames)
    agent.on_ws_disconnected(Mock())
    assert agent.tally().problems == ["the connection was lost"]


async def test_silence_of_the_relay_before_anybody_spoke_is_no_frame(ends, frames):
    agent = take(ends, memoryview(bytes(3200)), *frames)
    assert (agent.peer, agent.tally().received, agent.tally().problems) == (7, 3, [])
