"""A load test of seconds: every arm that is installed passes every frame. Never time."""

import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from loadtests import faults, processes, scenarios, systems_under_test
from loadtests.environment import Environment, prepare
from loadtests.results import Arm
from loadtests.run import Plan, run


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def environment() -> AsyncIterator[Environment]:
    async with prepare(processes.choose_cores()) as prepared:
        yield prepared


pytestmark = pytest.mark.asyncio(loop_scope="module")


def plan(arm, **more):
    defaults = {"sessions": 4, "warm_up": 0.2, "seconds": 0.8, "timed": False}
    return Plan(arm=arm, **{"traffic": scenarios.ECHO} | defaults | more)


def expect_installed(arm, environment):
    if reason := systems_under_test.missing(arm, environment.dependencies):
        pytest.skip(reason)


@pytest.mark.parametrize("arm", [*Arm])
async def test_an_arm_passes_every_frame_both_ways(environment, arm):
    expect_installed(arm, environment)
    done = await run(environment, plan(arm))
    assert done.void is None
    assert done.frames_up == 4 * 40
    assert done.frames_down == pytest.approx(done.frames_up, abs=8)  # some on either edge
    assert (done.cpu_us_per_frame is None) == (arm is Arm.DIRECT)


@pytest.mark.parametrize("arm", [Arm.DIRECT, Arm.NGINX, Arm.HAPROXY, Arm.OURS])
async def test_an_arm_reaches_the_agent_over_tls(environment, arm):
    expect_installed(arm, environment)
    done = await run(environment, plan(arm, tls=True))
    assert done.void is None
    assert done.frames_up == 4 * 40


@pytest.mark.parametrize("arm", [Arm.DIRECT, Arm.NGINX, Arm.OURS])
async def test_a_conversation_has_events_speech_and_answered_calls(environment, arm):
    expect_installed(arm, environment)
    done = await run(
        environment, plan(arm, traffic=scenarios.CONVERSATION, sessions=6, seconds=3.5)
    )
    assert done.void is None
    assert done.frames_down > 0
    assert done.extra["events"] > 6 * 2
    assert done.extra["calls"] > 0
    # Only our relay asks the Orchestrator; otherwise the browser answers the call itself.
    assert (done.extra["posts"] > 0) == (arm is Arm.OURS)


@pytest.mark.parametrize("load", [scenarios.SMALL, scenarios.LARGE])
async def test_frames_of_all_sizes_pass(environment, load):
    done = await run(environment, plan(Arm.OURS, traffic=load, sessions=2))
    assert done.void is None
    assert done.frames_up > 0


async def test_memory_is_looked_at_when_it_is_asked_for(environment):
    done = await run(environment, plan(Arm.OURS, traffic=scenarios.PACED, memory=True))
    assert done.void is None
    assert done.rss_kib_per_session is not None


async def test_a_run_without_its_arm_is_void_and_says_why(environment, monkeypatch):
    monkeypatch.setattr(systems_under_test, "find", lambda name: f"/nowhere/{uuid.uuid4()}")
    done = await run(environment, plan(Arm.NGINX))
    assert done.void is not None
    assert "No such file" in done.void


async def test_a_stopped_database_loses_no_frame(environment):
    before, during = await faults.run_stopped_database(environment, sessions=4, seconds=1.0)
    assert (before.void, during.void) == (None, None)
    assert during.frames_up == 4 * 50
