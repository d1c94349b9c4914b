"""The HTTP client to the Orchestrator: one attempt to deliver one `Submission`.

It never raises for an error of the network or for anything the other side answers: such things
become `Rejected`, `Failed` or `Delayed`, with a reason that the model can say aloud. Who asks
decides whether to ask again.

What an answer means:

* 2xx: taken. The JSON body is the result; a body that is not JSON is kept as text, cleaned and
  shortened; an empty, unreadable or oversized body gives None. The status alone decides, because
  an intent that was taken must never be told as failed and asked for again.
* 408, 425, 429 and 5xx: a passing failure. `Retry-After` is passed on, up to `LONGEST_WAIT`.
* 409 to a request that is in doubt: its first copy may still be at work, so this is passing too.
  The Orchestrator is well, so it does not count for the breaker.
* Any other 4xx: final, with the reason of the body.
* 3xx: `Failed`. A redirect is a mistake in the settings, and the parameters do not follow it.

After failures of some different calls the breaker opens: nobody is asked for a while.

Every request has a connection of its own. One that was used before may be closed by the other side
in the moment in which we send, and nobody can tell then whether the request arrived.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from config.nesting import is_deeper
from control.db.rows import storable
from control.http.client import open_client, release
from control.outbox.circuit_breaker import CircuitBreaker, State
from relay.functions.submission import (
    UNCERTAIN,
    Delayed,
    Failed,
    Outcome,
    Rejected,
    Submission,
    Submitted,
)
from relay.telemetry.log_context import outgoing
from relay.transport import network_errors
from relay.transport.egress import Egress
from relay.transport.retry_after import read_retry_after

log = logging.getLogger(__name__)

MAX_BODY = 1 << 20  # bytes of an answer that we are willing to read
MAX_REASON = 300  # characters: the model says it aloud
MAX_TEXT = 2_000  # characters of a 2xx body that is not JSON
MAX_DEPTH = 64  # objects and arrays inside one another in an answer that is read
LONGEST_WAIT = 300.0  # seconds; who says a day may be well in a minute
CONNECT_TIMEOUT = 3.0  # leaves room for a second try within an ordinary budget
PASSING = frozenset({408, 425, 429})  # with every 5xx: may go better next time
OURS_TO_FIX = frozenset({401, 403, 405, 407})  # a wrong token or URL, not a wrong intent
AT_WORK = "status 409"  # to a request that is in doubt
CONNECTIONS = 100  # to the Orchestrator, at once
REASONS = ("detail", "title", "error", "message", "msg")  # fields of an error body

HEADER_SAFE = "!#$&'*+-.^_`|~:/@=()[]{}<>?,;"  # what a call id keeps as it is

UNREACHABLE = "the planner cannot be reached at the moment"
BROKEN_OFF = "the connection to the planner broke, so it is not certain that this was saved"
BUSY = "the planner has a problem at the moment"
MISPLACED = "the planner is not set up correctly"


class Orchestrator:
    """Carries submissions to one Orchestrator. The client belongs to the caller, who closes it.

    `clock` (monotonic seconds) and `wall` (Unix seconds) are arguments: a test needs no time.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        client: httpx.AsyncClient,
        *,
        secret: str | None = None,
        proxied: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        address, mark, query = url.partition("?")
        self._address = address.rstrip("/")
        self._query = mark + query  # may hold a key: it stays, behind an intent's path
        self._token = token
        self._secret = secret
        self._proxied = proxied
        self._client = client
        self._clock = clock
        self._wall = wall
        self._circuit_breaker = CircuitBreaker()

    def __repr__(self) -> str:
        parts = urlsplit(self._address)
        return (
            f"<Orchestrator {parts.scheme}://{parts.hostname} {self._circuit_breaker.state.name}>"
        )

    @property
    def state(self) -> State:
        """Whether it is asked at all."""
        return self._circuit_breaker.state

    @property
    def wait(self) -> float:
        """Seconds until it makes sense to ask again; 0: now."""
        return self._circuit_breaker.wait(self._clock())

    async def submit(self, submission: Submission) -> Outcome:
        """One attempt, of `submission.seconds` in all."""
        if not self._circuit_breaker.enter(self._clock()):
            return Delayed(
                reason=UNREACHABLE, cause="breaker open", attempts=0, unsent=True, wait=self.wait
            )
        began = self._clock()
        deadline = asyncio.get_running_loop().time() + submission.seconds
        try:
            outcome, cause = await self._attempt(submission, deadline)
        except BaseException:
            self._circuit_breaker.abandoned()
            raise
        if isinstance(outcome, Delayed) and cause != AT_WORK:
            self._circuit_breaker.failed(submission.call_id, self._clock())
        else:
            self._circuit_breaker.succeeded()
        if cause:
            log.warning(
                "orchestrator_failed intent=%s key=%s seconds=%.2f reason=%s",
                submission.intent.name,
                submission.call_id[:80],
                self._clock() - began,
                cause,
            )
        return outcome

    async def _attempt(self, submission: Submission, deadline: float) -> tuple[Outcome, str]:
        """What came of it; and for the log, why it did not go well."""
        try:
            response = await self._send(submission, deadline)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, AttributeError) as error:
            return _explain(error, proxied=self._proxied)
        try:
            body = await self._body(response, deadline)
        finally:
            await release(response)
        status, cause = response.status_code, f"status {response.status_code}"
        if 200 <= status < 300:
            text = _clean(body[: 8 * MAX_TEXT].decode("utf-8", "replace"), MAX_TEXT)
            return Submitted(_read_json(body, text or None), 1), ""
        if status < 400:
            return Failed(MISPLACED, 1), cause
        if status >= 500 or status in PASSING or (cause == AT_WORK and submission.in_doubt):
            wait = min(read_retry_after(response.headers.get("Retry-After", "")), LONGEST_WAIT)
            return Delayed(reason=BUSY, cause=cause, attempts=1, wait=wait), cause
        log.log(
            logging.WARNING if status in OURS_TO_FIX else logging.INFO,
            "orchestrator_rejected intent=%s key=%s status=%d",
            submission.intent.name,
            submission.call_id[:80],
            status,
        )
        result = _read_json(body)
        reason = _reason(result) if isinstance(result, dict) else ""
        return Rejected(reason or f"the planner refused it with {cause}", result, 1), ""

    async def _send(self, submission: Submission, deadline: float) -> httpx.Response:
        seconds = submission.seconds
        wanted = {
            "intent": submission.intent.name,
            "parameters": submission.parameters,
            "user_id": submission.user_id,
            "conversation_id": submission.conversation_id,
            "call_id": storable(submission.call_id),  # as the outbox will read it
        }
        body = msgspec.json.encode(wanted)
        request = self._client.build_request(
            "POST",
            self._address + submission.intent.path + self._query,
            content=body,
            headers={
                **make_headers(self._token, self._secret, int(self._wall()), body),
                **outgoing(),
                "Connection": "close",
                "Accept": "application/json, application/problem+json",
                "Accept-Encoding": "identity",  # what we bound is what arrives
                "Content-Type": "application/json",
                # The id is made by a language model; an ordinary one passes unchanged.
                "Idempotency-Key": quote(storable(submission.call_id), safe=HEADER_SAFE),
            },
            timeout=httpx.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT)),
        )
        async with asyncio.timeout_at(deadline):
            return await self._client.send(request, stream=True, follow_redirects=False)

    async def _body(self, response: httpx.Response, deadline: float) -> bytes:
        """Empty: too long, or it broke off. The status has been said by then and counts."""
        body = bytearray()
        try:
            async with asyncio.timeout_at(deadline):
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_BODY:
                        return b""
        except (httpx.HTTPError, TimeoutError):
            return b""
        return bytes(body)


