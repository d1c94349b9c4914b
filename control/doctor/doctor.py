"""`voice-relay doctor`: walks every way that this program takes, and names the hop that fails.

Control plane, a program of its own. It changes nothing and costs no more than an open socket: at
most one agent session, closed after its `Welcome` (with `settings`, after `SettingsApplied`), to
which no audio is sent. No call reaches the Orchestrator, only one GET without a token.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from config.agent import agent_section, session_section
from config.database_url import ignored_parameters, passwords
from config.env_types import Secret
from config.errors import ConfigError
from config.loader import Configuration, load
from config.settings import Settings, from_environment
from control.api.security import allowed_origins
from control.api.sessions import make_websocket_url
from control.auth.jwks import Jwks, KeysUnavailable
from control.db.database_check import Inspected, inspect
from control.db.migrate import MigrationError, find_pending, load_migrations
from control.db.pool import ConnectFailed
from control.doctor.probe import Certificate, Route, Streams
from control.doctor.report import Report
from control.http.client import Remote
from relay.protocol import close_codes, deepgram
from relay.transport import network_errors
from relay.transport.connection import Connection
from relay.transport.connection_handler import Handler
from relay.transport.dial import DialFailed, Dialler
from relay.transport.egress import Egress
from relay.transport.send_queue import SendQueue

SKEW_SECONDS = 30.0  # more than that, and signatures and tokens are refused
SOON = timedelta(days=14)  # a certificate that ends before this is worth a word
OLDEST_POSTGRES, NEWEST_POSTGRES = 15, 18
NOBODY = UUID(int=0)

_REFUSALS = {
    400: "it does not understand the request: check DEEPGRAM_AGENT_URL",
    401: "the key is not taken: check DEEPGRAM_API_KEY, and that it is of this region",
    402: "the Deepgram project has no credit left",
    403: "the key may not do that, or a firewall refuses: check the key's scopes",
    404: "there is no Voice Agent API at this path: check DEEPGRAM_AGENT_URL",
    407: "that is a proxy: check RELAY_EGRESS_PROXY",
    429: "too many sessions of this project at once: wait, or ask Deepgram for more",
}

_RELAY_REFUSALS = {
    403: "set RELAY_ALLOWED_ORIGINS there as it is here",
    503: "it reaches a relay that is not ready: see its log",
}
_PROXY_REFUSALS = dict.fromkeys(
    (400, 404, 405, 426),
    "the load balancer does not pass Upgrade and Connection on, or another path",
)

Result = TypeVar("Result")
Said = (
    deepgram.ServerMessage | deepgram.Mended | deepgram.Unknown | deepgram.Malformed | None
)  # None: closed


class HopFailed(Exception):
    """Reported already; what comes behind it on this way cannot be looked at."""


class Doctor:
    """`seconds` is what one hop may take."""

    def __init__(self, settings: Settings, egress: Egress, report: Report, seconds: float) -> None:
        self._settings = settings
        self._egress = egress
        self._report = report
        self._seconds = seconds

    # --- one way, hop by hop -----------------------------------------------------------------

    async def _hop(self, name: str, where: str, work: Awaitable[Result]) -> Result:
        """What `work` gives in time. Raises `HopFailed`, reported, where it does not."""
        try:
            async with asyncio.timeout(self._seconds):
                return await work
        except OSError as error:
            self._fail(name, error, where)
            raise HopFailed from None

    @asynccontextmanager
    async def _walk(self, name: str, url: str) -> AsyncIterator[tuple[Route, Streams]]:
        """Up to TLS; yields what is open. Raises `HopFailed`."""
        route = Route(url, self._egress)
        first = f"{name} proxy" if route.proxy else name
        next_hop, target = f"{route.next_host}:{route.next_port}", f"{route.host}:{route.port}"
        addresses = await self._hop(f"{first} dns", route.next_host, route.resolve())
        self._report.ok(f"{first} dns", f"{route.next_host} is {', '.join(addresses[:3])}")
        await self._hop(f"{first} connect", next_hop, route.connect())
        self._report.ok(f"{first} connect", f"{next_hop} answers")
        async with AsyncExitStack() as stack:
            tunnel = stack.enter_async_context(route.tunnel())
            streams = await self._hop(f"{name} proxy tunnel", target, tunnel)
            if route.proxy:
                self._report.ok(f"{name} proxy tunnel", f"to {target}")
            await self._secure(name, route, streams)
            yield route, streams

    async def _secure(self, name: str, route: Route, streams: Streams) -> None:
        if not route.secure:
            self._report.add(
                f"{name} tls", "warning" if _is_far(route) else "skipped", "not encrypted"
            )
            return
        try:
            async with asyncio.timeout(self._seconds):
                shown = await route.secure_with(streams, self._egress.make_tls())
        except OSError as error:
            await self._explain_tls(name, route, error)
            raise HopFailed from None
        until = shown.ends.date().isoformat()
        detail = f"{shown.version}, {route.host} by {shown.issuer}, until {until}"
        if shown.ends - datetime.now(UTC) < SOON:
            self._report.add(f"{name} tls", "warning", detail, "the certificate ends soon")
        else:
            self._report.ok(f"{name} tls", detail)

    async def _explain_tls(self, name: str, route: Route, error: OSError) -> None:
        said = ""
        if isinstance(error, ssl.SSLCertVerificationError):
            try:
                async with asyncio.timeout(self._seconds):
                    said = _describe(await route.show_certificate())
            except OSError:
                pass  # what we know will have to do
        word, _, advice = network_errors.explain(error).partition(": ")
        self._report.fail(f"{name} tls", f"{word}: {route.host}{said}", advice)

    def _fail(self, hop: str, error: Exception, where: str) -> None:
        word, _, advice = network_errors.explain(error).partition(": ")
        self._report.fail(hop, f"{word}: {where}", advice)

    # --- the agent ---------------------------------------------------------------------------

    async def look_at_agent(self, configuration: Configuration, *, settings: bool) -> None:
        url = self._settings.deepgram_agent_url
        async with self._walk("agent", url) as (route, streams):
            with suppress(HopFailed):
                await self._look_at_clock(route, streams)
        await self._open_session(configuration, settings=settings)

    async def _look_at_clock(self, route: Route, streams: Streams) -> None:
        asked = route.ask(streams, {"Connection": "close"})
        answer = await self._hop("agent http", route.host, asked)
        if answer.date is None:
            self._report.add("clock", "skipped", "the agent says no date")
            return
        skew = (datetime.now(UTC) - answer.date).total_seconds()
        if abs(skew) > SKEW_SECONDS:
            wrong = f"this machine is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
            self._report.fail("clock", wrong, "synchronise the clock: signatures and tokens fail")
        else:
            self._report.ok("clock", f"within {SKEW_SECONDS:.0f} s of the agent's")

    async def _open_session(self, configuration: Configuration, *, settings: bool) -> None:
        known = self._settings
        dialler = Dialler(
            known.deepgram_agent_url,
            known.deepgram_api_key.reveal(),
            ping_seconds=known.ping_seconds,
            seconds=self._seconds,
            max_message_bytes=known.max_message_bytes,
            egress=self._egress,
        )
        said: asyncio.Queue[Said] = asyncio.Queue(100)
        connection = Connection(SendQueue(1 << 16), max_message_bytes=known.max_message_bytes)
        gone = asyncio.Event()
        connection.listen(_Listener(said, gone))
        try:
            async with asyncio.timeout(self._seconds):
                await dialler.dial(connection)
        except DialFailed as error:
            self._refused(error)
            return
        except TimeoutError as error:
            self._fail("agent upgrade", error, "no answer to the upgrade")
            return
        self._report.ok("agent upgrade", "101 Switching Protocols")
        try:
            if await self._expect(said, deepgram.Welcome, "agent welcome") and settings:
                connection.queue.send_text(deepgram.encode(make_settings(configuration)))
                await self._expect(said, deepgram.SettingsApplied, "agent settings")
        finally:
            connection.close(close_codes.NORMAL, "")
            await gone.wait()  # within a second

    async def _expect(
        self,
        said: asyncio.Queue[Said],
        kind: type[deepgram.Welcome] | type[deepgram.SettingsApplied],
        hop: str,
    ) -> bool:
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    message = await said.get()
                    match message:
                        case None:
                            self._report.fail(hop, "the agent closed", "is it the Voice Agent API?")
                            return False
                        case deepgram.Error(code=code, description=description):
                            advice = f"it says: {description[:300]}"
                            self._report.fail(hop, f"Error {code}", advice)
                            return False
                    if isinstance(message, kind):
                        self._report.ok(hop, f"{kind.__name__} came")
                        return True
        except TimeoutError:
            advice = "is DEEPGRAM_AGENT_URL the Voice Agent API?"
            self._report.fail(hop, f"no {kind.__name__} in {self._seconds:g} s", advice)
            return False

    def _refused(self, error: DialFailed) -> None:
        if error.status is None:
            word, _, advice = str(error).partition(": ")
            self._report.fail("agent upgrade", word, advice)
            return
        body = error.body.decode("utf-8", "replace")[:300]
        detail = f"HTTP {error.status}: {body}" if body else f"HTTP {error.status}"
        known = "it has a problem of its own: try again, or ask who runs it"
        self._report.fail("agent upgrade", detail, _REFUSALS.get(error.status, known))

    # --- the rest ----------------------------------------------------------------------------

    async def look_at_orchestrator(self) -> None:
        url = self._settings.orchestrator_url
        async with self._walk("orchestrator", url) as (route, streams):
            asked = route.ask(streams, {"Connection": "close"})
            answer = await self._hop("orchestrator answer", route.host, asked)
        if answer.status >= 500:
            advice = "it answers with an error of its own: look at its log"
            self._report.add("orchestrator answer", "warning", f"HTTP {answer.status}", advice)
        else:
            self._report.ok("orchestrator answer", f"HTTP {answer.status} to a GET without token")

    async def look_at_database(self) -> None:
        report = self._report
        url = self._settings.database_url.reveal()
        try:
            seen = await inspect(url)
        except ConnectFailed as error:
            report.fail("database connect", str(error))
            return
        version = f"PostgreSQL {seen.version}"
        report.ok("database connect", version)
        ignored = ignored_parameters(url)
        if ignored:
            advice = "they are of other client libraries; nothing has to be done"
            report.add("database url", "skipped", f"ignored: {', '.join(ignored)}", advice)
        if not OLDEST_POSTGRES <= seen.version <= NEWEST_POSTGRES:
            wanted = f"{OLDEST_POSTGRES} to {NEWEST_POSTGRES} are tested"
            too_old = seen.version < OLDEST_POSTGRES
            report.add("database version", "failed" if too_old else "warning", version, wanted)
        if seen.read_only:
            advice = "it is a standby, or it or the account is set so: use the primary"
            report.fail("database writable", "it takes no writes", advice)
        if not seen.hears:
            advice = "a pooler in transaction mode: other relays' wishes are seen 5 s later"
            report.add("database notices", "warning", "no notice comes", advice)
        self._look_at_account(seen)

    def _look_at_account(self, seen: Inspected) -> None:
        """What the account may do and see, and so which migrations."""
        report = self._report
        if seen.lacking:
            advice = "grant it to the account of DATABASE_URL, as docs/deploy.md has it"
            report.fail("database privileges", f"missing: {', '.join(seen.lacking)}", advice)
        if seen.hidden:
            advice = "run `voice-relay migrate` as their owner, and sign in without a role"
            hides = f"row security hides {', '.join(seen.hidden)}"
            report.fail("database row security", hides, advice)
        if not seen.applied and (seen.lacking or seen.hidden):
            report.add("database migrations", "skipped", "the account may not see which there are")
            return
        try:
            pending = find_pending(load_migrations(), seen.applied)
        except MigrationError as error:
            report.fail("database migrations", str(error))
            return
        if pending:
            names = ", ".join(migration.name for migration in pending)
            report.fail("database migrations", f"not applied: {names}", "voice-relay migrate")
        else:
            report.ok("database migrations", f"{len(seen.applied)} applied")

    def look_at_data_dir(self) -> None:
        folder = self._settings.data_dir.expanduser().absolute()
        there = next(one for one in (folder, *folder.parents) if one.exists())
        try:
            with tempfile.TemporaryFile(dir=there) as trial:
                trial.write(b"x")
                trial.flush()
        except OSError as error:
            advice = "make it writable, or set RELAY_DATA_DIR"
            self._report.fail("data dir", f"{there}: {error.strerror or error}", advice)
            return
        free = shutil.disk_usage(there).free
        detail = f"{folder}, {free >> 20} MiB free"
        if free < self._settings.journal_bytes:
            advice = "the journal may want RELAY_JOURNAL_BYTES: make room"
            self._report.add("data dir", "warning", detail, advice)
        else:
            self._report.ok("data dir", detail)

    async def look_at_keys(self) -> None:
        url = self._settings.jwt_jwks_url
        if self._settings.auth != "jwt" or url is None:
            return
        keys = Jwks(Remote(self._egress, url))
        async with keys.running():
            try:
                await keys.find(None)
            except KeysUnavailable:
                advice = "the log line above says why; check RELAY_JWT_JWKS_URL"
                self._report.fail("sign-in keys", "no keys to check tokens with", advice)
                return
        self._report.ok("sign-in keys", f"{urlsplit(url).hostname} has them")

    async def look_at_public_url(self) -> None:
        """A ticket that is none, from every page that may connect: the answer has to be our 401."""
        public = self._settings.public_url
        if public is None:
            self._report.add("public url", "skipped", "RELAY_PUBLIC_URL is not set")
            return
        url = make_websocket_url(public, NOBODY)
        for origin in sorted(allowed_origins(self._settings)):
            async with self._walk("public url", url) as (route, streams):
                await self._ask_ourselves(route, streams, origin)

    async def _ask_ourselves(self, route: Route, streams: Streams, origin: str) -> None:
        hop = "public url upgrade"
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol": "relay.v1, doctor",
            "Origin": origin,
        }
        answer = await self._hop(hop, route.host, route.ask(streams, upgrade))
        ours = answer.headers.get("content-type", "").startswith("application/problem+json")
        detail = f"HTTP {answer.status} for a page of {origin}"
        if answer.status == 401 and ours:
            self._report.ok(hop, f"it reaches a relay, and a page of {origin} may connect")
        else:
            advice = "something before the relay answers: look at it"
            known = _RELAY_REFUSALS if ours else {}
            advice = known.get(answer.status) or _PROXY_REFUSALS.get(answer.status, advice)
            self._report.fail(hop, detail, advice)


async def examine(
    environ: Mapping[str, str], *, settings: bool = False, seconds: float = 10.0
) -> Report:
    """Everything that `environ` describes; `settings`: show the agent our Settings as well."""
    report = Report()
    try:
        known = _read_settings(environ, report)
        report.secrets = _find_secrets(known)
        egress = Egress(known)
        configuration = load(known.config_dir, environ)
    except ConfigError as error:
        for problem in error.problems:
            report.fail("settings", problem)
        return report
    doctor = Doctor(known, egress, report, seconds)
    doctor.look_at_data_dir()
    await doctor.look_at_database()
    with suppress(HopFailed):
        await doctor.look_at_agent(configuration, settings=settings)
    with suppress(HopFailed):
        await doctor.look_at_orchestrator()
    await doctor.look_at_keys()
    with suppress(HopFailed):
        await doctor.look_at_public_url()
    return report


def make_settings(configuration: Configuration) -> deepgram.Settings:
    """As a session would send them now, in UTC, but without a greeting: nobody would hear it."""
    agent = configuration.agent
    prompt = configuration.prompt.render(
        today=datetime.now(UTC).date(), time_zone="UTC", registry=configuration.registry
    )
    section = agent_section(agent, prompt=prompt, functions=configuration.registry.functions())
    section.pop("greeting", None)
    return deepgram.Settings(agent=section, **session_section(agent, agent.audio))


def _read_settings(environ: Mapping[str, str], report: Report) -> Settings:
    known = from_environment(environ)
    if known.auth is None:
        advice = "`serve` does not start without it: jwt, or mock"
        report.fail("settings", "RELAY_AUTH is not set", advice)
    elif known.auth == "mock":
        report.add("settings", "warning", "RELAY_AUTH=mock", "everybody is the same user")
    else:
        report.ok("settings", "right, each for itself")
    return known


def _find_secrets(settings: Settings) -> list[str]:
    """Every text that must not be shown: the secrets, and the passwords in the URLs among them."""
    found = []
    for value in msgspec.structs.astuple(settings):
        if isinstance(value, Secret):
            text = value.reveal()
            found += [text, *passwords(text)]
    return found


def _describe(shown: Certificate) -> str:
    names = ", ".join(shown.names[:5])
    return f" shows {names or shown.subject}, by {shown.issuer}, until {shown.ends.date()}"


def _is_far(route: Route) -> bool:
    return route.host not in ("localhost", "127.0.0.1", "::1")


class _Listener(Handler):
    """Puts what the agent says into a queue, None at its end."""

    def __init__(self, said: asyncio.Queue[Said], gone: asyncio.Event) -> None:
        self._said = said
        self._gone = gone

    def on_text(self, text: bytes) -> None:
        self._put(deepgram.decode_server(text))

    def on_closed(self, code: int, reason: str) -> None:
        self._put(None)

    def on_gone(self) -> None:
        self._gone.set()

    def _put(self, item: Said) -> None:
        if not self._said.full():
            self._said.put_nowait(item)
