"""What few sessions cost the database for a moment. Never how much."""

from __future__ import annotations

import os

import pytest

from loadtests import processes, session_costs


@pytest.mark.long
async def test_what_sessions_cost_the_database_is_told_by_part_of_their_life():
    said: list[str] = []
    cores = processes.choose_cores(os.sched_getaffinity(0))

    costs = await session_costs.measure(6, 4.0, cores, said.append)

    def calls(load, text):
        return sum(one.calls for one in load.statements if text in one.text)

    assert calls(costs.begun, "INSERT INTO voice.sessions") == 6
    assert calls(costs.live, "INSERT INTO voice.messages") > 0
    assert calls(costs.live, "INSERT INTO voice.sessions") == 0
    assert calls(costs.ended, "UPDATE voice.sessions") > 0
    assert costs.live.wal_bytes > costs.live.page_bytes
    assert costs.live.transactions > 0
    assert costs.messages > 0
    assert any("a session and minute" in line for line in said)
