"""What people are shown of a recording, told from what the real rules did."""

from __future__ import annotations

import pytest

from control.timeline.page import ENDS
from control.timeline.story import LANES, tell
from relay.core.events import AgentUnreachable, EndReason, Woken
from relay.recorder.recording import NotARecording, read_lines
from tests.control.timeline.played import SECOND, Played, lose_the_agent_twice


def story_of(lines):
    return tell(read_lines(lines))


def bars(story, lane):
    found = [bar for bar in story.bars if bar.lane == lane]
    return [(bar.kind, round(bar.begin, 2), round(bar.end, 2)) for bar in found]


@pytest.fixture(scope="module")
def story():
    return story_of(lose_the_agent_twice())


def test_each_bar_lies_in_its_lane_from_its_begin_to_its_end(story):
    assert bars(story, "user") == [
        ("user", 4.6, 8.2),
        ("user", 13.9, 15.6),
        ("user", 20.3, 22.9),
        ("user", 37.5, 39.0),
    ]
    assert bars(story, "agent") == [
        ("agent", 0.42, 3.1),
        ("cut", 9.9, 13.9),  # the user interrupted
        ("cut", 16.3, 17.3),  # the agent was lost
        ("agent", 30.0, 33.2),
        ("agent", 39.6, 42.4),
    ]
    assert bars(story, "calls") == [("call", 8.8, 9.35), ("failed", 28.2, 29.4)]
    assert {bar.lane for bar in story.bars} == set(LANES)


def test_connections_show_each_state_until_the_next(story):
    agent = [(kind, begin) for kind, begin, end in bars(story, "agent_connection") if end > begin]
    browser = bars(story, "browser_connection")

    assert [kind for kind, _ in agent] == ["setup", "setup", "open", "lost"] * 2 + [
        "setup",
        "setup",
        "open",
    ]
    assert agent[3] == ("lost", 17.3)
    assert browser == [("open", 0.0, 34.0), ("away", 34.0, 36.4), ("open", 36.4, 46.9)]
    assert (story.agents, story.outages, story.reason) == (3, 2, "browser_left")


def test_the_wait_of_a_turn_is_split_into_what_the_agent_reports_and_the_rest(story):
    first = story.turns[0]

    assert first.user.startswith("I want to run")
    assert first.waited == pytest.approx(1.82)
    assert first.parts == pytest.approx(
        {
            "listening": 0.28,
            "thinking": 0.41,
            "calling": 0.55,
            "speaking": 0.12,
            "relay": 0.74,
            "playout": 0.21,
        }
    )
    assert [turn.outcome for turn in story.turns] == [
        "interrupted",
        "answered",
        "answered",
        "answered",
    ]


def test_play_out_counts_once_for_a_turn_whose_answer_went_out():
    it = Played()
    it.ready(0.0)
    it.heard(0.5, 0.1)  # of a greeting: nobody asked for that
    it.says(1.0, "user", "Hello.")
    it.heard(1.1, 0.2)
    it.first_audio(1.5)
    it.heard(1.7, 0.3)
    it.heard(1.8, 0.4)
    it.heard(1.9, -5)
    (turn,) = story_of(it.lines).turns

    assert turn.parts == pytest.approx({"relay": 0.5, "playout": 0.3})


def test_of_a_redacted_recording_there_are_lengths():
    story = story_of(lose_the_agent_twice(keeps_content=False))

    assert story.turns[0].user == "\u203962 characters\u203a"
    assert "marathon" not in str(story)


def test_what_goes_on_when_a_file_ends_goes_on_to_its_last_line():
    it = Played()
    it.ready(0.0)
    it.agent(2.0, "UserStartedSpeaking")
    it.at(3.5, Woken(0))
    story = story_of([*it.lines, b'{"half'])

    assert bars(story, "user") == [("user", 2.0, 3.5)]
    assert story.reason == ""


def test_what_the_agent_complains_of_and_what_is_missing_is_shown():
    it = Played()
    it.ready(0.0)
    it.agent(1.0, "Warning", code="SLOW_THINK_REQUEST", description="it takes long")
    it.lines.append(it.scribe.gap(SECOND + 2.0, 3))
    it.at(3.0, AgentUnreachable("refused"))
    story = story_of(it.lines)

    marks = [(bar.title, bar.text) for bar in story.bars if bar.kind == "error"]
    assert marks[0] == ("Warning SLOW_THINK_REQUEST", "it takes long")
    assert marks[1] == ("Agent closed", "refused")
    assert story.lost == 3


@pytest.mark.parametrize("content", [[], [b"{}\n"], [b"no\n"]])
def test_what_is_no_recording_is_said(content):
    with pytest.raises(NotARecording, match="line 1"):
        story_of(content)


def test_every_end_has_a_sentence():
    assert ENDS.keys() == {reason.value for reason in EndReason}
