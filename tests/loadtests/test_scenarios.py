"""The parts of the engine that need no network: samples, cores, scripts and suites."""

import pytest

from loadtests import conversation_script, processes, scenarios
from loadtests.percentiles import summarize_due


def test_only_what_was_due_in_the_window_is_counted():
    samples = [(0, 900_000), (10, 100_000), (19, 200_000), (20, 900_000)]
    latency = summarize_due(samples, 10, 20)
    assert (latency.count, latency.max) == (2, 200)


@pytest.mark.parametrize(
    ("cores", "relay", "caller"),
    [([0], [], []), ([4, 5], [4], [5]), ([0, 1, 2], [0], [2]), (range(8), [0], [2])],
)
def test_the_relay_shares_no_core(cores, relay, caller):
    chosen = processes.choose_cores(set(cores))
    assert (chosen.relay, chosen.caller) == (frozenset(relay), frozenset(caller))
    assert not chosen.relay & (chosen.agent | chosen.caller | chosen.rest)


def test_a_turn_is_in_order_and_has_the_speech_of_its_sentences():
    for calls in (False, True):
        steps = conversation_script.turn(calls=calls)
        times = [step.at for step in steps]
        assert times == sorted(times)
        assert times[-1] < conversation_script.TURN_NS
        frames = [step for step in steps if step.text is None and not step.calls]
        assert len(frames) == round(
            sum(conversation_script.SENTENCES) / conversation_script.FRAME_SECONDS
        )
        assert sum(step.calls for step in steps) == calls


def test_a_suite_is_cut_down_to_what_is_asked_for():
    chosen = scenarios.choose(scenarios.SUITE, ["stages"])
    assert {stage.part for stage in chosen.stages} == {"stages"}
    assert not chosen.figures
    assert scenarios.choose(scenarios.SUITE, ()) == scenarios.SUITE
