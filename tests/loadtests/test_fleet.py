"""Nodes that carry nobody, few and for seconds, against a real Postgres. Never time."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from control import logging as logs
from loadtests.cli import loadtest

NODES = 50


@pytest.fixture(scope="module")
def phases():
    """What the command says of each, by its name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(logs, "set_up", lambda _: None)  # the log is pytest's
        arguments = ["--nodes", str(NODES), "--sessions", "4", "--seconds", "1", "--notices", "40"]
        done = CliRunner().invoke(loadtest, ["fleet", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return {
        text.partition(":")[0]: text for text in re.split(r"^(?=\S)", done.output, flags=re.M)[1:]
    }


def figure(text, name):
    found = re.search(rf"^ +{name}:? +(\d+)", text, re.M)
    return int(found[1]) if found else 0


def test_all_nodes_are_seen_and_have_their_part_of_the_agents(phases):
    start = phases["all start at once"]

    assert figure(start, "heartbeat") + figure(start, "share") >= NODES
    assert figure(start, "share") >= NODES


def test_every_node_hears_every_notice_and_the_owner_looks(phases):
    notices = phases["40 notices a second"]

    assert figure(notices, "notices") > 0
    assert 0 < figure(notices, "notice") <= figure(notices, "notices")
    delivered = figure(notices, "notices delivered")
    assert NODES // 2 < delivered <= NODES * figure(notices, "notices")


def test_what_the_dead_leave_is_ended_and_the_living_keep_theirs(phases):
    assert f"{NODES // 5} die at once" in phases  # it comes about when their sessions are ended
    for text in phases.values():
        assert "hung up" not in text
        assert "unavailable" not in text


def test_statements_and_waits_are_counted(phases):
    for name in ("all start at once", f"{NODES // 5} die at once"):
        assert re.search(r"^ +\d+\.\d+ statements .* a second", phases[name], re.M)
        assert "INSERT INTO voice.nodes" in phases[name]
