"""A load test of seconds: every arm that is installed passes every frame. Never time."""

import os
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from loadtests import processes, scenarios, systems_under_test
from loadtests.environment import Environment, prepare
from loadtests.results import Arm, Results, Run
from loadtests.run import find_longest, run
from loadtests.scenarios import CONVERSATION, ECHO, Stage
from loadtests.suite_runner import Stages


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def environment() -> AsyncIterator[Environment]:
    async with prepare(processes.choose_cores(os.sched_getaffinity(0))) as prepared:
        yield prepared


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def run_short(environment, arm, *, sessions=4, traffic=ECHO, seconds=0.8, tls=False):
    if why := systems_under_test.find_obstacle(arm, environment.folder):
        pytest.skip(why)
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


@pytest.mark.parametrize("arm", [Arm.DIRECT, Arm.NGINX, Arm.NODE, Arm.OURS])
async def test_an_arm_reaches_the_agent_over_tls(environment, arm):
    done = await run_short(environment, arm, tls=True)
    assert done.void is None
    assert done.up.count == 4 * 40


@pytest.mark.parametrize("arm", [Arm.DIRECT, Arm.NGINX, Arm.OURS])
async def test_a_conversation_has_events_speech_and_answered_calls(environment, arm):
    done = await run_short(environment, arm, traffic=CONVERSATION, sessions=6, seconds=3.5)
    assert done.void is None
    assert done.down.count > 0
    assert done.extra["events"] > 6 * 2
    assert done.extra["calls"] > 0
    # Only our relay asks the Orchestrator; otherwise the browser answers the call itself.
    assert (done.extra["posts"] > 0) == (arm is Arm.OURS)


async def test_memory_is_looked_at_where_sessions_are_quiet(environment):
    done = await run_short(environment, Arm.OURS, traffic=scenarios.QUIET)
    assert done.void is None
    assert done.rss_kib_per_session is not None


@pytest.mark.parametrize(
    ("arm", "missing"), [(Arm.NGINX, "nginx"), (Arm.NODE, "node"), (Arm.NODE, "npm")]
)
async def test_an_arm_whose_program_is_not_there_says_so(arm, missing, monkeypatch, tmp_path):
    find = systems_under_test.find
    monkeypatch.setattr(
        systems_under_test, "find", lambda name: None if name == missing else find(name) or name
    )
    assert systems_under_test.find_obstacle(arm, tmp_path) == f"{missing} is not installed"


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


async def test_what_is_not_decided_is_run_again_while_there_is_time(environment):
    if why := systems_under_test.find_obstacle(Arm.NGINX, environment.folder):
        pytest.skip(why)
    runs = [
        Run(arm=arm, scenario=CONVERSATION.name, sessions=100, repetition=n, cpu_us_per_frame=cpu)
        for n, ours in enumerate((31, 33))
        for arm, cpu in ((Arm.NGINX, 20), (Arm.OURS, ours))
    ]
    results = Results(started_at=datetime.now(UTC), runs=[*runs])
    stages = Stages(environment, results, lambda line: None, frozenset())
    stage = Stage(
        traffic=CONVERSATION,
        arms=(Arm.DIRECT, Arm.NGINX, Arm.OURS),
        sessions=(2,),
        warm_up=0.1,
        seconds=0.4,
        timed=False,
    )

    await stages.decide([stage], time.monotonic())
    assert results.runs == runs

    await stages.decide([stage], time.monotonic() + 15)
    more = [(run.arm, run.repetition, run.void) for run in results.runs[4:]]
    assert more[:2] == [(Arm.NGINX, 2, None), (Arm.OURS, 2, None)]
