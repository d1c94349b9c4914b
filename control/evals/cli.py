"""`voice-relay eval`: does my prompt still work?

From the top: what is asked for (`EvalOptions`) and the whole, from files to exit code (`evaluate`).
The rest is beside it: stage.py (what it runs against), conversation.py (one attempt), voice.py,
verdict.py, results.py, and the reports.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO
from uuid import UUID

import click
import msgspec

from config.errors import ConfigError
from config.loader import load
from config.scenario import (
    AgentName,
    Scenario,
    ScenarioAnswer,
    ScenarioLine,
    load_scenarios,
)
from control.evals.attempt import Attempt
from control.evals.conversation import attempt as hold
from control.evals.junit import write_junit
from control.evals.page import write_html
from control.evals.report import write_text
from control.evals.results import Results, new_result, read_last, write_last
from control.evals.stage import Stage, settings_of, staged
from control.evals.voice import Words
from control.talk.audio import UsageError
from control.timeline.file import TimelineFailed, draw_file, find_file


class EvalOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`at_once` conversations at a time; `timeout` is how long, in seconds, nothing may come while
    something is due; `last` keeps what came of it for the next evaluation."""

    files: tuple[Path, ...]
    agent: AgentName = "sandbox"
    repeat: int = 1
    at_once: int = 4
    timeout: float = 30.0
    junit: Path | None = None
    html: Path | None = None
    last: Path = Path(".relay/evals.json")
    forgets_deadlines: bool = False


async def evaluate(
    options: EvalOptions, out: TextIO, err: TextIO, environ: Mapping[str, str] = os.environ
) -> int:
    """The exit code: 0 all passed or failed as known, 1 some failed, 2 usage. The report goes to
    `out`, progress to `err`. Raises `Explained`."""
    began = datetime.now(UTC)
    clock = asyncio.get_running_loop().time
    start = clock()
    try:
        settings = settings_of(options.agent, environ)
        configuration = load(settings.config_dir, environ)
        names = [intent.name for intent in configuration.registry.intents]
        scenarios = load_scenarios(options.files, names)
        for path in (options.junit, options.html):
            if path is not None and not path.absolute().parent.is_dir():
                raise UsageError(f"{path}: there is no such folder")
        at_once = min(options.at_once, settings.agent_sessions or options.at_once)
        with TemporaryDirectory(prefix="voice-relay-eval-") as folder:
            if options.html is not None:
                environ = _recorded(environ, folder)
            made = await _run(options, scenarios, at_once, err, environ)
            if options.html is not None:  # the relay has stopped: all is in the files
                recordings = Path(environ["RELAY_RECORD_DIR"])
                await asyncio.to_thread(_draw_timelines, made, recordings, err)
    except ConfigError as error:
        click.echo(f"{error}\n{len(error.problems)} mistake(s)", file=err)
        return 2
    except UsageError as error:
        click.echo(f"voice-relay: {error}", file=err)
        return 2
    results = Results(agent=options.agent, began=began.strftime("%Y-%m-%dT%H:%M:%SZ"))
    results.seconds = clock() - start
    for path, scenario in scenarios.items():
        result = new_result(path.stem, scenario, options.agent)
        result.attempts = sorted(made[path], key=lambda attempt: attempt.number)
        results.scenarios.append(result)
    _report(results, options, out, err)
    return 1 if results.failed else 0


def _recorded(environ: Mapping[str, str], folder: str) -> Mapping[str, str]:
    """With recordings in this folder; whoever has them already keeps them as they want."""
    if environ.get("RELAY_RECORD_DIR"):
        return environ
    return {**environ, "RELAY_RECORD_DIR": folder, "RELAY_RECORD_CONTENT": "on"}


def _draw_timelines(made: Mapping[Path, list[Attempt]], recordings: Path, err: TextIO) -> None:
    """Of what failed, if it had a session."""
    for attempt in chain.from_iterable(made.values()):
        if attempt.passed or not attempt.session_id:
            continue
        path = find_file(recordings, UUID(attempt.session_id))
        if path is None:
            continue
        try:
            attempt.timeline = draw_file(path, in_frame=True).html
        except TimelineFailed as error:
            click.echo(f"voice-relay: {error}", file=err)


async def _run(
    options: EvalOptions,
    scenarios: Mapping[Path, Scenario],
    at_once: int,
    err: TextIO,
    environ: Mapping[str, str],
) -> dict[Path, list[Attempt]]:
    """All attempts, by scenario. Raises `UsageError`, and what `staged` raises."""

    def say(what: str) -> None:
        click.echo(f"  {what} …", file=err)

    made: dict[Path, list[Attempt]] = {path: [] for path in scenarios}
    free = asyncio.Semaphore(at_once)
    async with staged(
        options.agent, environ, say, forgets_deadlines=options.forgets_deadlines
    ) as stage:
        spoken = {path: await _prepare(path, each, stage) for path, each in scenarios.items()}

        async def one(path: Path, number: int, tell: Callable[[int], None]) -> None:
            async with free:
                scenario, words = scenarios[path], spoken[path]
                done = await hold(path.stem, number, scenario, words, stage, options.timeout)
                made[path].append(done)
                tell(1)

        count = len(scenarios) * options.repeat
        label = f"  {count} conversations, {min(count, at_once)} at once"
        with click.progressbar(length=count, label=label, file=err) as bar:
            async with asyncio.TaskGroup() as tasks:
                # Every scenario once before any is tried again: a first look comes soon.
                for number in range(1, options.repeat + 1):
                    for path in scenarios:
                        name = f"{path.stem} {number}"
                        tasks.create_task(one(path, number, bar.update), name=name)
    return made


async def _prepare(path: Path, scenario: Scenario, stage: Stage) -> Words:
    words = Words(stage.voice, scenario.voice, path.parent)
    said: list[ScenarioLine | ScenarioAnswer] = [*scenario.spoken, *scenario.answers]
    for each in said:
        await words.prepare(each)
    return words


def _report(results: Results, options: EvalOptions, out: TextIO, err: TextIO) -> None:
    last = read_last(options.last, options.agent)
    click.echo(write_text(results, last), file=out)
    try:
        if options.junit is not None:
            options.junit.write_bytes(write_junit(results))
        if options.html is not None:
            options.html.write_text(write_html(results, last), "utf-8")
        write_last(options.last, results)
    except OSError as error:
        click.echo(f"voice-relay: {error.filename} cannot be written: {error.strerror}", file=err)
