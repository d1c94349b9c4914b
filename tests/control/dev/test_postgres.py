"""The embedded server: real processes."""

import asyncio
import os
import stat
from pathlib import Path

import asyncpg
import pytest

from control.dev.postgres import EmbeddedError, EmbeddedPostgres, embedded


@pytest.fixture
def server(tmp_path):
    server = EmbeddedPostgres(tmp_path)
    yield server
    server.stop()


async def ask(url, sql):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def wait_for(path):
    while not path.exists():
        pass


def permissions(path):
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if not _has_proc():
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False  # it ended while we looked


def _has_proc():
    return Path("/proc/self/stat").exists()


async def test_data_is_kept_and_no_process_is_left(tmp_path):
    async with embedded(tmp_path) as url:
        await ask(url, "CREATE TABLE kept AS SELECT 7 AS n")
        pid = int((tmp_path / "postgres" / "postmaster.pid").read_text().split()[0])
        assert is_running(pid)
    assert not is_running(pid)

    made = (tmp_path / "postgres" / "PG_VERSION").stat()
    async with embedded(tmp_path) as url:
        assert await ask(url, "SELECT n FROM kept") == 7
    assert (tmp_path / "postgres" / "PG_VERSION").stat().st_ino == made.st_ino  # not made again


async def test_clients_that_stay_do_not_hold_up_the_end(tmp_path):
    async with asyncio.timeout(40), embedded(tmp_path) as url:
        connection = await asyncpg.connect(url)

    connection.terminate()  # it would have stayed for ever


async def test_a_killed_server_is_recovered(server):
    url = server.start()
    await ask(url, "CREATE TABLE kept AS SELECT 7 AS n")
    server.kill()

    assert await ask(server.start(), "SELECT n FROM kept") == 7


async def test_a_server_that_outlived_its_program_is_replaced(server, tmp_path):
    old = server.start()
    old_pid = server.pid
    server._held.close()  # as the kernel does when a program is killed

    replacement = EmbeddedPostgres(tmp_path)
    url = replacement.start()

    assert url == old
    assert replacement.pid != old_pid
    assert await ask(url, "SELECT 1") == 1
    replacement.stop()


@pytest.mark.parametrize(
    "pid", [os.getpid(), 1, 2**22 + 1], ids=["this process", "the first process", "nobody"]
)
async def test_a_stale_pid_file_is_no_hindrance_whoever_has_the_pid_now(server, tmp_path, pid):
    server.start()
    pid_file = tmp_path / "postgres" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    server.kill()
    pid_file.write_text("\n".join([str(pid), *lines[1:], ""]))

    assert await ask(server.start(), "SELECT 1") == 1


def test_one_directory_is_for_one_program(server, tmp_path):
    server.start()

    with pytest.raises(EmbeddedError, match="in use by another voice-relay"):
        EmbeddedPostgres(tmp_path).start()


async def test_a_path_too_long_for_a_socket_works(tmp_path):
    long = tmp_path / ("long, with a comma " * 6)
    async with embedded(long) as url:
        sockets = Path(url.partition("host=")[2].partition("&")[0])
        assert await ask(url, "SELECT 1") == 1
        assert permissions(sockets) == 0o700

    assert permissions(sockets) is None


def test_a_directory_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(EmbeddedError, match="RELAY_DATA_DIR") as failed:
        EmbeddedPostgres(tmp_path / "file" / "data").start()
    assert "\n" not in str(failed.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_one_clear_line(tmp_path):
    tmp_path.chmod(0o500)

    with pytest.raises(EmbeddedError, match="RELAY_DATA_DIR"):
        EmbeddedPostgres(tmp_path).start()


def test_data_of_another_version_is_refused(server, tmp_path):
    server.start()
    server.stop()
    (tmp_path / "postgres" / "PG_VERSION").write_text("15\n")

    with pytest.raises(EmbeddedError, match="made by PostgreSQL 15, expected 18"):
        server.start()


def test_a_server_that_ends_at_once_says_why(tmp_path):
    server = EmbeddedPostgres(tmp_path, parameters=["no_such_thing=1"])

    with pytest.raises(EmbeddedError, match="no_such_thing"):
        server.start()
    assert server.pid is None


def test_a_half_made_database_is_made_again(server, tmp_path):
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")

    assert server.start()


async def test_a_start_that_is_given_up_leaves_no_process(tmp_path):
    async def start():
        async with embedded(tmp_path):
            pytest.fail("it was given up")

    task = asyncio.create_task(start(), name="start")
    await asyncio.to_thread(wait_for, tmp_path / "postgres.lock")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not (tmp_path / "postgres" / "postmaster.pid").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to hand it to another account")
def test_as_root_the_server_is_not_root_and_no_account_is_made(server, tmp_path):
    accounts = Path("/etc/passwd").read_text()
    server.start()

    assert Path(f"/proc/{server.pid}").stat().st_uid != 0
    assert Path("/etc/passwd").read_text() == accounts
    assert stat.S_IMODE((tmp_path / "postgres").stat().st_mode) == 0o700


def test_stopping_what_does_not_run_does_nothing(tmp_path):
    EmbeddedPostgres(tmp_path).stop()


def test_signals_for_the_terminal_do_not_reach_the_server(server):
    server.start()

    assert os.getpgid(server.pid) != os.getpgid(0)
