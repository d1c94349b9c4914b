"""`voice-relay loadtest`: what is asked for, the progress, and where the results go.

Load tests. Mounted by control/cli.py, which imports it when it is used.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import click
import uvloop

from control import logging as logs
from control.db.migrate import MigrationError
from control.dev.postgres import EmbeddedError
from loadtests import deployed_relay, processes, report, scenarios, suite_runner
from loadtests.scenarios import PARTS, SUITE

PATH = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only these parts.")
@click.option("--json", "json_file", type=PATH, help="Write the results as JSON.")
@click.option("--target", "url", metavar="URL", help="Measure a deployed relay from outside.")
@click.option("--sessions", default=1, show_default=True, help="With --target: at the same time.")
@click.option("--turns", default=3, show_default=True, help="With --target: of each session.")
def loadtest(
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
    """
    if url is not None:
        found = uvloop.run(deployed_relay.measure(url, sessions=sessions, turns=turns))
        click.echo(deployed_relay.describe(found))
        if json_file is not None:
            json_file.write_bytes(deployed_relay.to_json(found))
        sys.exit(0 if not found.failed else 1)
    if sys.platform != "linux":  # its timers, and how it counts processor time
        raise click.ClickException("what runs on this machine is measured on Linux only")
    logs.set_up("error")
    suite = scenarios.choose(SUITE, parts)
    pinning = processes.choose_cores(os.sched_getaffinity(0))
    try:
        results = uvloop.run(suite_runner.bench(suite, pinning, partial(click.echo, err=True)))
    except (EmbeddedError, MigrationError, processes.ProgramFailed) as error:
        raise click.ClickException(str(error)) from error
    click.echo(report.text(results))
    if json_file is not None:
        report.save(results, json_file)
