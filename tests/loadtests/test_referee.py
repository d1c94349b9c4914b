"""voicebench, from the package registry, talks to a scripted agent with and without the relay."""

import msgspec
import pytest

from loadtests import referee
from loadtests.environment import prepare
from loadtests.processes import Pinning, ProgramFailed
from loadtests.referee import Turned
from loadtests.results import Arm
from loadtests.systems_under_test import KEY
from relay.sandbox.options import Options
from relay.sandbox.script import Script, Turn
from relay.sandbox.server import serve

SCENARIO = """
name: one turn
tail_ms: 300
adapter: {type: "loadtests.referee_adapter:DeepgramAdapter"}
turns:
  - audio: {synth: speech, duration_ms: 600}
    start: {after: agent_speech_end, delay_ms: 200}
    text: "Hello, is anyone there?"
"""
ANSWER = Turn(when="audio", after=1.5, user="hello is anyone there", say=("I am.",), seconds=1.0)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    try:
        return referee.install(tmp_path_factory.mktemp("referee"))
    except ProgramFailed as error:
        pytest.skip(str(error))


@pytest.mark.timeout(180)
async def test_both_arms_answer_and_the_words_of_the_user_come_through(program, tmp_path):
    scenario = tmp_path / "one.yaml"
    scenario.write_text(SCENARIO)
    options = Options(api_key=KEY, script=Script(turns=(ANSWER,), loop=True))
    async with prepare(Pinning()) as environment, serve(options) as agent:
        environment = msgspec.structs.replace(environment, agent_url=agent.agent_url)
        heard = await referee.compare(program, environment, scenario, tmp_path, 1)

    assert list(heard) == [Arm.DIRECT, Arm.OURS]
    for (turn,) in heard.values():
        assert turn.passed
        assert turn.response_latency_ms > 0
        assert turn.wer == 0


def test_the_table_has_medians_all_values_and_the_difference():
    def turns(*stops):
        answered = Turned(id="question", passed=True, response_latency_ms=900.0, wer=0.0)
        return [answered, *(Turned(id="wait", passed=False, stop_latency_ms=ms) for ms in stops)]

    table = referee.describe({Arm.DIRECT: turns(200, 220, 300), Arm.OURS: turns(210, 250, 230)})

    stop = (
        "| wait | interruption to silence, ms | **220** (200, 220, 300) | **230** (210, 250, 230)"
    )
    assert f"{stop} | +10 |" in table.splitlines()
    assert "| all | turns passed | 1 of 4 | 1 of 4 | |" in table.splitlines()
