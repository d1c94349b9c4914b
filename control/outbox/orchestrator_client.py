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
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from config.nesting import is_deeper
from control.db.rows import storable
from control.http.client import open_client
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
CONNECTIONS = 100  # to the Orchestrator, at once

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)
HEADER_SAFE = "!#$&'*+-.^_`|~:/@=()[]{}<>?,;"  # what a call id keeps as it is

UNREACHABLE = "the planner cannot be reached at the moment"
SILENT = UNCERTAIN
BROKEN_OFF = "the connection to the planner broke, so it is not certain that this was saved"
BUSY = "the planner has a problem at the moment"
MISPLACED = "the planner is not set up correctly"


class _AttemptFailed(Exception):
    """An attempt that did not settle the matter. `cause` is for the log, `reason` for the model.

    `unsent`: nothing can have arrived, so another attempt cannot double anything. `well`: the
    Orchestrator has no problem.
    """

    def __init__(
        self,
        reason: str,
        cause: str,
        *,
        unsent: bool = False,
        wait: float = 0.0,
        well: bool = False,
    ) -> None:
        super().__init__(cause)
        self.reason = reason
        self.cause = cause
        self.unsent = unsent
        self.wait = wait
        self.well = well


class _Final(Exception):
    """An answer that no further attempt would change."""

    def __init__(self, reason: str, cause: str) -> None:
        super().__init__(cause)
        self.reason = reason
        self.cause = cause


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
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}
        self._secret = secret
        self._proxied = proxied
        self._client = client
        self._clock = clock
        self._wall = wall
        self._circuit_breaker = CircuitBreaker(_log_change)

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
        try:
            return await self._settle(submission)
        except BaseException:
            self._circuit_breaker.abandoned()
            raise

    async def _settle(self, submission: Submission) -> Outcome:
        began = self._clock()
        well = True
        try:
            outcome = await self._attempt(submission, began + submission.seconds)
            cause = ""
        except _Final as final:
            outcome = Failed(final.reason, 1)
            cause = final.cause
        except _AttemptFailed as failed:
            well, cause = failed.well, failed.cause
            outcome = Delayed(
                reason=failed.reason,
                cause=cause,
                attempts=1,
                unsent=failed.unsent,
                wait=failed.wait,
            )
        if well:
            self._circuit_breaker.succeeded()
        else:
            self._circuit_breaker.failed(submission.call_id, self._clock())
        if cause:
            log.warning(
                "orchestrator_failed intent=%s call=%r seconds=%.2f cause=%s",
                submission.intent.name,
                submission.call_id[:80],
                self._clock() - began,
                cause,
            )
        return outcome

    async def _attempt(self, submission: Submission, deadline: float) -> Outcome:
        response = await self._send(submission, deadline)
        try:
            body = await self._body(response, deadline)
        finally:
            await response.aclose()
            response.stream = httpx.ByteStream(b"")  # httpx's own knows the response: a cycle
        status = response.status_code
        if 200 <= status < 300:
            return Submitted(_result(body), 1)
        at_work = status == 409 and submission.in_doubt
        if 400 <= status < 500 and status not in PASSING and not at_work:
            level = logging.WARNING if status in OURS_TO_FIX else logging.INFO
            log.log(
                level,
                "orchestrator_rejected intent=%s call=%r status=%d",
                submission.intent.name,
                submission.call_id[:80],
                status,
            )
            result = _json(body)
            reason = _reason(result) or f"the planner refused it with status {status}"
            return Rejected(reason, result, 1)
        if status < 400:
            raise _Final(MISPLACED, f"status {status}")
        wait = min(read_retry_after(response.headers.get("Retry-After", "")), LONGEST_WAIT)
        raise _AttemptFailed(BUSY, f"status {status}", wait=wait, well=at_work)

    async def _send(self, submission: Submission, deadline: float) -> httpx.Response:
        left = max(deadline - self._clock(), 0.001)
        body = _encode(submission)
        try:
            request = self._client.build_request(
                "POST",
                self._address + submission.intent.path + self._query,
                content=body,
                headers={
                    **self._authorization,
                    **self._signature(body),
                    "Connection": "close",
                    "Accept": "application/json, application/problem+json",
                    "Accept-Encoding": "identity",  # what we bound is what arrives
                    "Content-Type": "application/json",
                    "Idempotency-Key": _header_safe(submission.call_id),
                },
                timeout=httpx.Timeout(left, connect=min(left, CONNECT_TIMEOUT)),
            )
            async with asyncio.timeout(left):
                return await self._client.send(request, stream=True, follow_redirects=False)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            _raise_failure(error, proxied=self._proxied)
        except AttributeError as error:
            # anyio on uvloop asks a connection for its peer that was reset as it opened, and there
            # is none any more. Without this an accepted call would have failed for good.
            raise _AttemptFailed(BROKEN_OFF, type(error).__name__) from error

    def _signature(self, body: bytes) -> dict[str, str]:
        if self._secret is None:
            return {}
        at = int(self._wall())
        return {"X-Voice-Signature": f"t={at},v1={sign(self._secret, at, body)}"}

    async def _body(self, response: httpx.Response, deadline: float) -> bytes | None:
        """None: too long, or it broke off. The status has been said by then and counts."""
        body = bytearray()
        try:
            async with asyncio.timeout(max(deadline - self._clock(), 0.001)):
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_BODY:
                        return None
        except (httpx.HTTPError, TimeoutError):
            return None
        return bytes(body)


