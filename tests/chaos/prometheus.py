"""The real Prometheus with our rules, in a hurry: seconds where they have minutes."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import yaml

from loadtests.processes import free_port
from tests.chaos.link import HOST
from tests.chaos.stage import answers, until
from tests.promtool import PROMETHEUS

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yaml"


def hurried(rules: str) -> str:
    """The rules with `for: 2s`, and looking back for 15 s; ages that count in seconds, too."""
    rules = re.sub(r"for: \d+m", "for: 2s", rules)
    rules = re.sub(r"\[\d+m\]", "[15s]", rules)
    assert "relay_journal_oldest_seconds) > 60" in rules
    return rules.replace("relay_journal_oldest_seconds) > 60", "relay_journal_oldest_seconds) > 4")


class Prometheus:
    """It is at `url`."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self.url = url
        self._http = http

    async def firing(self) -> set[str]:
        """The alerts that fire now, by name."""
        answer = (await self._http.get(f"{self.url}/api/v1/alerts")).json()
        alerts = answer["data"]["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}

    async def fires(self, *names: str, seconds: float = 60.0) -> None:
        """Wait until all of these do."""

        async def do() -> bool:
            return set(names) <= await self.firing()

        await self._until(do, f"expected {names} to fire", seconds)

    async def is_silent(self, seconds: float = 90.0) -> None:
        """Wait until none does."""

        async def is_so() -> bool:
            return not await self.firing()

        await self._until(is_so, "expected no alert", seconds)

    async def _until(self, condition: object, wanted: str, seconds: float) -> None:
        try:
            await until(condition, seconds)
        except TimeoutError:
            raise AssertionError(f"{wanted}, got {await self.firing()}") from None


@asynccontextmanager
async def prometheus(
    folder: Path, ports: Sequence[int], http: httpx.AsyncClient
) -> AsyncIterator[Prometheus]:
    """One that scrapes relays at these ports every second, while inside."""
    port = free_port()
    command = _prepare(folder, ports, port)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220
    try:
        await until(lambda: answers(port), 30)
        yield Prometheus(f"http://{HOST}:{port}", http)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)


def _prepare(folder: Path, ports: Sequence[int], port: int) -> list[str]:
    """The command, and the files that it wants."""
    folder.mkdir()
    (folder / "alerts.yaml").write_text(hurried(RULES.read_text("utf-8")))
    targets = [f"{HOST}:{port}" for port in ports]
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [{"job_name": "voice-relay", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    return [
        *("nice", "-n", "19", PROMETHEUS or ""),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={HOST}:{port}",
    ]
