"""`voice-relay doctor`: walks every way that this program takes, and names the hop that fails.

Control plane, a program of its own. It changes nothing and costs no more than an open socket: at
most one session with each agent, closed after its `Welcome` (with `settings`, after
`SettingsApplied`), to which no audio is sent. No call reaches the Orchestrator, only one GET
without a token.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import msgspec

from config.database_url import ignored_parameters, is_exposed, passwords
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
from control.doctor.probe import Probe, describe, find_names
from control.doctor.report import Report, Status
from control.http.client import Remote
from relay.protocol import close_codes, deepgram
from relay.transport import network_errors
from relay.transport.connection import Connection
from relay.transport.connection_handler import Handler
from relay.transport.dial import DialFailed, Dialler
from relay.transport.egress import Egress
from relay.transport.send_queue import SendQueue

SKEW_SECONDS = 30.0  # more than that, and signatures and tokens are refused
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

OF_OTHERS = "they are of other client libraries; nothing has to be done"
STANDBY = "it is a standby, or it or the account is set so: use the primary"
POOLER = "a pooler in transaction mode: other relays' wishes are seen 5 s later"
GRANT = "as the owner of the tables: voice-relay migrate --grant ACCOUNT"
ENCRYPT = "sslmode=require in DATABASE_URL, or better verify-full"
OWNER = "run `voice-relay migrate` as their owner, and sign in without a role"

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "relay.v1, doctor",
}


class _TrustAll(Egress):
    """For a look at a certificate that is not to be trusted."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE


class _Way(NamedTuple):
    """To one agent, and the variable that says where it is."""

    name: str
    url: str
    variable: str


