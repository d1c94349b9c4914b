"""`voice-relay loadtest`: what is asked for, the progress, and where the results go.

Load tests. Mounted by control/cli.py, which imports it when it is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
import uvloop

from control import logging as logs
from control.db.migrate import MigrationError
from control.dev.postgres import EmbeddedError
from loadtests import deployed_relay, processes, report, scenarios, session_costs, suite_runner
from loadtests.fleet import Size
from loadtests.fleet import measure as measure_fleet
from loadtests.scenarios import PARTS, SUITE
from loadtests.worker_process import WorkerFailed

PATH = click.Path(dir_okay=False, path_type=Path)

Measured = TypeVar("Measured")


@click.group(invoke_without_command=True)
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only these parts.")
@click.option("--json", "json_file", type=PATH, help="Write the results as JSON.")
@click.option("--target", "url", metavar="URL", help="Measure a deployed relay from outside.")
@click.option("--sessions", default=1, show_default=True, help="With --target: at the same time.")
@click.option("--turns", default=3, show_default=True, help="With --target: of each session.")
@click.pass_context
def loadtest(
    context: click.Context,
    parts: tuple[str, ...],
    json_file: Path | None,
    url: str | None,
    sessions: int,
    turns: int,
) -> None:
    """Measure what the relay costs, next to nginx and to relays as people write them.

    Starts a database, an agent and callers on this machine, and ends all of it. It takes ten
    minutes, and up to fifteen where a budget is hard to decide; use a machine with Linux that does
    nothing else. nginx and Node.js are compared with where they are installed (Debian:
    nginx-light, nodejs, npm).

    With --target nothing is started: sessions are opened at a relay that runs elsewhere, and what
    their users wait for is measured. Whatever agent it has costs what it costs.

    The commands measure something else, and nothing of this.
    """
    if context.invoked_subcommand:
        return
    if url is not None:
        found = uvloop.run(deployed_relay.measure(url, sessions=sessions, turns=turns))
        click.echo(deployed_relay.describe(found))
        if json_file is not None:
            json_file.write_bytes(deployed_relay.to_json(found))
        sys.exit(0 if not found.failed else 1)
    _prepare()
    suite = scenarios.choose(SUITE, parts)
    pinning = processes.choose_cores(os.sched_getaffinity(0))
    results = _run(suite_runner.bench(suite, pinning, partial(click.echo, err=True)))
    click.echo(report.text(results))
    if json_file is not None:
        report.save(results, json_file)


@loadtest.command()
@click.option("--nodes", type=click.IntRange(2, 2_000), default=500, show_default=True)
@click.option("--sessions", type=click.IntRange(1, 5_000), default=100, show_default=True)
@click.option("--seconds", type=click.FloatRange(1, 120), default=20, show_default=True)
@click.option("--notices", type=click.FloatRange(0.1, 1_000), default=20, show_default=True)
@click.option("--day", type=click.IntRange(0, 5_000_000), default=0, show_default=True)
def fleet(nodes: int, sessions: int, seconds: float, notices: float, day: int) -> None:
    """What NODES relays with so many SESSIONS each cost their database by being there.

    They carry nobody. All start at once, run for so many SECONDS, notify one another so many times
    a second, and a fifth of them dies. DAY is how many sessions of today are in `voice.usage`; with
    any there is a limit of the minutes of all.
    """
    _prepare()
    size = Size(nodes=nodes, sessions=sessions, seconds=seconds, notices=notices, day=day)
    _run(measure_fleet(size, click.echo))


@loadtest.command()
@click.option("--count", type=click.IntRange(1, 2_000), default=1_000, show_default=True)
@click.option("--seconds", type=click.FloatRange(1, 600), default=60, show_default=True)
def sessions(count: int, seconds: float) -> None:
    """What COUNT live sessions cost the database: turns at their real pace, next to no audio."""
    _prepare()
    pinning = processes.choose_cores(os.sched_getaffinity(0))
    _run(session_costs.measure(count, seconds, pinning, click.echo))


def _prepare() -> None:
    if sys.platform != "linux":  # its timers, and how it counts processor time
        raise click.ClickException("what runs on this machine is measured on Linux only")
    logs.set_up("error")


def _run(work: Coroutine[Any, Any, Measured]) -> Measured:
    try:
        return uvloop.run(work)
    except (EmbeddedError, MigrationError, processes.ProgramFailed, WorkerFailed) as error:
        raise click.ClickException(str(error)) from error
    except TimeoutError as error:
        raise click.ClickException("what was waited for did not come about in time") from error
