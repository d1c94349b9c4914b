"""The description of the REST API against the program: schemathesis makes requests from it.

Every operation, requests that fit and requests that do not: no server error, and no status that is
not described. `API_EXAMPLES=200` is the long form.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from pathlib import Path

import httpx
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    response_schema_conformance,
    status_code_conformance,
)

import config
from config.loader import load
from config.settings import from_environment
from control.app import create_app
from control.http.server import listen, serving

EXAMPLES = int(os.environ.get("API_EXAMPLES", "6"))
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]


CONFIGURATION = load(Path(config.__file__).parent, {})


def prepare(database_url, **more):
    return from_environment(
        {
            "DEEPGRAM_API_KEY": "a-key",
            "DEEPGRAM_AGENT_URL": "ws://127.0.0.1:9/v1/agent/converse",  # nobody is there
            "ORCHESTRATOR_URL": "http://127.0.0.1:9",
            "DATABASE_URL": database_url,
            "RELAY_DIAL_AHEAD": "0",
            "RELAY_REQUESTS_PER_ADDRESS": "0",  # all come from here
        }
        | more
    )


class Running:
    """The program in a thread with a loop of its own: schemathesis is not asynchronous."""

    def __init__(self, database_url, folder):
        self._settings = prepare(database_url, RELAY_DATA_DIR=str(folder))
        self._listener = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.turns = itertools.count()
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self):
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        app = create_app(self._settings, CONFIGURATION)
        async with serving(app, self._listener):
            self._up.set()
            await self._over.wait()

    def __enter__(self):
        self._thread.start()
        assert self._up.wait(20)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def running(shared_database_url, tmp_path_factory):
    with Running(shared_database_url, tmp_path_factory.mktemp("relay")) as running:
        yield running


def describe():
    """What /schema/openapi.json says: one test for each operation wants it before anything runs."""
    app = create_app(prepare("postgresql://nobody@127.0.0.1:9/nothing"), CONFIGURATION)
    return msgspec.json.decode(msgspec.json.encode(app.openapi_schema.to_schema()))


# schemathesis draws with `random` inside a strategy of its own.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)
schema = schemathesis.openapi.from_dict(describe())


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES < 100,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
def test_every_answer_is_described_and_none_is_an_error_of_ours(case, running):
    # Every other time about what is there: nobody guesses an id.
    known = case.path_parameters.keys() & {"session_id", "conversation_id"}
    if known and next(running.turns) % 2:
        begun = httpx.post(f"{running.url}/api/v1/voice/session").json()
        case.path_parameters |= {name: begun[name] for name in known}
    case.call_and_validate(base_url=running.url, checks=CHECKS)


def test_the_description_is_the_one_that_is_served(running):
    assert httpx.get(f"{running.url}/schema/openapi.json").json() == describe()
