"""Everything on one machine: `voice-relay dev`.

What the environment names is used; what it does not is started here: a database, an agent that
needs no key, an Orchestrator. All of it ends with this program.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Container, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from config.env_types import mask_query
from config.loader import load
from config.settings import STAND_INS, Settings, from_environment
from control.app import create_app
from control.auth.current_user import USER_ID
from control.db.migrate import migrate, refuse_newer
from control.dev import orchestrator as local_orchestrator
from control.dev.postgres import embedded
from control.http.server import listen, listen_as_set, serving
from control.http.shutdown import Shutdown
from relay.sandbox.options import Options
from relay.sandbox.server import serve as serve_sandbox
from relay.sandbox.speech import Speech

log = logging.getLogger(__name__)


Part = tuple[str, str, str]
"""One line of the screen: what it is, where, a note."""


@asynccontextmanager
async def everything(
    environ: Mapping[str, str],
    progress: Callable[[str], None],
    stop: Shutdown | None = None,
) -> AsyncIterator[list[Part]]:
    """Run all parts while inside; yields what runs where. `progress` hears what is being started;
    when `stop` is asked for twice, the relay does not wait for its sessions on the way out.

    Raises ConfigError, EmbeddedError, MigrationError or ServeError, each with what to do.
    """
    missing = {name: value for name, value in STAND_INS.items() if not environ.get(name)}
    values = {**environ, **missing}
    # All mistakes of the environment before anything is started.
    settings = from_environment(values)
    configuration = load(settings.config_dir, environ)
    listeners = listen_as_set(settings)
    async with AsyncExitStack() as stack:
        for listener in listeners:
            stack.callback(listener.close)
        if "DATABASE_URL" in missing:
            progress("starting PostgreSQL")
            values["DATABASE_URL"] = await stack.enter_async_context(embedded(settings.data_dir))
        await migrate(values["DATABASE_URL"], log=log)
        await refuse_newer(values["DATABASE_URL"])
        if "ORCHESTRATOR_URL" in missing:
            progress("starting the local orchestrator")
            secret = values.get("ORCHESTRATOR_SECRET") or None
            planner = local_orchestrator.create_app(values["DATABASE_URL"], secret)
            local = listen("127.0.0.1", 0)
            stack.callback(local.close)
            values["ORCHESTRATOR_URL"] = f"http://127.0.0.1:{local.getsockname()[1]}"
            await stack.enter_async_context(serving(planner, local))
        if "DEEPGRAM_API_KEY" in missing:
            progress("starting the sandbox agent")
            speech = await asyncio.to_thread(Speech.load)
            agent = await stack.enter_async_context(serve_sandbox(Options(speech=speech)))
            values["DEEPGRAM_AGENT_URL"] = agent.agent_url
            values["DEEPGRAM_API_URL"] = agent.api_url
            values.pop("DEEPGRAM_AGENT_FALLBACK_URL", None)
        progress("starting the relay")
        settings = from_environment(values)
        await stack.enter_async_context(
            serving(create_app(settings, configuration), *listeners, stop=stop)
        )
        yield _list_parts(settings, missing, listeners[0].getsockname()[1])


def _list_parts(settings: Settings, missing: Container[str], port: int) -> list[Part]:
    """What the relay uses, for the screen; `missing` names what the environment did not."""
    return [
        ("database", str(settings.data_dir), "embedded PostgreSQL")
        if "DATABASE_URL" in missing
        else ("database", "DATABASE_URL", "yours"),
        (
            "orchestrator",
            mask_query(settings.orchestrator_url),
            "local: GET /goals, GET /tasks" if "ORCHESTRATOR_URL" in missing else "yours",
        ),
        (
            "agent",
            mask_query(settings.deepgram_agent_url),
            "SANDBOX: no key, no cost, a small mind"
            if "DEEPGRAM_API_KEY" in missing
            else "Deepgram, with your key",
        ),
        ("sign-in", "RELAY_AUTH=jwt", "bearer tokens")
        if settings.auth == "jwt"
        else ("sign-in", "MOCKED", f"everybody is user {USER_ID}"),
        ("relay", f"http://{settings.host}:{port}", "API at /schema, health at /health/ready"),
    ]
