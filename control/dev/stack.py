"""Everything on one machine: `voice-relay dev`.

What the environment names is used; what it does not is started here: a database, an agent that
needs no key, an Orchestrator. All of it ends with this program.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from config.env_types import mask_query
from config.loader import load
from config.settings import STAND_INS, from_environment
from control.app import create_app
from control.auth.current_user import USER_ID
from control.db.migrate import migrate, refuse_newer
from control.dev import orchestrator as local_orchestrator
from control.dev.postgres import embedded
from control.http.server import listen, serving
from control.http.shutdown import Shutdown
from relay.sandbox.options import Options
from relay.sandbox.server import serve as serve_sandbox
from relay.sandbox.speech import Speech

log = logging.getLogger(__name__)


class Part(msgspec.Struct, frozen=True):
    """One line of the screen."""

    name: str
    where: str
    note: str


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
    values = dict(environ)
    real = {name: bool(values.get(name)) for name in STAND_INS}
    # All mistakes of the environment before anything is started.
    values |= {name: stand_in for name, stand_in in STAND_INS.items() if not real[name]}
    settings = from_environment(values)
    configuration = load(settings.config_dir, environ)
    listener = listen(settings.host, settings.port)
    parts: list[Part] = []
    async with AsyncExitStack() as stack:
        stack.callback(listener.close)
        if not real["DATABASE_URL"]:
            progress("starting PostgreSQL")
            values["DATABASE_URL"] = await stack.enter_async_context(embedded(settings.data_dir))
            parts.append(Part("database", str(settings.data_dir), "embedded PostgreSQL"))
        else:
            parts.append(Part("database", "DATABASE_URL", "yours"))
        await migrate(values["DATABASE_URL"], log=log)
        await refuse_newer(values["DATABASE_URL"])
        if not real["ORCHESTRATOR_URL"]:
            progress("starting the local orchestrator")
            door = listen("127.0.0.1", 0)
            stack.callback(door.close)
            secret = values.get("ORCHESTRATOR_SECRET") or None
            app = local_orchestrator.create_app(values["DATABASE_URL"], secret)
            await stack.enter_async_context(serving(app, door))
            values["ORCHESTRATOR_URL"] = f"http://127.0.0.1:{door.getsockname()[1]}"
            parts.append(
                Part("orchestrator", values["ORCHESTRATOR_URL"], "local: GET /goals, GET /tasks")
            )
        else:
            parts.append(Part("orchestrator", mask_query(values["ORCHESTRATOR_URL"]), "yours"))
        if not real["DEEPGRAM_API_KEY"]:
            progress("starting the sandbox agent")
            speech = await asyncio.to_thread(Speech.load)
            running = await stack.enter_async_context(serve_sandbox(Options(speech=speech)))
            values["DEEPGRAM_AGENT_URL"] = running.agent_url
            values["DEEPGRAM_API_URL"] = running.api_url
            parts.append(Part("agent", running.agent_url, "SANDBOX: no key, no cost, a small mind"))
        else:
            agent_url = mask_query(settings.deepgram_agent_url)
            parts.append(Part("agent", agent_url, "Deepgram, with your key"))
        if settings.auth == "jwt":
            parts.append(Part("sign-in", "RELAY_AUTH=jwt", "bearer tokens"))
        else:
            parts.append(Part("sign-in", "MOCKED", f"everybody is user {USER_ID}"))
        progress("starting the relay")
        settings = from_environment(values)
        relay = create_app(settings, configuration)
        await stack.enter_async_context(serving(relay, listener, stop))
        shown = f"http://{settings.host}:{listener.getsockname()[1]}"
        parts.append(Part("relay", shown, "API at /schema, health at /health/ready"))
        yield parts