@asynccontextmanager
async def connect(
    url: str, token: str | None, secret: str | None = None, *, egress: Egress
) -> AsyncIterator[Orchestrator]:
    """An Orchestrator with a client of its own, closed on leaving."""
    async with open_client(egress, url, connections=CONNECTIONS) as client:
        proxied = egress.find_proxy(url) is not None
        yield Orchestrator(url, token, client, secret=secret, proxied=proxied)


def sign(secret: str, at: int, body: bytes) -> str:
    """The `v1` of a signature: who knows the secret sent this body at this Unix second."""
    return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()


def _log_change(state: State) -> None:
    log.warning("orchestrator_breaker state=%s", state.name.lower())


def _raise_failure(
    error: httpx.HTTPError | httpx.InvalidURL | TimeoutError, *, proxied: bool
) -> NoReturn:
    cause = type(error).__name__  # its text may quote the URL
    word = network_errors.find_word(error, proxied=proxied)
    if word != network_errors.NOTHING:
        cause = f"{cause} {word}"
    match error:
        # A proxy that refuses has passed nothing on.
        case (
            httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout() | httpx.ProxyError()
        ):
            raise _AttemptFailed(UNREACHABLE, cause, unsent=True) from error
        case httpx.InvalidURL() | httpx.UnsupportedProtocol() | httpx.LocalProtocolError():
            raise _Final(MISPLACED, cause) from error
        case httpx.TimeoutException() | TimeoutError():
            raise _AttemptFailed(SILENT, cause) from error
    raise _AttemptFailed(BROKEN_OFF, cause) from error


def _encode(submission: Submission) -> bytes:
    return msgspec.json.encode(
        {
            "intent": submission.intent.name,
            "parameters": submission.parameters,
            "user_id": submission.user_id,
            "conversation_id": submission.conversation_id,
            "call_id": storable(submission.call_id),  # as the outbox will read it
        }
    )


def _header_safe(call_id: str) -> str:
    # The id is made by a language model; an ordinary one passes unchanged.
    return quote(storable(call_id), safe=HEADER_SAFE)


def _decode(body: bytes) -> Any:
    """Raises one of `_UNREADABLE`, also if it is nested so deep that nobody can pass it on."""
    if is_deeper(body, MAX_DEPTH):
        raise msgspec.DecodeError("nested too deep")
    return msgspec.json.decode(body)


def _json(body: bytes | None) -> Any:
    try:
        return _decode(body) if body else None
    except _UNREADABLE:
        return None


def _result(body: bytes | None) -> Any:
    if not body:
        return None
    try:
        return _decode(body)
    except _UNREADABLE:
        return _clean(body.decode("utf-8", "replace"), MAX_TEXT) or None


def _reason(problem: Any) -> str:
    """The best sentence in an error body: RFC 9457 first, then what others write."""
    if not isinstance(problem, dict):
        return ""
    for field in ("detail", "title", "error", "message"):
        reason = _sentence(problem.get(field))
        if reason:
            return reason
    return ""


def _sentence(value: Any) -> str:
    match value:
        case str():
            return _clean(value, MAX_REASON)
        case dict():  # {"error": {"message": "..."}}
            return _clean(str(value.get("message") or value.get("detail") or ""), MAX_REASON)
        case list():  # {"detail": [{"loc": ..., "msg": "..."}]}
            said = [str(each.get("msg") or "") for each in value[:5] if isinstance(each, dict)]
            return _clean("; ".join(filter(None, said)), MAX_REASON)
    return ""


def _clean(text: str, longest: int) -> str:
    """One line without control characters, shortened."""
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
