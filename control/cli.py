"""The command line: `voice-relay`.

Each command reads the environment, does one thing and answers with an exit code: 0 well, 1 not, 2
wrong usage. What only development needs is imported where it is used: production does not have it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click
import uvloop
from litestar import Litestar

from config.database_url import ignored_parameters
from config.errors import ConfigError, Explained
from config.install_advice import say_how_to_add
from config.loader import load, write_json_schemas
from config.settings import CONFIG_DIR, Settings, find_missing, from_environment
from config.starter import ENVIRONMENT, write_starter
from config.version import VERSION
from control.admin.cli import admin
from control.api.health import find_reasons
from control.app import create_app
from control.auth.current_user import USER_ID
from control.db.grant import grant
from control.db.migrate import migrate as apply_migrations
from control.db.migrate import refuse_newer
from control.db.pool import ConnectFailed, connected, log_oddities
from control.db.store import Store
from control.http.server import ServeError, listen, listen_as_set, serving
from control.http.service_manager import ServiceManager
from control.http.shutdown import Shutdown
from control.http.siblings import Siblings
from control.http.worker_processes import Workers
from control.logging import set_up as set_up_logging
from control.logging import set_up_from
from control.reload import reload
from relay.journal.condemned import restore as restore_condemned
from relay.transport.egress import Egress

log = logging.getLogger(__name__)

NO_AUTH = (
    "environment: RELAY_AUTH: expected jwt or mock, got nothing; set it; mock makes everybody the "
    "same user: whoever reaches this port reads all conversations and spends your money"
)
NEXT = """
Next:
  edit {environment}: what has no # before it has to be set
  set -a; . {environment}; set +a
  voice-relay check      # every mistake, or the Settings to be sent
  voice-relay migrate    # the database
  voice-relay doctor     # the ways to database, agent and Orchestrator
  voice-relay serve      # under systemd or in a container: docs/operate.md"""
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
HOST = "127.0.0.1"
# Not by its name on the path: the same interpreter, and modules from where ours are.
WORKER = (sys.executable, "-P", "-c", "from control.cli import main; main()", "worker")