@asynccontextmanager
async def connect(
    url: str, token: str | None, secret: str | None = None, *, egress: Egress
) -> AsyncIterator[Orchestrator]:
    """An Orchestrator with a client of its own, closed on leaving."""
    async with open_client(egress, url, connections=CONNECTIONS) as client:
        proxied = egress.find_proxy(url) is not None
        yield Orchestrator(url, token, client, secret=secret, proxied=proxied)


def make_headers(token: str | None, secret: str | None, at: int, signed: bytes) -> dict[str, str]:
    """Who asks, at this Unix second. `signed` is the body; of a GET the query, as it is sent."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if secret is not None:
        headers["X-Voice-Signature"] = f"t={at},v1={sign(secret, at, signed)}"
    return headers


def sign(secret: str, at: int, body: bytes) -> str:
    """The `v1` of a signature: who knows the secret sent this body at this Unix second."""
    return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()


def _explain(error: Exception, *, proxied: bool) -> tuple[Outcome, str]:
    """What a request that got no answer amounts to; and for the log, why."""
    cause = type(error).__name__  # its text may quote the URL
    word = network_errors.find_word(error, proxied=proxied)
    if word != network_errors.NOTHING:
        cause = f"{cause} {word}"
    match error:
        case httpx.InvalidURL() | httpx.UnsupportedProtocol() | httpx.LocalProtocolError():
            return Failed(MISPLACED, 1), cause
        # A proxy that refuses has passed nothing on.
        case (
            httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout() | httpx.ProxyError()
        ):
            return Delayed(reason=UNREACHABLE, cause=cause, attempts=1, unsent=True), cause
        case httpx.TimeoutException() | TimeoutError():
            return Delayed(reason=UNCERTAIN, cause=cause, attempts=1), cause
    # An AttributeError, too: anyio on uvloop asks a connection for its peer that was reset as it
    # opened, and there is none any more. The call would have failed for good.
    return Delayed(reason=BROKEN_OFF, cause=cause, attempts=1), cause


def _read_json(body: bytes, otherwise: str | None = None) -> Any:
    """Of what is nested so deep that nobody can pass it on, nothing is read."""
    if not body or is_deeper(body, MAX_DEPTH):
        return otherwise
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return otherwise


def _reason(said: Any) -> str:
    """The best sentence in an error body: RFC 9457 first, then what others write."""
    match said:
        case str():
            return _clean(said, MAX_REASON)
        case dict():  # {"error": {"message": "..."}} is one, too
            return next(filter(None, (_reason(said.get(field)) for field in REASONS)), "")
        case list():  # {"detail": [{"loc": ..., "msg": "..."}]}
            return _clean("; ".join(filter(None, map(_reason, said[:5]))), MAX_REASON)
    return ""


def _clean(text: str, longest: int) -> str:
    """One line without control characters, shortened."""
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
