"""The program against what public bug reports say of browsers, databases, proxies and models.

A test names the kind of input in its first line and shows one or more of that kind. Most see the
program as its users do: `stage` has a real relay process, Postgres, an agent and an Orchestrator.
"""

from __future__ import annotations

import pytest

from tests.chaos.stage import staged
from tests.outside.secure_postgres import secure_postgres


@pytest.fixture
async def stage(tmp_path, database_url):
    """Everything around a relay; `await stage.relay(**environ).start()` starts one."""
    async with staged(tmp_path, database_url) as stage:
        yield stage


@pytest.fixture(scope="session")
def secure(authority, tmp_path_factory):
    """A Postgres over TCP that asks for passwords and offers TLS."""
    with secure_postgres(tmp_path_factory.mktemp("secure"), authority) as secure:
        yield secure