class _Program(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        lines: list[str] = []
        try:
            return super().invoke(ctx)
        except* Explained as group:
            lines += map(str, _leaves(group))
        _fail("\n".join(lines))


@click.group(cls=_Program, context_settings=CONTEXT)
@click.version_option(VERSION, prog_name="voice-relay")
def main() -> None:
    """A relay between browsers and the Deepgram Voice Agent API.

    Start with `voice-relay dev`: it needs no key, no database and no other service.
    Settings come from the environment; `voice-relay check` lists them.
    """


# --- the relay -----------------------------------------------------------------------------------


@main.command()
def dev() -> None:
    """Run everything on this machine, sandbox agent included.

    Starts PostgreSQL (data under RELAY_DATA_DIR), an agent that speaks and listens without a key, a
    small Orchestrator and the relay on port 8080. DATABASE_URL, DEEPGRAM_API_KEY and
    ORCHESTRATOR_URL each put the real thing in the place of ours. Ctrl-C ends all of it.
    """
    with _from_extra("dev"):
        from control.dev.stack import everything
    set_up_from(os.environ)
    log.info("program_started version=%s", VERSION)

    async def run() -> None:
        stop = Shutdown()
        stop.hear_signals()

        def say(what: str) -> None:
            click.echo(f"  {what} …")

        async with everything(os.environ, say, stop) as parts:
            width = max(len(where) for _, where, _ in parts)
            click.echo()
            for name, where, note in parts:
                click.echo(f"  {name:13} {where:{width}}  {note}")
            click.echo(
                f"\n  Talk to it:  {where} or voice-relay talk   (Ctrl-C here ends everything)\n"
            )
            await stop.asked.wait()
            click.echo("  stopping …")

    uvloop.run(run())


@main.command()
def serve() -> None:
    """Run the relay alone.

    DEEPGRAM_API_KEY, DATABASE_URL and ORCHESTRATOR_URL have to be set, and the database migrated.
    """
    settings = _settings()
    set_up_logging(settings.log_level, settings.log_format)
    log.info("program_started version=%s", VERSION)
    listeners = listen_as_set(settings)
    uvloop.run(_check_database(settings))
    if settings.auth == "mock":
        log.warning("sign_in_mocked user=%s host=%s", USER_ID, settings.host)
    if settings.lets_everybody_in:
        log.critical("sign_in_missing host=%s url=%s", settings.host, settings.public_url)
    # Also for several workers: a mistake is told once, and not by each of them.
    app = create_app(settings, load(settings.config_dir, os.environ))

    if settings.workers > 1:
        uvloop.run(_run_workers(Workers(WORKER, listeners, settings.workers)))
    else:
        uvloop.run(_run_relay(app, listeners, settings))


@main.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("number", type=int)
@click.argument("descriptors", type=int, nargs=-1)
def worker(folder: Path, number: int, descriptors: tuple[int, ...]) -> None:
    """One of the processes of `serve`, on listening sockets that it inherits; FOLDER is where it
    finds the others."""
    settings = _settings()
    set_up_logging(settings.log_level, settings.log_format)
    configuration = load(settings.config_dir, os.environ)
    app = create_app(settings, configuration, Siblings(folder, number))
    listeners = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    uvloop.run(_run_relay(app, listeners, settings, is_worker=True))


@main.command()
@click.option("--grant", "role", metavar="ROLE", help="Give this account what `serve` needs.")
def migrate(role: str | None) -> None:
    """Bring the database to the schema of this program.

    It is the one at DATABASE_DIRECT_URL, if that is set, or DATABASE_URL; nothing else has to be.
    """
    database_url = os.environ.get("DATABASE_DIRECT_URL") or _database_url()
    set_up_from(os.environ)

    async def run() -> None:
        applied = await apply_migrations(database_url, log=logging.getLogger("control.db.migrate"))
        click.echo("\n".join(f"applied {name}" for name in applied) or "nothing to do")
        if role:
            await grant(database_url, role)
            click.echo(f"{role} may read and write rows")

    uvloop.run(run())


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
def init(folder: Path) -> None:
    """Put configuration to edit into a folder.

    agent.yaml, intents.yaml, policy.yaml, system_prompt.md, their JSON Schemas for editors, and
    voice-relay.env, the environment with every setting explained. What is there already stays.
    """
    try:
        for path, is_new in write_starter(folder).items():
            click.echo(f"{'wrote' if is_new else 'kept '} {path}")
    except OSError as error:
        _fail(f"{folder} cannot be written: {error.strerror}; choose another folder")
    click.echo(NEXT.format(environment=folder.absolute() / ENVIRONMENT))


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore(file: Path) -> None:
    """Put the records of a file of condemned ones back.

    They go into the journal that FILE lies in. A relay that runs there stores them within seconds,
    or the next one that starts. FILE is RELAY_DATA_DIR/journal/condemned.jsonl; it is gone
    afterwards, and what Postgres still refuses is in a new one.
    """
    count = restore_condemned(file)
    click.echo(f"{count} record{'' if count == 1 else 's'} back in the journal")


@main.command()
@click.option("--schemas", is_flag=True, help="Write the JSON Schemas for editors and stop.")
def check(schemas: bool) -> None:
    """Validate the configuration; show the Settings to be sent.

    Prints every mistake with its file and path, and of the environment what is set wrongly or
    missing for `serve`. Secrets are masked. The prompt is the one of today, in UTC.
    """
    folder = Path(os.environ.get("RELAY_CONFIG_DIR") or CONFIG_DIR)
    if schemas:
        write_json_schemas(folder)
        click.echo(f"wrote the JSON Schemas into {folder}", err=True)
        return
    missing = find_missing(os.environ)
    problems: list[str] = []
    try:
        # `dev` needs none of the required ones: that they are missing is worth a line, no more.
        Egress(from_environment({**os.environ, **missing}))  # reads the files of certificates
    except ConfigError as error:
        problems += error.problems
    try:
        configuration = load(folder, os.environ)
    except ConfigError as error:
        problems += error.problems
    if problems:
        click.echo("\n".join(problems), err=True)
        click.echo(f"{len(problems)} mistake{'s' if len(problems) > 1 else ''}", err=True)
        sys.exit(1)
    made = configuration.make_settings(datetime.now(UTC).date(), masked=True)
    click.echo(json.dumps({"type": "Settings", **made}, indent=2, ensure_ascii=False))
    if not os.environ.get("RELAY_AUTH"):
        missing["RELAY_AUTH"] = ""
    for name in ignored_parameters(os.environ.get("DATABASE_URL", "")):
        click.echo(f"DATABASE_URL: {name} says nothing to this program: ignored", err=True)
    for name in missing:
        click.echo(f"{name} is not set: `voice-relay serve` needs it, `dev` does not", err=True)
    click.echo(f"{folder} is fine", err=True)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
@click.option("--settings", "with_settings", is_flag=True, help="Show the agent our Settings, too.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds that one hop may take.")
def doctor(as_json: bool, with_settings: bool, timeout: float) -> None:
    """Name the hop that fails on the ways that `serve` takes.

    Settings, data folder, database, agent (DNS, proxy, TLS, upgrade, Welcome), clock, Orchestrator,
    sign-in keys and RELAY_PUBLIC_URL. It changes nothing. It opens at most one agent session, sends
    no audio and closes it at once: Deepgram bills no more than that moment.
    Exit code 0 if nothing failed.
    """
    from control.doctor.doctor import examine
    from control.doctor.report import write_json, write_text

    set_up_logging("error")
    report = asyncio.run(examine(os.environ, settings=with_settings, seconds=timeout))
    click.echo(write_json(report).decode() if as_json else write_text(report))
    sys.exit(0 if report.is_well else 1)


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="NAME",
    help="Keep it as a regression test, such as tests/recorded/NAME.",
)
@click.option("--url", help="Play both sides against this relay, too.")
@click.option(
    "--agent-port", default=8090, show_default=True, help="Where that relay finds its agent, here."
)
@click.option("--speed", default=1.0, show_default=True, help="How many times as fast, with --url.")
@click.option("--token", envvar="VOICE_RELAY_TOKEN", help="Your bearer token, with --url.")
def replay(
    file: Path, save: Path | None, url: str | None, agent_port: int, speed: float, token: str | None
) -> None:
    """Play a recording again.

    FILE, of RELAY_RECORD_DIR or of Deepgram's SDK, goes through the rules of a session as they are
    in this program: are the answers the same? Prints the first difference. Exit code 0 if there is
    none.

    With --url a whole relay is played to. It has to run with
    DEEPGRAM_AGENT_URL=ws://127.0.0.1:8090/v1/agent/converse: this command is its agent.
    """
    from control.replay import play
    from control.replay import save as keep

    played = play(file)
    click.echo(f"{played.events} events, {played.actions} actions", nl=False)
    if played.is_adopted:
        click.echo("; nobody recorded any: these are of the rules of today", nl=False)
    elif not played.recording.is_whole:
        click.echo("; it does not go on to the end of the session", nl=False)
    click.echo()
    if played.difference:
        _fail(str(played.difference))
    click.echo("no difference")
    if url:
        with _from_extra("sandbox"):
            from control.reenactment import attach_at, reenact, staging

        async def reenact_there() -> None:
            async with staging(played.recording, attach_at(url, token), agent_port) as scene:
                told = await reenact(played.recording, scene, speed=speed)
            figures = ", ".join(
                f"{len(types)} messages to the {side}" for side, types in told.items()
            )
            click.echo(f"{url}: {figures}, as recorded")

        try:
            uvloop.run(reenact_there())
        except OSError as error:
            raise ServeError(f"port {agent_port} cannot be used: {error.strerror}") from error
    if save:
        click.echo(f"wrote {keep(played, save)}")


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def timeline(file: Path) -> None:
    """Draw what happened in a session, as a page.

    `timeline FILE > page.html`: FILE is a recording of RELAY_RECORD_DIR, or one of Deepgram's SDK.
    The page needs no network and has no script: it can be sent around, and looked at years later.
    """
    from control.timeline.file import draw_file

    click.echo(draw_file(file).html, nl=False)


