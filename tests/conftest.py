"""What tests of several rooms share: a real Postgres, a fresh migrated database for each test."""

import asyncio
import gc
import logging
import os
import shutil
import tempfile
import uuid
from pathlib import Path

import asyncpg
import pytest

from control.db.migrate import migrate
from control.db.store import Store
from control.dev.postgres import EmbeddedPostgres
from tests.closed_network import Authority, http_proxy

LONG = os.environ.get("CHAOS") == "long"
RULES = Path(__file__).parent / "relay"
FOLDER = pytest.StashKey[str]()
# Nothing here has to survive a power cut.
FORGETFUL = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_wal_size=4GB")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """A folder of this run alone: pytest's own is shared by all runs of an account and closed to
    others at each start, and as root the server of a test runs as somebody else."""
    if config.option.basetemp is None:
        config.option.basetemp = config.stash[FOLDER] = tempfile.mkdtemp(prefix="voice-tests-")


def pytest_collection_modifyitems(items):
    """What is `long` is left to `make chaos`. The rules are covered by the tests of `relay/`;
    elsewhere counting lines takes a third of the processor time."""
    later = pytest.mark.skip(reason="takes long: in `make chaos`")
    for item in items:
        if not LONG and item.get_closest_marker("long"):
            item.add_marker(later)
        if not item.path.is_relative_to(RULES):
            item.add_marker("no_cover")


def pytest_sessionfinish(session, exitstatus):
    """The folders of a run that went well are of no use."""
    folder = session.config.stash.get(FOLDER, None)
    if folder and exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(folder, ignore_errors=True)


def _with_database(url, name):
    return url.replace("/postgres?", f"/{name}?", 1)


async def _execute(url, sql):
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


@pytest.fixture
def no_collector():
    """What is only in a cycle stays: a test sees that there is none."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def postgres():
    """A server for the whole run, as the URL of its first database; nothing is kept."""
    with tempfile.TemporaryDirectory(prefix="relay-test-") as directory:
        server = EmbeddedPostgres(Path(directory), parameters=FORGETFUL)
        url = server.start()
        try:
            yield url
        finally:
            server.stop()


@pytest.fixture(scope="session")
def template(postgres):
    """The name of a migrated database that others are copied from: a copy takes milliseconds."""

    async def make():
        await _execute(postgres, "CREATE DATABASE migrated")
        await migrate(_with_database(postgres, "migrated"), log=logging.getLogger("tests"))

    asyncio.run(make())
    return "migrated"


@pytest.fixture
async def empty_database_url(postgres):
    """The URL of a database without any table."""
    name = f"test_{uuid.uuid4().hex}"
    await _execute(postgres, f"CREATE DATABASE {name}")
    return _with_database(postgres, name)


async def copy_database(postgres, template):
    """The URL of another migrated database."""
    name = f"test_{uuid.uuid4().hex}"
    await _execute(postgres, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    return _with_database(postgres, name)  # it goes with the server: a DROP takes longer


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """A private authority, trusted by whoever is told to."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def proxy():
    """An HTTP proxy that wants a name and a password; it takes a moment to start."""
    with http_proxy() as proxy:
        yield proxy


@pytest.fixture(scope="session")
def secure_proxy(authority):
    """The same over TLS, with a certificate of the private authority."""
    with http_proxy(authority.issue_files("127.0.0.1")) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def shared_database_url(postgres, template):
    """A migrated database for tests that do not mind what others leave in it."""
    return asyncio.run(copy_database(postgres, template))


@pytest.fixture
async def database_url(postgres, template):
    """The URL of a migrated database of the test's own."""
    return await copy_database(postgres, template)


@pytest.fixture
async def store(database_url):
    store = Store(database_url)
    await store.open()
    yield store
    await store.close()
