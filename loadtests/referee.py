"""A referee that is not ours: voicebench talks to an agent directly and through the relay.

Load tests, `make referee`. voicebench (PyPI) plays recorded speech, records both sides and takes
all times from that sound. The client is the same in both arms, down to the Settings: through the
relay it is one of Deepgram's own protocol. The agent behind both is the sandbox with its speech
engines and a script. voicebench has an environment of its own.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import httpx
import msgspec

from loadtests.environment import PATH, Environment, prepare
from loadtests.processes import Pinning, ProgramFailed
from loadtests.results import Arm
from loadtests.systems_under_test import KEY, start
from relay.sandbox.options import Options
from relay.sandbox.script import Script, Turn
from relay.sandbox.server import serve
from relay.sandbox.speech import Speech

VERSION = "0.2.0"
ROOT = Path(__file__).parents[1]
SCENARIO = Path(__file__).with_suffix(".yaml")
SESSIONS = 4  # of each arm; half a minute each
ARMS = (Arm.DIRECT, Arm.OURS)

# One sentence each, without a comma: a pause of a quarter of a second counts as the end of speech.
SHORT = "I can hear you well and I am glad that you are here."
LONG = (
    "I have put that on the list of things that you want to do tomorrow morning before you go to "
    "work and I will remind you of it as soon as you have had your breakfast."
)
SCRIPT = Script(
    turns=tuple(Turn(when="text", say=(words,)) for words in (SHORT, LONG, LONG, SHORT)), loop=True
)

# What is taken from a turn of a report of voicebench.
FIGURES = {
    "response_latency_ms": "end of speech to the answer, ms",
    "stop_latency_ms": "interruption to silence, ms",
    "wer": "word error rate",
}


class Turned(msgspec.Struct, frozen=True):
    """One turn of one session, as voicebench judged it."""

    id: str
    passed: bool
    response_latency_ms: float | None = None
    stop_latency_ms: float | None = None
    wer: float | None = None


class Session(msgspec.Struct, frozen=True):
    turns: list[Turned]


class Report(msgspec.Struct, frozen=True):
    """report.json of voicebench, as far as we show it."""

    sessions: list[Session]


Heard = dict[Arm, list[Turned]]


def install(folder: Path) -> Path:
    """voicebench with an environment of its own in `folder`; returns the program. Raises
    ProgramFailed."""
    program = folder / "environment" / "bin" / "voicebench"
    pip = program.with_name("pip")
    for command in (
        [sys.executable, "-m", "venv", str(folder / "environment")],
        [str(pip), "install", "--quiet", "--disable-pip-version-check", f"voicebench=={VERSION}"],
    ):
        if not program.exists():
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise ProgramFailed(f"voicebench cannot be installed: {done.stderr.strip()[-300:]}")
    return program


async def compare(
    program: Path,
    environment: Environment,
    scenario: Path,
    folder: Path,
    sessions: int = SESSIONS,
) -> Heard:
    """Sessions of both arms in turn, each with a folder for its report; the agent is that of the
    environment. Raises ProgramFailed or httpx.HTTPError."""
    heard: Heard = {arm: [] for arm in ARMS}
    async with AsyncExitStack() as stack:
        started = {arm: await stack.enter_async_context(start(arm, environment)) for arm in ARMS}
        relay = started[Arm.OURS].endpoint.url
        rest = await stack.enter_async_context(httpx.AsyncClient(base_url=relay, trust_env=False))
        for number in range(sessions):
            for arm in ARMS if number % 2 == 0 else reversed(ARMS):
                url, key = environment.agent_url, KEY
                if arm is Arm.OURS:
                    url = f"{relay.replace('http', 'ws', 1)}{PATH}"
                    grant = (await rest.post("/v1/auth/grant")).raise_for_status()
                    key = grant.json()["access_token"]
                report = folder / f"{arm}-{number}"
                heard[arm] += await _play(program, scenario, url, key, report)
    return heard


async def _play(
    program: Path, scenario: Path, url: str, key: str, report: Path
) -> Iterable[Turned]:
    """One session. Raises ProgramFailed."""
    process = await asyncio.create_subprocess_exec(
        *(str(program), "run", str(scenario), "--url", url, "--format", "json", "--quiet"),
        *("--option", f'headers={{Authorization: "Token {key}"}}', "--out", str(report)),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    _, said = await process.communicate()
    if process.returncode:
        raise ProgramFailed(f"voicebench: {said.decode(errors='replace').strip()[-300:]}")
    read = msgspec.json.decode((report / "report.json").read_bytes(), type=Report)
    return read.sessions[0].turns


def describe(heard: Heard) -> str:
    """A table in Markdown: the median of each figure, and all of its values."""
    lines = [
        f"| turn | figure | {' | '.join(ARMS)} | difference |",
        "|---|---|---|---|---|",
    ]
    rows: dict[tuple[str, str], dict[Arm, list[float]]] = defaultdict(dict)
    for arm, turns in heard.items():
        for turn in turns:
            for figure in FIGURES:
                value = getattr(turn, figure)
                if value is not None:
                    rows[turn.id, figure].setdefault(arm, []).append(value)
    for (turn_id, figure), values in rows.items():
        cells = [_show(values.get(arm, [])) for arm in ARMS]
        both = [median(values[arm]) for arm in ARMS if arm in values]
        difference = f"{both[1] - both[0]:+g}" if len(both) == len(ARMS) else ""
        lines.append(f"| {turn_id} | {FIGURES[figure]} | {' | '.join(cells)} | {difference} |")
    passed = [f"{sum(turn.passed for turn in heard[arm])} of {len(heard[arm])}" for arm in ARMS]
    return "\n".join([*lines, f"| all | turns passed | {' | '.join(passed)} | |"])


def _show(values: list[float]) -> str:
    if not values:
        return ""
    return f"**{median(values):g}** ({', '.join(f'{value:g}' for value in values)})"


async def main(folder: Path) -> None:
    program = install(folder)
    options = Options(api_key=KEY, script=SCRIPT, speech=Speech.load())
    async with prepare(Pinning()) as environment, serve(options) as agent:
        with_ears = msgspec.structs.replace(environment, agent_url=agent.agent_url)
        print(describe(await compare(program, with_ears, SCENARIO, folder)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).absolute()))
