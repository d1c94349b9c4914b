"""A load test of seconds: every arm that is installed passes every frame. Never time."""

import os
import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from loadtests import processes, scenarios, systems_under_test
from loadtests.environment import Environment, prepare
from loadtests.results import Arm
from loadtests.run import find_longest, run
from loadtests.scenarios import ECHO, Stage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def environment() -> AsyncIterator[Environment]:
    async with prepare(processes.choose_cores(os.sched_getaffinity(0))) as prepared:
        yield prepared


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def run_short(environment, arm, *, sessions=4, traffic=ECHO, seconds=0.8, tls=False):
    if systems_under_test.is_missing(arm):
        pytest.skip(f"{arm} is not installed")
    stage = Stage(traffic=traffic, seconds=seconds, tls=tls, warm_up=0.2, timed=False)
    return await run(environment, stage, arm, sessions)


@pytest.mark.parametrize("arm", [*Arm])
async def test_an_arm_passes_every_frame_both_ways(environment, arm):
    done = await run_short(environment, arm)
    assert done.void is None
    assert done.up.count == 4 * 40
    # Lost ones would make it void; those on their way at either edge are not counted.
    assert done.down.count == pytest.approx(done.up.count, abs=40)
    assert (done.cpu_us_per_frame is None) == (arm is Arm.DIRECT)


@pytest.mark.parametrize("arm", [Arm.DIRECT, Arm.NGINX, Arm.HAPROXY, Arm.OURS])
async def test_an_arm_reaches_the_agent_over_tls(environment, arm):
    done = await run_short(environment, arm, tls=True)
    assert done.void is None
    assert done.up.count == 4 * 40


@pytest.mark.parametrize("arm", [Arm.DIRECT, Arm.NGINX, Arm.OURS])
async def test_a_conversation_has_events_speech_and_answered_calls(environment, arm):
    done = await run_short(
        environment, arm, traffic=scenarios.CONVERSATION, sessions=6, seconds=3.5
    )
    assert done.void is None
    assert done.down.count > 0
    assert done.extra["events"] > 6 * 2
    assert done.extra["calls"] > 0
    # Only our relay asks the Orchestrator; otherwise the browser answers the call itself.
    assert (done.extra["posts"] > 0) == (arm is Arm.OURS)


@pytest.mark.parametrize("traffic", [scenarios.SMALL, scenarios.LARGE])
async def test_frames_of_all_sizes_pass(environment, traffic):
    done = await run_short(environment, Arm.OURS, traffic=traffic, sessions=2)
    assert done.void is None
    assert done.up.count > 0


async def test_memory_is_looked_at_where_sessions_are_quiet(environment):
    done = await run_short(environment, Arm.OURS, traffic=scenarios.QUIET)
    assert done.void is None
    assert done.rss_kib_per_session is not None


async def test_a_run_without_its_arm_is_void_and_says_why(environment, monkeypatch):
    monkeypatch.setattr(systems_under_test, "find", lambda name: f"/nowhere/{uuid.uuid4()}")
    done = await run_short(environment, Arm.NGINX)
    assert done.void is not None
    assert "No such file" in done.void


async def test_a_stopped_database_loses_no_frame_and_has_a_stall(environment):
    done = await run_short(environment, Arm.OURS, traffic=scenarios.STOPPED_DATABASE, seconds=1.0)
    assert done.void is None
    assert done.up.count == 4 * 50
    assert done.stall_ms is not None


async def test_browsers_that_do_not_read_lose_what_they_are_sent_and_weigh(environment):
    done = await run_short(environment, Arm.OURS, traffic=scenarios.UNREAD, sessions=2, seconds=3.0)
    assert done.void is None
    assert done.down.count < done.up.count
    assert done.rss_kib_per_session is not None


async def test_the_longest_stall_is_the_highest_bucket_that_grew():
    before = {0.001: 5.0, 0.002: 6.0, 0.004: 7.0}
    after = {0.001: 9.0, 0.002: 11.0, 0.004: 12.0}
    assert find_longest(after, before) == 2.0
    assert find_longest({}, {}) is None
