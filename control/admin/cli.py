"""`voice-relay admin`: what administrators do, from a terminal, over REST.

Control plane. Each command prints a table for people, or with --json the answer as it is. What
cannot be undone asks first, or wants --yes.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec

from control.admin.client import AdminClient, AdminError, show

UNITS = {"m": 60, "h": 3600, "d": 86400}
# As the columns are called: a field of the answer.
SESSION_COLUMNS = ("id", "user_id", "node_id", "state", "created_at", "browser_frames")
NODE_COLUMNS = ("id", "name", "alive", "drained", "sessions", "agents", "seen_at", "cleared_at")
CALL_COLUMNS = ("id", "intent", "user_id", "attempts", "updated_at", "last_error")
CONVERSATION_COLUMNS = ("id", "status", "updated_at", "title")
COST_COLUMNS = {
    "day": ("day", "sessions", "agent_minutes", "cost"),
    "user": ("user_id", "sessions", "agent_minutes", "cost"),
    "session": ("session_id", "user_id", "day", "agent_minutes", "cost"),
}
AUDIT_COLUMNS = ("at", "who", "act", "target", "outcome", "id")


class Options(msgspec.Struct, frozen=True):
    """What all commands have in common."""

    url: str
    key: str
    as_json: bool

    def open(self) -> AdminClient:
        if not self.key:
            raise AdminError("no key: give --key, or set RELAY_ADMIN_KEY")
        return AdminClient(self.url, self.key)


def _default_url() -> str:
    return f"http://127.0.0.1:{os.environ.get('RELAY_METRICS_PORT') or 9090}"


@click.group()
@click.option(
    "--url",
    envvar="VOICE_RELAY_ADMIN_URL",
    default=_default_url,
    help="Where a relay has its metrics; this machine's RELAY_METRICS_PORT if not given.",
)
@click.option(
    "--key",
    envvar=["VOICE_RELAY_ADMIN_KEY", "RELAY_ADMIN_KEY"],
    default="",
    help="Its RELAY_ADMIN_KEY, or a token. Rather in the environment: others see options.",
)
@click.option("--json", "as_json", is_flag=True, help="Print answers as JSON, for scripts.")
@click.pass_context
def admin(ctx: click.Context, url: str, key: str, as_json: bool) -> None:
    """Look after relays that run.

    Sessions, nodes, failed intents, and everything of a person. It speaks to one running relay, on
    the address of its metrics, with RELAY_ADMIN_KEY. Sessions, nodes, intents and people are those
    of all relays on the database; `state` and `restore` are of the relay that is asked. Every act
    is in its audit log.

    \b
      voice-relay admin sessions
      voice-relay admin intents --since 24h --reason "HTTP 502"
      voice-relay admin retry --since 24h --reason "HTTP 502"
      voice-relay admin erase 7b0c1f9e-… --yes

    Exit code 0: it was done. 1: it was not, and why. 2: wrong usage, or --yes is missing.
    """
    ctx.obj = Options(url, key, as_json)


most = click.option("--most", default=50, show_default=True, help="Show so many at most.")
yes = click.option("--yes", is_flag=True, help="Do it without asking.")


# --- sessions and nodes --------------------------------------------------------------------------


@admin.command()
@click.option("--node", help="Of this node only: its id.")
@most
@click.pass_obj
def sessions(options: Options, node: str | None, most: int) -> None:
    """List live sessions of all nodes, newest first.

    Frames are known for sessions of the relay that is asked; for the others it is 0.
    """
    _list(options, "/sessions", SESSION_COLUMNS, most, node=node)


@admin.command()
@click.argument("session_id", metavar="ID")
@click.pass_obj
def session(options: Options, session_id: str) -> None:
    """Look at one session, live or of the past.

    Whose it is, which node has it, why it ended, what it carried.
    """
    with options.open() as client:
        _show(options, client.ask("GET", f"/sessions/{_part(session_id)}"))


@admin.command("hang-up")
@click.argument("session_id", metavar="ID")
@click.pass_obj
def hang_up(options: Options, session_id: str) -> None:
    """End a live session, on whatever node it is.

    The browser is told `hung up` and does not come back by itself; its user may begin another
    session. It is over within 5 seconds.
    """
    with options.open() as client:
        client.ask("POST", f"/sessions/{_part(session_id)}/hang-up")
    _say(options, {"asked": session_id}, f"{session_id} is asked to end")


@admin.command()
@click.pass_obj
def nodes(options: Options) -> None:
    """List the relays on the database.

    `seen_at` is the last heartbeat, `agents` the part of RELAY_AGENT_SESSIONS; `cleared_at` says up
    to which erasure a node has looked into its files.
    """
    _list(options, "/nodes", NODE_COLUMNS, 1_000)


@admin.command()
@click.argument("node_id", metavar="ID")
@click.pass_obj
def drain(options: Options, node_id: str) -> None:
    """Let a node take no new sessions.

    Live ones go on until they end by themselves. `undrain` takes it back, and so does a new start
    of the node.
    """
    _drain(options, node_id, "drain")


@admin.command()
@click.argument("node_id", metavar="ID")
@click.pass_obj
def undrain(options: Options, node_id: str) -> None:
    """Let a drained node take sessions again.

    It hears of it within 5 seconds.
    """
    _drain(options, node_id, "undrain")


@admin.command()
@click.pass_obj
def state(options: Options) -> None:
    """Show the state of the relay that is asked.

    Journal, condemned records, background tasks that fail, its part of the agents; and how many
    calls wait for the Orchestrator, of all relays.
    """
    with options.open() as client:
        _show(options, client.ask("GET", "/state"))


@admin.command()
@yes
@click.pass_obj
def restore(options: Options, yes: bool) -> None:
    """Put condemned records back.

    Those of the relay that is asked, as `voice-relay restore` on its machine: what Postgres refused
    is tried again, and what it still refuses is condemned again.
    """
    with options.open() as client:
        count = client.ask("GET", "/state")["condemned"]["records"]
        _ask(yes, f"Put {_many(count, 'condemned record')} back?", count)
        done = client.ask("POST", "/condemned/restore")
    _say(options, done, f"{_many(done['restored'], 'record')} back in the journal")


# --- intents -------------------------------------------------------------------------------------


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--since", help="Changed since then: 30m, 24h, 7d, or an instant in ISO 8601."
        ),
        click.option("--reason", help="With this in the last error, in any case."),
        click.option("--intent", help="Of this intent, as GOAL."),
    ):
        command = option(command)
    return command


@admin.command()
@_filters
@click.option("--status", default="failed", show_default=True, help="In this state.")
@most
@click.pass_obj
def intents(
    options: Options,
    status: str,
    most: int,
    intent: str | None,
    reason: str | None,
    since: str | None,
) -> None:
    """List failed intents of all conversations.

    The newest change first. What was said is not shown: `export` has it.
    """
    given = {"intent": intent, "reason": reason, "since": _instant(since)}
    _list(options, "/intents", CALL_COLUMNS, most, status=status, **given)


@admin.command()
@click.argument("ids", nargs=-1)
@_filters
@yes
@click.pass_obj
def retry(options: Options, /, ids: tuple[str, ...], yes: bool, **filters: str | None) -> None:
    """Submit failed intents again, with their own keys.

    Those with these IDS, or all that the options name; without any, all that have failed. The
    number is shown first.
    """
    _change(options, "retry", ids, yes, filters)


@admin.command()
@click.argument("ids", nargs=-1)
@_filters
@yes
@click.pass_obj
def discard(options: Options, /, ids: tuple[str, ...], yes: bool, **filters: str | None) -> None:
    """Give failed intents up: they are cancelled.

    Those with these IDS, or all that the options name; without any, all that have failed. The
    Orchestrator is not asked about them.
    """
    _change(options, "discard", ids, yes, filters)


# --- costs ---------------------------------------------------------------------------------------


@admin.command()
@click.option(
    "--by", type=click.Choice([*COST_COLUMNS]), default="day", show_default=True, help="Add up by."
)
@click.option("--since", help="From this day on: 7d, or 2026-11-01. 30 days ago if not given.")
@click.option("--until", help="Up to this day; today if not given.")
@click.option("--user", help="Of this user only.")
@click.pass_obj
def costs(
    options: Options, by: str, since: str | None, until: str | None, user: str | None
) -> None:
    """Show for how long agents were connected, and what that cost.

    Of all relays; days are those of UTC. That time is what Deepgram sends a bill for: from the open
    connection to the close, also of agents that were dialled again or in vain. It is known 30
    seconds later at most. The cost is in US dollars, if the relay has RELAY_PRICE_PER_MINUTE. A
    `user_id` of `-` is of people who were erased.

    \b
      voice-relay admin costs --since 7d
      voice-relay admin costs --by user --since 2026-11-01 --until 2026-11-30
    """
    since, until = ((_instant(day) or "")[:10] or None for day in (since, until))
    with options.open() as client:
        answer = client.ask("GET", "/costs", by=by, since=since, until=until, user=user)
    if options.as_json:
        click.echo(json.dumps(answer))
        return
    total = {name: answer[name] for name in ("agent_seconds", "cost")}
    lines = [*answer["items"], {**dict.fromkeys(("user_id", "sessions", "day")), **total}]
    lines[-1][COST_COLUMNS[by][0]] = "in all, and more lines" if answer["is_cut"] else "in all"
    for line in lines:
        line["agent_minutes"] = f"{line['agent_seconds'] / 60:.1f}"
    click.echo("\n".join(write_table(COST_COLUMNS[by], lines)))


# --- people --------------------------------------------------------------------------------------


@admin.command()
@click.argument("user_id", metavar="USER")
@most
@click.pass_obj
def conversations(options: Options, user_id: str, most: int) -> None:
    """List the conversations of a person, newest first.

    Titles are their words: that you looked is in the audit log. USER is the `sub` of their tokens.
    """
    _list(options, "/user/conversations", CONVERSATION_COLUMNS, most, id=user_id)


@admin.command()
@click.argument("user_id", metavar="USER")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default="export.json", show_default=True
)
@click.pass_obj
def export(options: Options, user_id: str, output: Path) -> None:
    """Write everything of a person into a file.

    One JSON document with the rows of all tables. The file is new, and only you may read it.
    """
    with options.open() as client:
        size = client.save("/user/export", output, id=user_id)
    _say(options, {"file": str(output), "bytes": size}, f"{size} bytes in {output}")


@admin.command()
@click.argument("user_id", metavar="USER")
@yes
@click.pass_obj
def erase(options: Options, user_id: str, yes: bool) -> None:
    """Erase everything of a person. There is no way back.

    Live sessions end; conversations, messages, intents and sessions go from the database and from
    the files of every relay. What there was and the proof that it is gone is shown, with a receipt
    that names nobody: keep it. Exit code 1 if something is left.
    """
    with options.open() as client:
        stored = client.ask("GET", "/user", id=user_id)
        rows = sum(stored["rows"].values())
        live = f", {_many(stored['live'], 'live session')}" if stored["live"] else ""
        _ask(yes, f"Erase {_many(rows, 'row')}{live} of {show(user_id)} for ever?", rows)
        erased = client.ask("DELETE", "/user", id=user_id)
    _show(options, erased)
    files = erased["files"]
    if any(erased["left"].values()) or files["naming"] or not files["journal"]:
        raise AdminError("something is left: ask again")


@admin.command()
@most
@click.pass_obj
def audit(options: Options, most: int) -> None:
    """List what administrators have done, newest first.

    An erased person is in no line; the receipt of an erasure is the id of its line.
    """
    _list(options, "/audit", AUDIT_COLUMNS, most)


# --- the rest ------------------------------------------------------------------------------------


def _drain(options: Options, node_id: str, act: str) -> None:
    with options.open() as client:
        node = client.ask("POST", f"/nodes/{_part(node_id)}/{act}")
    _say(options, node, f"{show(node['name'])} is asked to {act}, with {node['sessions']} sessions")


def _change(
    options: Options, act: str, ids: tuple[str, ...], yes: bool, filters: Mapping[str, str | None]
) -> None:
    chosen: dict[str, object] = {**filters, "since": _instant(filters["since"])}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if ids:
        chosen["ids"] = list(ids)
    with options.open() as client:
        count = client.ask("POST", f"/intents/{act}", body=chosen)["matched"]
        _ask(yes, f"{act.capitalize()} {_many(count, 'failed intent')}?", count)
        done = client.ask("POST", f"/intents/{act}", body={**chosen, "confirm": count})
    _say(options, done, f"{act}: {_many(done['done'], 'intent')}")


def _ask(yes: bool, question: str, count: int) -> None:
    """Ask before it is done; who cannot be asked has to say so before."""
    if yes or count == 0:
        return
    if not sys.stdin.isatty():
        click.echo(f"{question} Nothing was done: say --yes", err=True)
        sys.exit(2)
    click.confirm(question, abort=True)


def _list(
    options: Options, path: str, columns: tuple[str, ...], most: int, **query: str | None
) -> None:
    with options.open() as client:
        if path == "/nodes":
            items = client.ask("GET", path)["items"]
        else:
            items = list(client.list(path, most, **query))
    if options.as_json:
        for item in items:
            click.echo(json.dumps(item))
    else:
        click.echo("\n".join(write_table(columns, items)) if items else "none")


def write_table(columns: Iterable[str], items: Iterable[Mapping[str, Any]]) -> list[str]:
    """Lines of equal columns; instants to the second, what is long cut off at the end."""
    columns = tuple(columns)
    rows = [columns, *(tuple(_cell(item[name]) for name in columns) for item in items)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        value = json.dumps(value)
    text = show(value)
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", text):
        return f"{text[:19]}Z"
    return text if len(text) <= 60 else f"{text[:59]}…"


def _show(options: Options, answer: Mapping[str, Any]) -> None:
    if options.as_json:
        click.echo(json.dumps(answer))
        return
    flat = list(_flatten("", answer))
    width = max(len(name) for name, _ in flat)
    click.echo("\n".join(f"{name.ljust(width)}  {show(value)}" for name, value in flat))


def _flatten(prefix: str, answer: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in answer.items():
        if isinstance(value, dict):
            yield from _flatten(f"{prefix}{name}.", value)
        elif isinstance(value, list):
            yield f"{prefix}{name}", ", ".join(map(str, value)) or "none"
        else:
            yield f"{prefix}{name}", value


def _say(options: Options, answer: object, text: str) -> None:
    click.echo(json.dumps(answer) if options.as_json else text)


def _instant(text: str | None) -> str | None:
    """As the relay wants it: so long ago, or what was written."""
    found = re.fullmatch(r"(\d{1,6})([mhd])", text or "")
    if found is None:
        return text
    ago = timedelta(seconds=int(found[1]) * UNITS[found[2]])
    return (datetime.now(UTC) - ago).isoformat()


def _part(text: str) -> str:
    """An id that goes into a path."""
    if not re.fullmatch(r"[0-9A-Fa-f-]{1,40}", text):
        raise click.UsageError(f"expected an id, got {text[:80]!r}")
    return text


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