main.add_command(admin)


# --- for development -----------------------------------------------------------------------------


@main.command()
@click.option("--host", default=HOST, show_default=True)
@click.option("--port", default=8090, show_default=True)
@click.option(
    "--script",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Play these turns (YAML) instead of listening; loads no speech engine.",
)
@click.option(
    "--timeout", default=15.0, show_default=True, help="Seconds of silence until the error."
)
@click.option("--key", help="The API key to accept; any is accepted without it.")
def sandbox(host: str, port: int, script: Path | None, timeout: float, key: str | None) -> None:
    """Run the sandbox agent alone.

    It stands in for Deepgram's Voice Agent: it listens, understands a little and speaks.
    """
    with _from_extra("sandbox"):
        from relay.sandbox.options import Options
        from relay.sandbox.script import parse_script
        from relay.sandbox.server import serve as serve_sandbox
        from relay.sandbox.speech import Speech
    set_up_from(os.environ)
    turns = parse_script(script.read_text("utf-8")) if script else None
    speech = None if script else Speech.load()
    options = Options(api_key=key, script=turns, speech=speech, timeout=timeout)

    def run(_: Shutdown) -> AbstractAsyncContextManager[object]:
        return serve_sandbox(options, host=host, port=port)

    address = f"sandbox agent on ws://{host}:{port}/v1/agent/converse"
    try:
        uvloop.run(_serve(run, Shutdown.hear_signals, say=partial(click.echo, address, err=True)))
    except OSError as error:
        raise ServeError(f"port {port} on {host} cannot be used: {error.strerror}") from error


