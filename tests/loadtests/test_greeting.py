"""Both pages reach the agent and are heard; the figures say by how much ours is later."""

from __future__ import annotations

import importlib.util

import pytest

from loadtests import greeting
from loadtests.environment import Environment, make_certificate
from loadtests.processes import Pinning
from loadtests.results import Arm
from loadtests.systems_under_test import KEY, find
from relay.sandbox.options import Options
from relay.sandbox.server import serve

needs_browser = pytest.mark.skipif(
    find("chromium") is None or importlib.util.find_spec("playwright") is None,
    reason="there is no chromium",
)
ROUND_TRIP = 0.03


def taps(*heard):
    return [{"listening": at - 50.0, "heard": at} for at in heard]


def test_the_figure_is_the_worst_of_median_and_p95_at_any_round_trip():
    found = {
        0.0: {Arm.OURS: taps(300, 310, 320), Arm.DIRECT: taps(310, 320, 330)},
        0.1: {Arm.OURS: taps(400, 410, 640), Arm.DIRECT: taps(600, 610, 620)},
    }

    figures = greeting.to_figures(found)

    assert figures["greeting_heard_ours_100ms_p50"] == 410
    assert figures["greeting_heard_direct_0ms_p95"] == 330
    assert figures["greeting_over_direct_ms"] == 20  # p95 at 100 ms


@pytest.mark.parametrize(("count", "which"), [(1, 0), (19, 18), (20, 18), (40, 37), (100, 94)])
def test_p95_is_a_value_that_was_measured(count, which):
    assert greeting.p95([float(n) for n in reversed(range(count))]) == which


async def test_without_taps_nothing_is_started():
    assert await greeting.find_figures(None, pytest.fail, taps=0) == {}


@needs_browser
@pytest.mark.timeout(120)
async def test_both_pages_hear_the_greeting_and_no_step_is_out_of_order(database_url, tmp_path):
    authority, _ = make_certificate(tmp_path)
    said: list[str] = []
    async with serve(Options(api_key=KEY, handshake_delay=0.02)) as agent:
        environment = Environment(
            folder=tmp_path,
            pinning=Pinning(),
            database_url=database_url,
            database_pid=0,
            agent=agent,
            agent_url=agent.agent_url,
            agent_tls_url="",
            ca=str(authority),
            orchestrator_url="http://127.0.0.1:9",
        )

        found = await greeting.measure(
            environment, said.append, taps=1, round_trips=(0.0, ROUND_TRIP)
        )

        by_token = [session.scheme for session in agent.sessions].count("bearer")
        assert by_token == len(agent.sessions) / 2
    for round_trip, times in found.items():
        for arm, [marks] in times.items():
            way = ["POST", "POST answered", "WebSocket", "WebSocket open", "SettingsApplied"]
            assert [marks[name] for name in way] == sorted(marks[name] for name in way), arm
            assert marks["SettingsApplied"] <= min(marks[end] for end in greeting.ENDS)
            # Request, and handshake of TCP and of the WebSocket: each a round trip at least.
            assert marks["POST answered"] - marks["POST"] >= round_trip * 1000 - 1
            assert marks["WebSocket open"] - marks["WebSocket"] >= 2 * round_trip * 1000 - 1
    assert said[0] == "tapping 1 times each way with a round trip of 0 ms"
    shown = greeting.describe(found)
    print(shown)
    assert "round trip 30 ms" in shown