class Doctor:
    """`seconds` is what one hop may take."""

    def __init__(self, settings: Settings, egress: Egress, report: Report, seconds: float) -> None:
        self._settings = settings
        self._egress = egress
        self._report = report
        self._seconds = seconds

    async def _ask(
        self, name: str, url: str, last: str, headers: dict[str, str] | None = None
    ) -> httpx.Response | None:
        """What a GET is answered; None: a hop has failed, and is reported."""
        probe = Probe(name, url, self._egress, self._report, last=last)
        try:
            return await probe.ask(headers or {}, self._seconds)
        except (OSError, UnicodeError, httpx.HTTPError) as error:
            where = probe.where
            if network_errors.find_word(error) in ("tls_untrusted", "tls_expired", "tls_name"):
                where += await self._describe_certificate(name, url)
            self._fail(probe.hop, error, where)
            return None

    async def _describe_certificate(self, name: str, url: str) -> str:
        probe = Probe(name, url, _TrustAll(self._settings), Report(), last="certificate")
        with suppress(OSError, httpx.HTTPError):  # what we know will have to do
            await probe.ask({}, self._seconds)
        shown = probe.certificate
        return f" shows {find_names(shown)}, {describe(shown)}" if shown else ""

    def _fail(self, hop: str, error: Exception, where: str) -> None:
        word, _, advice = network_errors.explain(error).partition(": ")
        self._report.fail(hop, f"{word}: {where}", advice)

    # --- the agent ---------------------------------------------------------------------------

    async def look_at_agents(self, configuration: Configuration, *, settings: bool) -> None:
        known = self._settings
        ways = [_Way("agent", known.deepgram_agent_url, "DEEPGRAM_AGENT_URL")]
        if fallback := known.deepgram_agent_fallback_url:
            ways.append(_Way("fallback", fallback, "DEEPGRAM_AGENT_FALLBACK_URL"))
        for way in ways:
            answer = await self._ask(way.name, way.url, "http")
            if answer is not None:
                if way is ways[0]:
                    self._look_at_clock(answer.headers.get("Date", ""))
                await self._open_session(way, configuration, settings=settings)

    def _look_at_clock(self, date: str) -> None:
        try:
            said = parsedate_to_datetime(date)
        except ValueError:
            self._report.add("clock", "skipped", "the agent says no date")
            return
        skew = datetime.now(UTC).timestamp() - said.replace(tzinfo=said.tzinfo or UTC).timestamp()
        detail = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the agent's"
        advice = "synchronise the clock: signatures and tokens fail"
        self._report.judge("clock", abs(skew) <= SKEW_SECONDS, detail, advice)

    async def _open_session(
        self, way: _Way, configuration: Configuration, *, settings: bool
    ) -> None:
        known = self._settings
        dialler = Dialler(
            way.url,
            known.deepgram_api_key.reveal,
            ping_seconds=known.ping_seconds,
            seconds=self._seconds,
            max_message_bytes=known.max_message_bytes,
            egress=self._egress,
        )
        connection = Connection(SendQueue(1 << 16), max_message_bytes=known.max_message_bytes)
        agent = _Listener()
        connection.listen(agent)
        try:
            async with asyncio.timeout(self._seconds):
                await dialler.dial(connection)
        except DialFailed as error:
            self._refused(way, error)
            return
        except TimeoutError as error:
            self._fail(f"{way.name} upgrade", error, "no answer to the upgrade")
            return
        self._report.ok(f"{way.name} upgrade", "101 Switching Protocols")
        try:
            if await self._expect(way, agent, deepgram.Welcome, "welcome") and settings:
                connection.queue.send_text(deepgram.encode(make_settings(configuration)))
                await self._expect(way, agent, deepgram.SettingsApplied, "settings")
        finally:
            connection.close(close_codes.NORMAL, "")
            await agent.gone.wait()  # within a second

    async def _expect(
        self, way: _Way, agent: _Listener, kind: type[deepgram.Message], what: str
    ) -> bool:
        hop = f"{way.name} {what}"
        try:
            async with asyncio.timeout(self._seconds):
                said = await agent.said.get()
                while not isinstance(said, kind | deepgram.Error | None):
                    said = await agent.said.get()
        except TimeoutError:
            advice = f"is {way.variable} the Voice Agent API?"
            self._report.fail(hop, f"no {kind.__name__} in {self._seconds:g} s", advice)
            return False
        match said:
            case None:
                self._report.fail(hop, "the agent closed", "is it the Voice Agent API?")
            case deepgram.Error(code=code, description=description):
                self._report.fail(hop, f"Error {code}", f"it says: {description[:300]}")
            case _:
                self._report.ok(hop, f"{kind.__name__} came")
        return isinstance(said, kind)

    def _refused(self, way: _Way, error: DialFailed) -> None:
        hop = f"{way.name} upgrade"
        if error.status is None:
            word, _, advice = str(error).partition(": ")
            self._report.fail(hop, word, advice)
            return
        body = error.body.decode("utf-8", "replace")[:300]
        detail = f"HTTP {error.status}: {body}" if body else f"HTTP {error.status}"
        known = "it has a problem of its own: try again, or ask who runs it"
        advice = _REFUSALS.get(error.status, known).replace("DEEPGRAM_AGENT_URL", way.variable)
        self._report.fail(hop, detail, advice)

    # --- the rest ----------------------------------------------------------------------------

    async def look_at_orchestrator(self) -> None:
        answer = await self._ask("orchestrator", self._settings.orchestrator_url, "answer")
        if answer is None:
            return
        detail = f"HTTP {answer.status_code} to a GET without token"
        advice = "it answers with an error of its own: look at its log"
        is_well = answer.status_code < 500
        self._report.judge("orchestrator answer", is_well, detail, advice, "warning")

    async def look_at_database(self) -> None:
        url = self._settings.database_url.reveal()
        try:
            direct = self._settings.database_direct_url
            seen = await inspect(url, direct.reveal() if direct else None)
        except ConnectFailed as error:
            self._report.fail("database connect", str(error))
            return
        version = f"PostgreSQL {seen.version}"
        tested = f"{OLDEST_POSTGRES} to {NEWEST_POSTGRES} are tested"
        ignored, lacking, hidden = map(
            ", ".join, (ignored_parameters(url), seen.lacking, seen.hidden)
        )
        # Whether it is so, and then: the hop, its status, the detail, the advice.
        findings: list[tuple[object, str, Status, str, str]] = [
            (True, "connect", "ok", version, ""),
            (ignored, "url", "skipped", f"ignored: {ignored}", OF_OTHERS),
            (is_exposed(url), "tls", "warning", "another machine, without TLS", ENCRYPT),
            (seen.version < OLDEST_POSTGRES, "version", "failed", version, tested),
            (seen.version > NEWEST_POSTGRES, "version", "warning", version, tested),
            (seen.read_only, "writable", "failed", "it takes no writes", STANDBY),
            (not seen.hears, "notices", "warning", "no notice comes", POOLER),
            (lacking, "privileges", "failed", f"missing: {lacking}", GRANT),
            (hidden, "row security", "failed", f"row security hides {hidden}", OWNER),
            self._look_at_migrations(seen),
        ]
        for is_so, hop, status, detail, advice in findings:
            if is_so:
                self._report.add(f"database {hop}", status, detail, advice)

    def _look_at_migrations(self, seen: Inspected) -> tuple[bool, str, Status, str, str]:
        if not seen.applied and (seen.lacking or seen.hidden):
            return True, "migrations", "skipped", "the account may not see which there are", ""
        try:
            pending = find_pending(load_migrations(), seen.applied)
        except MigrationError as error:
            return True, "migrations", "failed", str(error), ""
        if pending:
            names = ", ".join(migration.name for migration in pending)
            return True, "migrations", "failed", f"not applied: {names}", "voice-relay migrate"
        return True, "migrations", "ok", f"{len(seen.applied)} applied", ""

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
        advice = "the journal may want RELAY_JOURNAL_BYTES: make room"
        has_room = free >= self._settings.journal_bytes
        self._report.judge("data dir", has_room, detail, advice, "warning")

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
            answer = await self._ask("public url", url, "upgrade", UPGRADE | {"Origin": origin})
            if answer is None:
                return
            self._judge_upgrade(answer, origin)

    def _judge_upgrade(self, answer: httpx.Response, origin: str) -> None:
        hop, status = "public url upgrade", answer.status_code
        ours = answer.headers.get("Content-Type", "").startswith("application/problem+json")
        if status == 401 and ours:
            self._report.ok(hop, f"it reaches a relay, and a page of {origin} may connect")
            return
        known = _PROXY_REFUSALS | (_RELAY_REFUSALS if ours else {})
        advice = known.get(status, "something before the relay answers: look at it")
        self._report.fail(hop, f"HTTP {status} for a page of {origin}", advice)


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
    await doctor.look_at_agents(configuration, settings=settings)
    await doctor.look_at_orchestrator()
    await doctor.look_at_keys()
    await doctor.look_at_public_url()
    return report


def make_settings(configuration: Configuration) -> deepgram.Settings:
    """As a session would send them now, in UTC, but without a greeting: nobody would hear it."""
    made = configuration.make_settings(datetime.now(UTC).date())
    made["agent"].pop("greeting", None)
    return deepgram.Settings(**made)


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


class _Listener(Handler):
    """Puts what the agent says into a queue, None at its end."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[object | None] = asyncio.Queue()
        self.gone = asyncio.Event()

    def on_text(self, text: bytes) -> None:
        self.said.put_nowait(deepgram.decode_server(text))

    def on_closed(self, code: int, reason: str) -> None:
        self.said.put_nowait(None)

    def on_gone(self) -> None:
        self.gone.set()
