"""Sessions over real sockets that are recorded."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import pytest

from relay.recorder.recorder import Bounds, Recorder
from relay.telemetry.metrics import Metrics
from tests.relay.wires import agent_and_relay

BOUNDS = Bounds(session_bytes=1 << 20, total_bytes=1 << 24, days=7.0)


@pytest.fixture
def recording(tmp_path):
    """An agent and a relay that records; on the way out the one file is written."""

    @asynccontextmanager
    async def record(*, bounds=BOUNDS, keeps_content=False, **options):
        recorder = Recorder(tmp_path, bounds, Metrics(), keeps_content=keeps_content)
        with recorder.running():
            async with agent_and_relay(watches=[recorder.watch], **options) as (agent, relay):
                yield agent, relay

    return record


def find(directory):
    """The one recording below a directory."""
    (path,) = directory.glob("*/*.ndjson")
    return path


def lines(directory):
    return [json.loads(line) for line in find(directory).read_bytes().splitlines()]
