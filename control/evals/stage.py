"""What an evaluation runs against: a relay of its own, with the configuration to be tried.

The database is made for it and thrown away, and no intent goes anywhere: of the environment only
the configuration, the way out and, for Deepgram, the key and the address are taken.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import jwt

from config.scenario import AgentName
from config.settings import KEY, KEY_FILE, Settings, find_missing, from_environment
from control.dev.stack import everything
from control.evals.orchestrator import Orchestrator
from control.http.server import listen, serving
from control.talk.audio import UsageError
from relay.sandbox.options import Options
from relay.sandbox.server import serve as serve_sandbox
from relay.sandbox.speech import Speech, Voice

# Of our variables; those of others are what agent.yaml refers to.
TAKEN = ("RELAY_CONFIG_DIR", "RELAY_EGRESS_PROXY", "RELAY_AGENT_SESSIONS")
TAKEN_PARTS = ("RELAY_TLS_", "RELAY_RECORD_")  # recordings of attempts, by their session ids
OURS = ("RELAY_", "DATABASE_", "ORCHESTRATOR_")
TOKEN_SECONDS = 6 * 3600


class Stage:
    """A relay that runs."""

    def __init__(self, url: str, voice: Voice, orchestrator: Orchestrator, secret: str) -> None:
        self.url = url
        self.voice = voice
        self.orchestrator = orchestrator
        self._secret = secret

    def token(self, user: str) -> str:
        """What signs this user in."""
        claims = {"sub": user, "aud": "authenticated", "exp": int(time.time()) + TOKEN_SECONDS}
        return jwt.encode(claims, self._secret, algorithm="HS256")


@asynccontextmanager
async def staged(
    agent: AgentName,
    environ: Mapping[str, str],
    progress: Callable[[str], None],
    *,
    forgets_deadlines: bool = False,
) -> AsyncIterator[Stage]:
    """Runs while inside. Raises `UsageError` without a key for Deepgram, and what `everything` and
    the speech engines raise."""
    secret = secrets.token_urlsafe(32)
    values = environment(agent, environ)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="voice-relay-eval-"))
        orchestrator = Orchestrator()
        listener = listen("127.0.0.1", 0)
        stack.callback(listener.close)
        await stack.enter_async_context(serving(orchestrator.create_app(), listener))
        values |= {
            "ORCHESTRATOR_URL": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "RELAY_AUTH": "jwt",
            "RELAY_JWT_SECRET": secret,
            "RELAY_DATA_DIR": str(Path(folder)),
            "RELAY_PORT": "0",
        }
        progress("loading the voice" if agent == "deepgram" else "loading the speech engines")
        if agent == "deepgram":
            voice = await asyncio.to_thread(Voice.load)
        else:
            speech = await asyncio.to_thread(Speech.load)
            voice = speech.voice
            options = Options(speech=speech, forgets_deadlines=forgets_deadlines)
            sandbox = await stack.enter_async_context(serve_sandbox(options))
            values |= {KEY: "sandbox", "DEEPGRAM_AGENT_URL": sandbox.agent_url}
        parts = await stack.enter_async_context(everything(values, progress))
        yield Stage(parts[-1][1], voice, orchestrator, secret)


def environment(agent: AgentName, environ: Mapping[str, str]) -> dict[str, str]:
    """What of the environment an evaluation takes. Raises `UsageError`."""
    if agent == "deepgram" and not (environ.get(KEY) or environ.get(KEY_FILE)):
        raise UsageError("--agent deepgram: expected DEEPGRAM_API_KEY, got none; set it")
    return {
        name: value
        for name, value in environ.items()
        if name in TAKEN
        or name.startswith(TAKEN_PARTS)
        or not (name.startswith(OURS) or (agent == "sandbox" and name.startswith("DEEPGRAM_")))
    }


def settings_of(agent: AgentName, environ: Mapping[str, str]) -> Settings:
    """Those of the relay to come. Raises `UsageError` and `ConfigError`."""
    values = environment(agent, environ)
    return from_environment({**values, **find_missing(values)})
