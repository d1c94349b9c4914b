"""The version is said in one place, and the same everywhere."""

from __future__ import annotations

import importlib.metadata
import re
import signal
import subprocess
import tomllib
from pathlib import Path

from config.version import VERSION
from tests.chaos.stage import VOICE_RELAY, staged

ROOT = Path(__file__).parents[2]


def test_the_package_and_the_command_have_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    said = subprocess.run([VOICE_RELAY, "--version"], capture_output=True, text=True, timeout=50)

    assert "version" not in project
    assert importlib.metadata.version("voice-relay") == VERSION
    assert said.stdout.split()[-1] == VERSION


async def test_a_relay_that_runs_shows_it(database_url, tmp_path):
    async with staged(tmp_path, database_url) as stage:
        relay = stage.relay()
        await relay.start()
        schema = (await stage.http.get(f"{relay.url}/schema")).json()
        shown = [
            (await stage.http.get(f"{relay.url}/health/{name}")).json()["version"]
            for name in ("live", "ready")
        ]
        metrics = (await stage.http.get(f"{relay.url}/metrics")).text
        relay.signal(signal.SIGTERM)
        assert await relay.end(20) == 0

    assert shown == [VERSION] * 2
    assert schema["info"]["version"] == VERSION
    assert re.search(rf'^relay_build_info{{.*version="{VERSION}"}} 1.0$', metrics, re.MULTILINE)
    assert relay.output.splitlines()[0].endswith(f"program_started version={VERSION}")