@main.command()
@click.option("--host", default=HOST, show_default=True)
@click.option("--port", default=8091, show_default=True)
def orchestrator(host: str, port: int) -> None:
    """Run the local Orchestrator alone.

    It keeps goals and tasks at DATABASE_URL, in a schema of its own. With ORCHESTRATOR_SECRET it
    refuses what is not signed with it.
    """
    from control.dev.orchestrator import create_app as create_orchestrator

    set_up_from(os.environ)
    database_url = _database_url()
    secret = os.environ.get("ORCHESTRATOR_SECRET") or None
    listener = listen(host, port)

    async def run() -> None:
        log_oddities(database_url, log)
        async with connected(database_url):  # a mistake ends the start, in one line
            pass
        app = create_orchestrator(database_url, secret)
        address = f"orchestrator on http://{host}:{port}"

        def run(stop: Shutdown) -> AbstractAsyncContextManager[None]:
            return serving(app, listener, stop=stop)

        await _serve(run, Shutdown.hear_signals, say=partial(click.echo, address, err=True))

    uvloop.run(run())


class _Inputs(click.Command):
    """Keeps --wav and --say in the order of the command line, which click forgets."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        parser = self.make_parser(ctx)
        values, _, order = parser.parse_args(args=list(args))
        queues = {name: list(values.get(name) or ()) for name in ("wav", "say")}
        ctx.meta["inputs"] = [
            (param.name, queues[param.name].pop(0)) for param in order if param.name in queues
        ]
        return super().parse_args(ctx, args)


@main.command(cls=_Inputs)
@click.option("--url", default=f"http://{HOST}:8080", show_default=True, help="The relay.")
@click.option(
    "--wav", multiple=True, type=click.Path(path_type=Path), help="Speak this file (PCM)."
)
@click.option("--say", multiple=True, help="Type this line instead of speaking.")
@click.option("--resume", "conversation", metavar="ID", help="Go on with this conversation.")
@click.option(
    "--save", type=click.Path(path_type=Path), help="Write the agent's voice to this WAV."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, for scripts.")
@click.option("--timezone", help="IANA name; tells the agent what today is.")
@click.option(
    "--token",
    envvar="VOICE_RELAY_TOKEN",
    help="Your bearer token, for a relay with RELAY_AUTH=jwt.",
)
@click.option(
    "--timeout", default=60.0, show_default=True, help="Seconds to wait for what is due next."
)
@click.pass_context
def talk(ctx: click.Context, /, wav: object, say: object, **options: Any) -> None:
    """Talk to a relay from the terminal.

    --wav and --say are spoken and typed in the order given, each after the agent has finished;
    without any, lines are read from the keyboard until Ctrl-D. Exit code 0 only if all went well.

    \b
      voice-relay talk --wav goal.wav --wav yes.wav
      voice-relay talk --say "Add a task to buy milk" --say "yes" --json
    """
    with _from_extra("sandbox"):
        from control.talk.caller import Line
        from control.talk.cli import TalkOptions
        from control.talk.cli import talk as converse
    set_up_logging("warning")
    inputs = tuple(
        Path(value) if kind == "wav" else Line(value) for kind, value in ctx.meta["inputs"]
    )
    try:
        code = uvloop.run(converse(TalkOptions(inputs=inputs, **options), sys.stdout))
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


@main.command(name="eval")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--agent",
    type=click.Choice(["sandbox", "deepgram"]),
    default="sandbox",
    show_default=True,
    help="Who is evaluated; Deepgram wants DEEPGRAM_API_KEY and costs money.",
)
@click.option(
    "--repeat", type=click.IntRange(1, 1000), default=1, show_default=True, help="Attempts of each."
)
@click.option(
    "--at-once",
    type=click.IntRange(1, 100),
    default=4,
    show_default=True,
    help="Conversations at a time, never more than RELAY_AGENT_SESSIONS.",
)
@click.option(
    "--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write JUnit XML, for CI."
)
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page.")
@click.option(
    "--last",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(".relay/evals.json"),
    show_default=True,
    help="What came of the last evaluation: compared with, then replaced.",
)
@click.option(
    "--timeout", default=30.0, show_default=True, help="Seconds to wait for what is due next."
)
@click.option(
    "--forget-deadlines",
    "forgets_deadlines",
    is_flag=True,
    help="The sandbox forgets deadlines, to see an evaluation fail.",
)
def evaluate(**options: Any) -> None:
    """Hold conversations with an agent and say what came of them.

    FILES are scenarios (YAML): what a person says, and which intents must come of it. They are held
    over real audio with a relay of this command's own, which has the configuration of
    RELAY_CONFIG_DIR, a database that is thrown away and an Orchestrator that does nothing. Exit
    code 1 if one fails that is not known to.

    \b
      voice-relay eval evals/*.yaml --repeat 5 --html evals.html
    """
    with _from_extra("dev"):
        from control.evals.cli import EvalOptions
        from control.evals.cli import evaluate as run
    set_up_logging("error")

    async def hold() -> int:
        task = asyncio.current_task()
        assert task is not None
        # As a Ctrl-C: what was started is stopped.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await run(EvalOptions(**options), sys.stdout, sys.stderr)

    try:
        code = uvloop.run(hold())
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = 130
    sys.exit(code)


@main.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def loadtest(arguments: tuple[str, ...]) -> None:
    """Measure what a relay costs, next to nginx and others."""
    with _from_extra("loadtests"):
        from loadtests.cli import loadtest as measure
    measure.main(list(arguments), prog_name="voice-relay loadtest")


# --- the rest ------------------------------------------------------------------------------------


def _settings() -> Settings:
    """For `serve`, which has to be told how users sign in."""
    problems = [] if os.environ.get("RELAY_AUTH") else [NO_AUTH]
    try:
        settings = from_environment(os.environ)
    except ConfigError as error:
        problems = error.problems + problems
    if problems:
        _fail("\n".join(problems))
    return settings


def _database_url() -> str:
    url = os.environ.get("DATABASE_URL")
    if not url:
        _fail("DATABASE_URL: expected postgresql://user:password@host/name, got nothing; set it")
    return url


async def _check_database(settings: Settings) -> None:
    """A mistake ends the start; a database that says "not now" is waited for while we run."""
    database_url = settings.database_url.reveal()
    log_oddities(database_url, log)
    store = Store(database_url)
    await store.open()
    try:
        async with connected(database_url):
            reasons = await find_reasons(store)
    except ConnectFailed as error:
        if not error.passes:
            raise
        log.warning("database_unavailable reason=%s", error)
        return
    finally:
        await store.close()
    if reasons:
        advice = "check DATABASE_URL, run `voice-relay migrate`; `voice-relay doctor` says more"
        raise ServeError(f"{'; '.join(reasons)}: {advice}")
    await refuse_newer(database_url)


async def _run_relay(
    app: Litestar,
    listeners: Sequence[socket.socket],
    settings: Settings,
    *,
    is_worker: bool = False,
) -> None:
    """The relay in this process, until it is asked to stop."""
    manager = ServiceManager(os.environ)
    stop = Shutdown(None if is_worker else manager)

    def read_again() -> None:
        told = ServiceManager({}) if is_worker else manager  # of several, the parent tells
        told.tell_reloading()
        is_right = reload(app.state.current, os.environ)
        told.tell("READY=1", "STATUS=" if is_right else "STATUS=a reload was refused; see the log")

    stop.hear_signals_as_server(read_again, is_worker=is_worker)
    async with serving(app, *listeners, stop=stop):
        url = f"http://{settings.host}:{settings.port}"
        log.info("relay_started url=%s workers=%d", url, settings.workers)
        manager.tell("READY=1")
        async with manager.watching(lambda: app.state.supervisor.is_alive):
            await stop.asked.wait()


async def _run_workers(workers: Workers) -> None:
    """The parent. That it is ready says the first of them that is."""
    manager = ServiceManager(os.environ)
    stop = Shutdown(manager)

    def read_again() -> None:
        manager.tell_reloading()
        workers.reload()
        manager.tell("READY=1")

    stop.hear_signals_as_server(read_again)
    async with manager.watching(lambda: True):
        await workers.run(stop)


async def _serve(
    run: Callable[[Shutdown], AbstractAsyncContextManager[object]],
    hear: Callable[[Shutdown], None],
    *,
    say: Callable[[], None],
) -> None:
    """Run it until it is asked to stop; `say` when it has started."""
    stop = Shutdown()
    hear(stop)
    async with run(stop):
        say()
        await stop.asked.wait()


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _fail(text: str) -> NoReturn:
    click.echo(f"voice-relay: {text}", err=True)
    sys.exit(1)


@contextmanager
def _from_extra(extra: str) -> Iterator[None]:
    """What is imported inside may not be there: production is installed without."""
    try:
        yield
    except ImportError as error:
        _fail(f"{error.name} is not installed: {say_how_to_add(extra)}")
