"""What an older program left in its journal is adopted: the format of the files is a contract."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from relay.core.records import (
    Figures,
    IntentCalled,
    MessageSaid,
    SessionBegan,
    SessionEnded,
    TicketIssued,
)
from relay.journal.journal import Journal
from relay.protocol.relay_events import IntentStatus
from relay.telemetry.histogram import Percentiles, SessionLatency
from relay.telemetry.metrics import Metrics

# Written by the program as it was when `relay/` was one folder (0.1.0); one record of each kind.
DUMP = Path(__file__).parent / "data" / "before_the_packages.sql"
AT = datetime(2026, 11, 27, 6, 0, 0, 123456, tzinfo=UTC)
SESSION = UUID(int=2)
LEFT = [
    SessionBegan(session_id=SESSION, agent_request_id="a", at=AT, epoch=1),
    TicketIssued(session_id=SESSION, hash=b"\x01" * 32, epoch=1),
    MessageSaid(
        id=UUID(int=3),
        conversation_id=UUID(int=1),
        session_id=SESSION,
        seq=1,
        turn=1,
        role="user",
        content="I want to run.",
        at=AT,
        epoch=1,
        frame=4,
    ),
    IntentCalled(
        id=UUID(int=4),
        conversation_id=UUID(int=1),
        session_id=SESSION,
        call_id="c",
        after_seq=1,
        function="create_goal",
        intent="GOAL",
        arguments='{"title": "run"}',
        status=IntentStatus.SUBMITTING,
        attempts=0,
        result=None,
        response=None,
        at=AT,
        due_in=12.0,
        in_doubt=True,
        idempotency_key="k",
    ),
    SessionEnded(
        session_id=SESSION,
        reason="browser_closed",
        detail="",
        browser_code=1000,
        agent_code=1000,
        figures=Figures(
            browser_frames=1,
            browser_bytes=2,
            agent_frames=3,
            agent_bytes=4,
            latency=SessionLatency(
                connect_ms=1.5, up=Percentiles(count=1, p50=0.1, p90=0.1, p99=0.1)
            ),
        ),
        at=AT,
        epoch=1,
    ),
]


async def test_a_journal_from_before_the_packages_is_adopted(tmp_path):
    folder = tmp_path / "019d0000-0000-7000-8000-000000000000"
    folder.mkdir()
    with sqlite3.connect(folder / "00000001.db") as connection:
        connection.executescript(DUMP.read_text("utf-8"))
    connection.close()
    written = []
    everything = asyncio.Event()

    async def write(records):
        written.extend(records)
        if len(written) >= len(LEFT):
            everything.set()

    async with asyncio.timeout(30), Journal(write, Metrics(), tmp_path).running(grace=5.0):
        await everything.wait()

    assert written == LEFT
    assert not folder.exists()
